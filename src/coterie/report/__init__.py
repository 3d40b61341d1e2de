"""A page that people read."""

from coterie.report.page import report

__all__ = ["report"]
