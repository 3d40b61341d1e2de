"""The options of an experiment, from a study file's plain values."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from coterie.errors import UserError, unknown_name

T = TypeVar("T")


def read_options(kind: type[T], options: Mapping[str, Any], experiment: str) -> T:
    """The options as an object of the experiment's dataclass.

    Args:
        kind: A dataclass with a default for every field; a field that is a dataclass itself takes a mapping of what
            differs from the default, and one that is a tuple takes a list.
        options: By name.
        experiment: Its name, for errors.

    Raises:
        UserError: An option is unknown, or not of its field's type.
    """
    defaults: Any = kind()
    values: dict[str, Any] = {}
    for name, value in options.items():
        if name not in {field.name for field in fields(defaults)}:
            raise unknown_name(f"option of {experiment}", name, [field.name for field in fields(defaults)])
        default = getattr(defaults, name)
        if is_dataclass(default):
            if not isinstance(value, Mapping):
                raise UserError(f"{experiment}: {name} is {value!r}; use a mapping of what differs")
            inherited = {field.name: getattr(default, field.name) for field in fields(default)}
            values[name] = read_options(type(default), {**inherited, **value}, f"{experiment}: {name}")
        else:
            values[name] = _plain(value, default, f"{experiment}: {name}")
    return kind(**values)


def _plain(value: Any, default: Any, name: str) -> Any:
    if isinstance(default, tuple):
        if not isinstance(value, (list, tuple)) or not all(_is_number(each) for each in value):
            raise UserError(f"{name} is {value!r}; use a list of numbers, as {list(default)}")
        return tuple(value)
    if isinstance(default, str):
        return str(value)
    if not _is_number(value) or (isinstance(default, int) and value != int(value)):
        kind = "whole number" if isinstance(default, int) else "number"
        raise UserError(f"{name} is {value!r}; use a {kind}, as {default}")
    return type(default)(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
