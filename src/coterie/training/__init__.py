"""The stage runner."""

from coterie.console.interrupt import Interrupted
from coterie.training.loop import train
from coterie.training.options import TrainingOptions
from coterie.training.recipes import RECIPES, OfficialCode, Paper, Recipe, Transformer, recipe_class

__all__ = [
    "RECIPES",
    "Interrupted",
    "OfficialCode",
    "Paper",
    "Recipe",
    "TrainingOptions",
    "Transformer",
    "recipe_class",
    "train",
]
