"""Pages that people read, from Runs and from studies."""

from typing import TYPE_CHECKING

from coterie.lazy import lazy_names

if TYPE_CHECKING:
    from coterie.reports.page import report

__all__ = ["report"]

# matplotlib and jinja2 are loaded where a page is drawn.
__getattr__, __dir__ = lazy_names(__name__, {"report": "coterie.reports.page"})
