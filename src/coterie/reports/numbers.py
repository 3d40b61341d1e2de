"""Figures as the pages and the console print them."""

from math import isfinite

from coterie.studies.results import unit_of


def format_number(value: float, metric: str = "error") -> str:
    """Percentages with two decimals, other metrics with three digits; a true minus sign."""
    said = f"{value:.2f}" if unit_of(metric) else f"{value:.3g}"
    return said.replace("-", "−")


def format_signed(value: float, metric: str = "error") -> str:
    """A difference, with its sign."""
    return f"{'+' if value > 0 else ''}{format_number(value, metric)}"


def format_interval(low: float, high: float, metric: str = "error") -> str:
    """The ends of an interval."""
    return f"[{format_signed(low, metric)}, {format_signed(high, metric)}]"


def format_p(p: float) -> str:
    """With what it takes to be read: never more than three decimals, never 0."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def format_effect(value: float) -> str:
    """Cohen's d_z, or a dash where there is none."""
    return format_signed(value) if isfinite(value) else "–"
