"""The published methods, one file each."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from coterie.checking import check_names, check_value
from coterie.errors import UserError, unknown_name
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

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
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
}

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
    """The method of this name.

    Raises:
        UserError: There is none; names the nearest.
    """
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    return METHODS[name]


def make_method(record: Mapping[str, Any], network: BackboneLike, where: str) -> Method:
    """A method from its ``name`` and options as plain values, such as a file's.

    Args:
        record: The mapping.
        network: The backbone.
        where: Names the record in the error's line.

    Raises:
        UserError: The name or an option is unknown, or an option's value is wrong.
    """
    check_names(where, record, needed=("name",))
    name = check_value(f"{where}, name", record["name"], str)
    options = {option: value for option, value in record.items() if option != "name"}
    try:
        kind = method_class(name)
        known = [field.name for field in fields(kind) if field.name != "network"]
        for option in options:
            if option not in known:
                raise unknown_name(f"option of method '{name}'", str(option), known)
        return kind(network=network, **options)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
