"""Whether values are what type hints say: options from Python, YAML and the shell, and files that came from elsewhere.

One check for all of them: the hint of a dataclass's field, of a function's parameter or of a TypedDict's key says what
may stand there, ``Annotated[float, Bounds(...)]`` says its range, and what is wrong is one line that names the place.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from inspect import signature
from math import isfinite
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from coterie.bounds import Bounds
from coterie.errors import UserError, option_of, show_value, unknown_name
from coterie.files import user_path

T = TypeVar("T")


def check_value(where: str, value: Any, hint: Any, note: str = "") -> Any:
    """The value, if it is what the hint says; lists become tuples where the hint wants tuples.

    Args:
        where: Names the place in the error's line, such as ``⟨method.temperature⟩`` for an option (see
            :class:`~coterie.errors.UserError`).
        value: What stands there.
        hint: A type hint: numbers (finite ones), text, truth values, ``Literal``, ``None``, unions, tuples, lists,
            mappings, TypedDicts, dataclasses (also from a mapping of their fields), ``Annotated`` with
            :class:`Bounds`, ``Callable``, any class, ``Any``.
        note: Ends the line, such as ``" (default 3)"``.

    Returns:
        The value in plain Python types: NumPy's numbers as ``int`` and ``float``.

    Raises:
        UserError: It is not.
    """
    options = _alternatives(hint)
    for option in options:
        if _fits(value, option):
            return _convert(where, value, option, note)
    choices = [choice for option in options if get_origin(option) is Literal for choice in get_args(option)]
    words = dict.fromkeys(_words(option) for option in options if option not in (NoneType, None))
    if choices and len(words) == 1 and isinstance(value, str):
        raise unknown_name(where, value, [choice for choice in choices if isinstance(choice, str)])
    raise UserError(f"{where} is {show_value(value)}; write {' or '.join(words)}{note}")


def check_fields(instance: Any, section: str | None = None, skip: Collection[str] = ()) -> None:
    """Check every field of a dataclass against its type hint, and put the checked values in place.

    Args:
        instance: The object; changed in place where a value is converted.
        section: Of the command line, such as ``method``; empty for options without one, None for what is no option.
        skip: Fields that are left alone.

    Raises:
        UserError: A value is not what its hint says.
    """
    hints = hints_of(type(instance))
    for field in fields(instance):
        if field.name not in skip:
            value = getattr(instance, field.name)
            checked = check_value(option_of(section, field.name), value, hints[field.name], _default_of(field))
            if checked is not value:
                object.__setattr__(instance, field.name, checked)


def check_arguments(
    function: Callable[..., Any], arguments: Mapping[str, Any], section: str | None = None
) -> dict[str, Any]:
    """Check a function's arguments, by name, against its type hints.

    Args:
        function: The function.
        arguments: Some or all of its arguments.
        section: As for :func:`check_fields`.

    Returns:
        The checked values.

    Raises:
        UserError: A name is no parameter, or a value is not what its hint says.
    """
    hints, known = hints_of(function), signature(function).parameters
    for name in arguments:
        if name not in known:
            raise unknown_name("option" if not section else f"option of ⟨{section}⟩", name, known)
    return {name: check_value(option_of(section, name), value, hints[name]) for name, value in arguments.items()}


def make_checked(kind: type[T], where: str, content: Any, *, others: bool = False) -> T:
    """A dataclass, or a TypedDict's mapping, from a mapping of its fields.

    Args:
        kind: The dataclass or TypedDict.
        where: Names the place in the error's line.
        content: The mapping.
        others: Whether keys that the kind does not have are left out (of a TypedDict: kept) rather than refused: those
            of a newer version.

    Raises:
        UserError: A key is unknown or missing, or a value is not what its hint says.
    """
    hints, needed = hints_of(kind), _needed(kind)
    check_names(where, content, hints if not others else None, needed)
    checked = {
        name: check_value(f"{where}, {name}", value, hints[name]) for name, value in content.items() if name in hints
    }
    if is_typeddict(kind):
        return {**content, **checked}  # type: ignore[return-value]
    try:
        return kind(**checked)
    except UserError as error:  # from a check of several fields together
        raise UserError(f"{where}: {error}") from error


def check_names(
    where: str, content: Any, known: Collection[str] | None = None, needed: Collection[str] = ()
) -> Mapping[str, Any]:
    """The content, if it is a mapping with these keys.

    Args:
        where: Names the place in the error's line.
        content: What stands there.
        known: The keys that may be there; None for any.
        needed: The keys that must be.

    Raises:
        UserError: It is no mapping, a key is unknown, or one is missing.
    """
    if not isinstance(content, Mapping):
        raise UserError(f"{where} is {show_value(content)}; write a mapping of names to values")
    for name in map(str, content):
        if known is not None and name not in known:
            raise unknown_name(f"key of {where}", name, known)
    if missing := [f"'{name}'" for name in needed if name not in content]:
        raise UserError(f"{where}: {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")
    return content


def hints_of(owner: Any) -> dict[str, Any]:
    """The type hints of a class or function, bounds included."""
    hints = get_type_hints(owner, include_extras=True)
    return {name: get_args(hint)[0] if get_origin(hint) is NotRequired else hint for name, hint in hints.items()}


def _needed(kind: type) -> list[str]:
    if is_typeddict(kind):
        return sorted(kind.__required_keys__)  # type: ignore[attr-defined]
    return [field.name for field in fields(kind) if field.default is MISSING and field.default_factory is MISSING]


def _default_of(field: "Field[Any]") -> str:
    """Said behind a wrong value where there is a plain default."""
    default = field.default
    if isinstance(default, bool) or not isinstance(default, int | float | str):
        return ""
    return f" (default {default:.4g})" if isinstance(default, float) else f" (default {default})"


def _alternatives(hint: Any) -> list[Any]:
    """The members of a union, those of unions in it among them; the hint itself where it is none."""
    if hint is None:
        return [NoneType]
    if get_origin(hint) in (Union, UnionType):
        return [option for member in get_args(hint) for option in _alternatives(member)]
    return [hint]


def _fits(value: Any, hint: Any) -> bool:
    """Whether the value is of the hint's kind, whatever is in it."""
    kind = get_origin(hint) or hint
    if kind is Any:
        return True
    if kind is Annotated:
        return _fits(value, get_args(hint)[0])
    if kind is Literal:
        return any(value == choice and type(value) is type(choice) for choice in get_args(hint))
    if kind is bool:
        return isinstance(value, bool)
    if kind in (int, float):
        number = Integral if kind is int else Real
        return isinstance(value, number) and not isinstance(value, bool)
    if kind in (tuple, list) or kind is Sequence:
        return isinstance(value, list | tuple)
    if is_typeddict(kind) or kind in (dict, Mapping):
        return isinstance(value, Mapping)
    if isinstance(kind, type) and is_dataclass(kind):
        return isinstance(value, kind | Mapping)
    if kind is Callable:
        return callable(value)
    if isinstance(kind, type) and issubclass(kind, PathLike):
        return isinstance(value, str | PathLike)
    return isinstance(value, kind)


def _convert(where: str, value: Any, hint: Any, note: str) -> Any:
    """The value with all that is in it checked; its kind is right."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind is Annotated:
        if inner[0] is float and any(not bounds.finite for bounds in inner[1:] if isinstance(bounds, Bounds)):
            return float(value)
        return _within(where, _convert(where, value, inner[0], note), inner[1:], note)
    if kind is int:
        return int(value)
    if kind is float:
        if not isfinite(value):
            raise UserError(f"{where} is {value}; use a finite number{note}")
        return value if type(value) in (int, float) else float(value)
    if kind in (tuple, list) or kind is Sequence:
        return _convert_list(where, value, kind, inner)
    if is_typeddict(kind) or (isinstance(kind, type) and is_dataclass(kind) and isinstance(value, Mapping)):
        return make_checked(kind, where, value)
    if kind is Path:
        return user_path(value)
    if kind in (dict, Mapping) and inner:
        return {_key(where, name, inner[0]): check_value(f"{where}, {name}", value[name], inner[1]) for name in value}
    return value


def _convert_list(where: str, value: Sequence[Any], kind: Any, inner: tuple[Any, ...]) -> Any:
    hints = [inner[0]] * len(value) if inner and (kind is not tuple or inner[-1] is Ellipsis) else list(inner)
    if not inner:
        hints = [Any] * len(value)
    if len(hints) != len(value):
        raise UserError(f"{where} has {len(value)} values; write {len(hints)}")
    items = [
        check_value(f"{where}, item {place}", item, item_hint)
        for place, (item, item_hint) in enumerate(zip(value, hints, strict=True), 1)
    ]
    if kind is list:
        return items
    if kind is Sequence and all(item is before for item, before in zip(items, value, strict=True)):
        return value
    return tuple(items)


def _key(where: str, name: Any, hint: Any) -> Any:
    """A mapping's key; YAML makes truth values and numbers of some words, which JSON would make into text."""
    if any(_fits(name, option) for option in _alternatives(hint)):
        return name
    text = {True: "yes", False: "no"}[name] if isinstance(name, bool) else name
    raise UserError(f"{where}: {show_value(name)} is no {'text' if hint is str else _words(hint)}; write '\"{text}\"'")


def _within(where: str, value: Any, notes: Sequence[Any], default: str) -> Any:
    for bounds in notes:
        if isinstance(bounds, Bounds) and not bounds.hold(value):
            raise UserError(f"{where} is {value}; use {_number(value, bounds)}{default}")
    return value


def _number(value: Any, bounds: Bounds) -> str:
    return f"a number {bounds}" if bounds.least is None or bounds.most is not None else repr(bounds)


def _words(hint: Any) -> str:
    """What may stand there, for people."""
    kind = get_origin(hint) or hint
    if kind is Annotated:
        base, *notes = get_args(hint)
        return " ".join([_words(base), *(repr(note) for note in notes if isinstance(note, Bounds))])
    if kind is Literal:
        return " or ".join(f"'{choice}'" if isinstance(choice, str) else str(choice) for choice in get_args(hint))
    if is_typeddict(kind) or (isinstance(kind, type) and is_dataclass(kind)):
        return f"a mapping of {', '.join(hints_of(kind))}"
    if isinstance(kind, type) and issubclass(kind, PathLike):
        return "a path"
    return _WORDS.get(kind) or f"a {getattr(kind, '__name__', kind)}"


_WORDS: dict[Any, str] = {
    str: "text, in quotes",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    tuple: "a list",
    list: "a list",
    Sequence: "a list",
    dict: "a mapping of names to values",
    Mapping: "a mapping of names to values",
    Callable: "a function",
}
