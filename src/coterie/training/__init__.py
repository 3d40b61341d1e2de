"""The stage runner."""

from coterie.training.interrupt import Interrupted
from coterie.training.recipes import RECIPES, OfficialCode, Paper, Recipe, Transformer, recipe_class
from coterie.training.train import train

__all__ = ["RECIPES", "Interrupted", "OfficialCode", "Paper", "Recipe", "Transformer", "recipe_class", "train"]
