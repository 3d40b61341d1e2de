"""The published methods, one file each."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from inspect import isabstract
from typing import Any

from coterie.checking import check_names, check_value
from coterie.errors import UserError, show_value, unknown_name
from coterie.methods.base import Edge, Hooks, Method, ParameterGroup, Stage, Task, Turn
from coterie.methods.compact import Compact
from coterie.methods.ensemble import Ensemble
from coterie.methods.kd import Kd
from coterie.methods.meal import Meal
from coterie.methods.oem import Oem
from coterie.methods.online import (
    Branched,
    ClIlr,
    Distillation,
    Dml,
    Ffl,
    Independent,
    Kdcl,
    OkdDip,
    One,
    Online,
    OnlineConfig,
    OnlineMethod,
    Pcl,
)
from coterie.methods.self_distillation import SelfDistillation
from coterie.methods.snapshot import Snapshot
from coterie.methods.srm import Srm
from coterie.methods.vanilla import Vanilla
from coterie.networks.zoo import BackboneLike
from coterie.registry import Registry

_OWN: tuple[type[Method], ...] = (
    Vanilla,
    One,
    Dml,
    ClIlr,
    Kdcl,
    OkdDip,
    Ffl,
    Pcl,
    Oem,
    Online,
    Ensemble,
    Snapshot,
    Kd,
    SelfDistillation,
    Meal,
    Compact,
    Srm,
)


def find_fault(name: str, item: Any) -> str | None:
    """Why something is no method of this name; None where it is one."""
    if not (isinstance(item, type) and issubclass(item, Method) and not isabstract(item) and is_dataclass(item)):
        return "is no method; write a dataclass that derives from coterie.methods.Method and has stages()"
    if getattr(item, "name", None) != name:
        return f"is named '{getattr(item, 'name', '')}'; name both alike"
    return None if getattr(item, "summary", None) else "has no summary; write one line about it"


METHODS: Registry[type[Method]] = Registry(
    "method", "coterie.methods", {method.name: method for method in _OWN}, find_fault
)

__all__ = [
    "METHODS",
    "Branched",
    "ClIlr",
    "Compact",
    "Distillation",
    "Dml",
    "Edge",
    "Ensemble",
    "Ffl",
    "Hooks",
    "Independent",
    "Kd",
    "Kdcl",
    "Meal",
    "Method",
    "Oem",
    "OkdDip",
    "One",
    "Online",
    "OnlineConfig",
    "OnlineMethod",
    "ParameterGroup",
    "Pcl",
    "SelfDistillation",
    "Snapshot",
    "Srm",
    "Stage",
    "Task",
    "Turn",
    "Vanilla",
    "make_method",
    "method_class",
]


def method_class(name: str) -> type[Method]:
    """The method of this name, see :class:`~coterie.registry.Registry`.

    Raises:
        UserError: There is none, names the nearest; or another package's cannot be imported.
    """
    if ":" in name:
        raise UserError(f"method '{name}' names code to import, which no file may; name it on the command line alone")
    return METHODS.find(name)


def make_method(
    record: Mapping[str, Any], network: BackboneLike, where: str, own: Method | type[Method] | None = None
) -> Method:
    """A method from its ``name`` and options as plain values, such as a file's.

    Args:
        record: The mapping.
        network: The backbone.
        where: Names the record in the error's line.
        own: The user's method of that name, or an object of it, where it is not known by name. Of an object its own
            options hold.

    Raises:
        UserError: The name or an option is unknown, or an option's value is wrong.
    """
    check_names(where, record, needed=("name",))
    name = check_value(f"{where}, name", record["name"], str)
    options = {option: value for option, value in record.items() if option != "name"}
    try:
        if own is not None and (given := getattr(own, "name", show_value(own))) != name:
            raise UserError(f"the method is '{name}', and {given} was given; give the class, or an object of it")
        if isinstance(own, Method):
            return replace(own, network=network)
        kind = method_class(name) if own is None else own
        known = [field.name for field in fields(kind) if field.name != "network"]
        for option in options:
            if option not in known:
                raise unknown_name(f"option of method '{name}'", str(option), known)
        return kind(network=network, **options)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
