"""What the data room says of its own accord, and how names of files may stand on a terminal."""

import logging
import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

log = logging.getLogger("coterie")

# Control characters, line and paragraph separators, marks that turn the reading direction, and the surrogates by which
# Python holds bytes that are no UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_EXAMPLES = 3


@cache
def say_once(line: str) -> None:
    """A line for the user: once in a process, however often the data are loaded, and from the first process alone."""
    if os.environ.get("RANK", "0") == "0":
        log.warning("%s", line)


def is_printable(name: str) -> bool:
    """Whether a name is text that can be written to files and terminals as it is."""
    return _UNPRINTABLE.search(name) is None


def escape(name: str | Path) -> str:
    r"""A name for a terminal: what could steer it, and bytes that are no UTF-8, as escapes such as ``\x1b``."""
    return _UNPRINTABLE.sub(_escape_match, str(name))


def _escape_match(match: re.Match[str]) -> str:
    code = ord(match.group())
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00  # the byte that it stands for
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def plural(count: int, one: str, many: str | None = None) -> str:
    """``1 image``, ``2 images``."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def list_names(names: Sequence[str], most: int = _EXAMPLES) -> str:
    """Names after one another: the first of them, and how many more there are."""
    text = ", ".join(escape(name) for name in names[:most])
    return text + (f" and {len(names) - most} more" if len(names) > most else "")
