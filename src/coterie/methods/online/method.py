"""The space of online distillation: peers that learn together and teach each other while they learn.

Every published online method is a point of one space: the peers (branches, or whole networks), the aggregator that
combines them into an ensemble, and who teaches whom with which temperature, weight and ramp. With z (B, m, C) the
peers' logits, e (B, C) the ensemble's, y (B,) the labels, and for each lesson soft targets q (B, s, t, C) of t
teachers for each of s students:

    L = a Σ_i CE(z_i, y) + b CE(e, y) + Σ_lessons v w(t) T² Σ_s mean_t KL(softmax(q_st / T) ‖ softmax(z_s / T))

Sums are over peers and students, means over the batch. :class:`Online` composes a point from its parts; a published
method is an :class:`OnlineMethod` that names its own.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from typing import Any

from coterie.checking import check_value, make_checked
from coterie.errors import unknown_name
from coterie.methods.base import Edge, Method, Spec, Stage
from coterie.methods.online import engine
from coterie.methods.online.config import Point, Teaches
from coterie.methods.online.peers import Branched, Independent


class OnlineMethod(Method):
    """A published online method: it names its point, and the engine does the rest."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.point()  # which checks itself

    @abstractmethod
    def point(self) -> Point:
        """Where in the space the method is."""

    def stages(self, spec: Spec) -> Iterator[Stage]:
        """One stage, ``train``; it delivers ``target``, independent peers by name, and ``ensemble``."""
        yield engine.stage(self, self.point(), spec)

    def teaching(self) -> Sequence[Edge]:
        """Who teaches whom."""
        return self.point().edges()


@dataclass(kw_only=True)
class Online(OnlineMethod, Point):
    """An online method of your own, composed of the parts of the published ones.

    Example: three branches, of which the target learns from the mean of the others, and they from its moving average:

        Online(
            network="resnet32",
            peers=Branched(num=3),
            aggregator="mean",
            teaches=(
                Teaches(source="mean", among=(1, 2), to=(0,)),
                Teaches(source="mean", among=(0,), to=(1, 2), temperature=1, averaged=True),
            ),
            average=0.999,
        )
    """

    name = "online"
    summary = "a method of your own: peers, an aggregator, and who teaches whom"

    # Of the types of Point, or mappings of plain values, as a run's configuration holds them.
    peers: Any = field(default_factory=Branched)
    teaches: Sequence[Any] = (Teaches(),)

    def __post_init__(self) -> None:
        self.peers = _make_part(self.peers, "--method.peers", Branched, Independent)
        lessons = check_value("--method.teaches", self.teaches, list)
        self.teaches = tuple(_make_part(lesson, "--method.teaches", Teaches) for lesson in lessons)
        Point.__post_init__(self)

    def point(self) -> Point:
        """Itself."""
        return self


def _make_part(value: Any, where: str, *kinds: type) -> Any:
    """An object of one of these kinds, from itself or from a mapping of its ``kind`` and attributes."""
    if not isinstance(value, Mapping):
        return check_value(where, value, reduce(or_, kinds))
    names = {kind.__name__: kind for kind in kinds}
    kind = value.get("kind", next(iter(names)))
    if kind not in names:
        raise unknown_name(f"kind of {where}", str(kind), names)
    return make_checked(names[kind], where, {name: each for name, each in value.items() if name != "kind"})
