"""Tables on a terminal, in a pipe or a log. Apart from what prints lines: rich takes longer to import than a line."""

import sys

from rich.console import Console

_ENDLESS = 10_000  # columns


def table_console() -> Console:
    """Prints tables: as wide as the terminal, and as wide as they are where there is none."""
    return _Console(highlight=False, width=None if sys.stdout.isatty() else _ENDLESS)


class _Console(Console):
    """Says that a pipe was closed in the way that printing does; rich would end the process with another code."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError
