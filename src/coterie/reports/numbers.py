"""Figures as the pages and the console print them."""

from math import isfinite

from coterie.studies.results import unit


def number(value: float, metric: str = "error") -> str:
    """Percentages with two decimals, other metrics with three digits; a true minus sign."""
    said = f"{value:.2f}" if unit(metric) else f"{value:.3g}"
    return said.replace("-", "−")


def signed(value: float, metric: str = "error") -> str:
    """A difference, with its sign."""
    return f"{'+' if value > 0 else ''}{number(value, metric)}"


def interval(low: float, high: float, metric: str = "error") -> str:
    """The ends of an interval."""
    return f"[{signed(low, metric)}, {signed(high, metric)}]"


def p_value(p: float) -> str:
    """With what it takes to be read: never more than three decimals, never 0."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def effect_size(value: float) -> str:
    """Cohen's d_z, or a dash where there is none."""
    return signed(value) if isfinite(value) else "–"
