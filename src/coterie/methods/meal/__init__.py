"""Adversarial multi-teacher distillation, and all that serves it alone."""

from coterie.methods.meal.method import Meal

__all__ = ["Meal"]
