"""A line of a notebook's cell that is written anew: a notebook is no terminal and knows no control characters."""

import sys
from collections.abc import Callable
from time import perf_counter
from types import TracebackType
from typing import Any, Self

WIDTH = 80
"""Columns of the line: how many a cell has is not known."""

_EVERY = 1.0  # seconds from one writing to the next


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this process; IPython's own prompt is a terminal."""
    ipython: Any = sys.modules.get("IPython")  # a kernel has it imported
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


class NotebookLine:
    """Shows a text in the cell that runs now, and in its place what the text is later, about once a second.

    Args:
        text: Gives it.
    """

    def __init__(self, text: Callable[[], str]) -> None:
        self.text = text
        self._written = 0.0
        self._handle: Any = None

    def __enter__(self) -> Self:
        from IPython.display import display

        self._handle = display(self._bundle(), raw=True, display_id=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._write()

    def refresh(self) -> None:
        """Write it anew, unless that was done a moment ago."""
        if perf_counter() - self._written > _EVERY:
            self._write()

    def _write(self) -> None:
        self._handle.update(self._bundle(), raw=True)

    def _bundle(self) -> dict[str, str]:
        self._written = perf_counter()
        return {"text/plain": self.text()}
