"""The published methods, one file each."""

from coterie.errors import unknown_name
from coterie.methods.base import Method, Spec, Stage, Turn
from coterie.methods.ensemble import Ensemble
from coterie.methods.kd import Kd
from coterie.methods.one import One
from coterie.methods.self_distillation import SelfDistillation
from coterie.methods.snapshot import Snapshot
from coterie.methods.vanilla import Vanilla

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        Vanilla,
        One,
        Ensemble,
        Snapshot,
        Kd,
        SelfDistillation,
    )
}

__all__ = [
    "METHODS",
    "Ensemble",
    "Kd",
    "Method",
    "One",
    "SelfDistillation",
    "Snapshot",
    "Spec",
    "Stage",
    "Turn",
    "Vanilla",
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
