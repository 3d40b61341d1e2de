"""Recipes by name: how a network is trained, whatever the method. Each field of a recipe can be overridden."""

from coterie.errors import unknown_name
from coterie.recipes.base import Recipe
from coterie.recipes.paper import OfficialCode, Paper
from coterie.recipes.transformer import Transformer

__all__ = ["RECIPES", "OfficialCode", "Paper", "Recipe", "Transformer", "recipe_class"]

RECIPES: dict[str, type[Recipe]] = {recipe.name: recipe for recipe in (Recipe, Paper, OfficialCode, Transformer)}


def recipe_class(name: str) -> type[Recipe]:
    """The recipe of this name.

    Raises:
        UserError: There is none; names the nearest.
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name]
