"""The stage runner."""

from coterie.console.interrupt import Interrupted
from coterie.recipes import RECIPES, OfficialCode, Paper, Recipe, Transformer, recipe_class
from coterie.training.loop import train
from coterie.training.options import TrainingOptions
from coterie.training.rate_test import find_rate

__all__ = [
    "RECIPES",
    "Interrupted",
    "OfficialCode",
    "Paper",
    "Recipe",
    "TrainingOptions",
    "Transformer",
    "find_rate",
    "recipe_class",
    "train",
]
