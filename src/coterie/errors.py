"""Errors that a user can mend."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """Bad input: one line that names the thing, says what is wrong with it, and how to mend it.

    The command line prints it without a traceback and exits with code 2.
    """


def in_a_line(error: BaseException) -> str:
    """What an error says, as one line of at most 300 characters; its kind before it where it is no user's mistake."""
    said = " ".join(str(error).split())[:300]
    return said if isinstance(error, UserError) else f"{type(error).__name__}: {said}"


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
