"""Recipes by name: how a network is trained, whatever the method. Each field of a recipe can be overridden."""

from coterie.errors import unknown_name
from coterie.recipes.base import Recipe, TrainingFacts
from coterie.recipes.finetune import Finetune
from coterie.recipes.modern import Modern
from coterie.recipes.paper import OfficialCode, Paper
from coterie.recipes.transformer import Transformer

__all__ = [
    "RECIPES",
    "Finetune",
    "Modern",
    "OfficialCode",
    "Paper",
    "Recipe",
    "TrainingFacts",
    "Transformer",
    "default_recipe",
    "recipe_class",
]

RECIPES: dict[str, type[Recipe]] = {
    recipe.name: recipe for recipe in (Recipe, Modern, Finetune, Transformer, Paper, OfficialCode)
}


def recipe_class(name: str) -> type[Recipe]:
    """The recipe of this name.

    Raises:
        UserError: There is none; names the nearest.
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name]


def default_recipe(from_published_weights: bool) -> str:
    """The name of the recipe where the user names none."""
    return Finetune.name if from_published_weights else Modern.name
