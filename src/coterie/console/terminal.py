"""What reaches a terminal, a pipe or a log: whole lines, of characters that do no harm there."""

import logging
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TextIO

from coterie.errors import name_options

# Each turns the reading direction of what follows: a name could pass for another.
_TURNS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

_flags: ContextVar[bool] = ContextVar("flags", default=False)


@contextmanager
def options_as_flags() -> Iterator[None]:
    """Let lines that mark options (:class:`~coterie.errors.UserError`) show the command line's flags, not arguments."""
    token = _flags.set(True)
    try:
        yield
    finally:
        _flags.reset(token)


def prepare_streams() -> None:
    """Let standard output and error escape what their encoding lacks instead of failing at it."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # a test's or a notebook's stream has none
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def printable(text: str) -> str:
    """A text in one line that a terminal shows as it is: control characters, such as ESC, and line ends escaped.

    Names of files and folders may hold any character, and bytes that are no UTF-8.
    """
    return "".join(char.encode("unicode_escape").decode() if _acts(char) else char for char in text)


def say(line: str, file: TextIO | None = None) -> None:
    """Print one line; None prints to standard output. Options that it marks are named as the user gives them.

    A pipe and a log get it whole. Above a progress bar standard error is rich's, which keeps the bar below the line.
    """
    print(printable(name_options(line, _flags.get())), file=file or sys.stdout)


def log_handler() -> logging.Handler:
    """Prints what the package logs, a line each, to what standard error is at that time."""
    return _LineHandler()


class _LineHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(f"coterie: {record.levelname.lower()}: {record.getMessage()}", sys.stderr)


def _acts(char: str) -> bool:
    return char in _TURNS or unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")
