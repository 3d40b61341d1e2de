"""Errors that a user can mend."""

import re
import shlex
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from numbers import Real
from typing import Any

_SHORT = {"start_from": "from"}  # no argument in Python can have this name
_OPTION = re.compile(r"⟨([\w.]+)(?: ([^⟩]*))?⟩")


class UserError(ValueError):
    """Bad input: one line that names the thing, says what is wrong with it, and how to mend it.

    The text marks options: ``⟨data.validation⟩``, or with a value ``⟨data.validation 0.1⟩``. To a caller in Python the
    error names the argument, ``validation=0.1``; the command line prints the flag, ``--data.validation 0.1``, without
    a traceback, and exits with code 2.
    """

    def __str__(self) -> str:
        return name_options(super().__str__())

    def with_flags(self) -> str:
        """The line as the command line prints it."""
        return name_options(super().__str__(), flags=True)


def name_options(text: str, flags: bool = False) -> str:
    """A text with the options that it marks as arguments of Python's, or as flags of the command line."""
    return _OPTION.sub(_as_flag if flags else _as_argument, text)


def option_of(section: str | None, name: str) -> str:
    """How a text marks an option; without a section of the command line's options, the name as it is."""
    return name if section is None else f"⟨{section}.{name}⟩" if section else f"⟨{name}⟩"


def _as_argument(match: re.Match[str]) -> str:
    name, value = match[1].rpartition(".")[2], match[2]
    if value is None:
        return name
    plain = value.title() if value in ("true", "false") else value
    return f"{name}={plain if plain in ('True', 'False') or not value[:1].isalpha() else repr(value)}"


def _as_flag(match: re.Match[str]) -> str:
    flag, switch = f"--{_SHORT.get(match[1], match[1])}", match[2] == "true" and "." not in match[1]
    return flag if match[2] is None or switch else f"{flag} {shlex.quote(match[2])}"


def in_a_line(error: BaseException) -> str:
    """What an error says, as one line of at most 300 characters; its kind before it where it is no user's mistake."""
    text = " ".join(str(error).split(". To learn more")[0].split())[:300]  # PyTorch's errors end with links
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}".removesuffix(": ")


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not in a registry, with the nearest names that are.

    Args:
        kind: What the name should have named, for example ``"network"``.
        name: What the user wrote.
        known: Every legal name.
    """
    known = sorted(set(known))
    spelt = {each.lower(): each for each in reversed(known)}  # `ONE` is near `one`
    near = [name.lower()] if name.lower() in spelt else get_close_matches(name.lower(), spelt, n=3, cutoff=0.5)
    nearest = [spelt[match] for match in near]
    if nearest:
        hint = "did you mean " + " or ".join(f"'{match}'" for match in nearest) + "?"
    else:
        hint = "known: " + ", ".join(known[:20]) + (", …" if len(known) > 20 else "")
    return UserError(f"unknown {kind} '{name}'; {hint}")


def show_value(value: Any) -> str:
    """A value for an error's line: short, on one line."""
    if value is None:
        return "empty"
    plain = isinstance(value, str | bytes | Real | list | tuple | Mapping)
    text = repr(value) if plain else f"an object of class {type(value).__name__}"
    text = " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:59]}…"
