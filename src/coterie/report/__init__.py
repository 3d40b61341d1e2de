"""A page that people read."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coterie.report.page import report

__all__ = ["report"]


def __getattr__(name: str) -> Any:
    """Its files are imported when a name is asked for: see the package above."""
    if name != "report":
        raise AttributeError(f"module 'coterie.report' has no attribute '{name}'")
    return import_module("coterie.report.page").report
