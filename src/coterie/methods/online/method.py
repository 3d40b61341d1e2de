"""The space of online distillation: peers that learn together and teach each other while they learn.

Every published online method is a point of one space: the peers (branches, or whole networks), the aggregator that
combines them into an ensemble, and who teaches whom with which temperature, weight and ramp. With z (B, m, C) the
peers' logits, e (B, C) the ensemble's, y (B,) the labels, and for each distillation soft targets q (B, s, t, C) of t
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
from coterie.methods.base import Edge, Method, Stage, Task
from coterie.methods.online import engine
from coterie.methods.online.config import Distillation, OnlineConfig
from coterie.methods.online.peers import Branched, Independent


class OnlineMethod(Method):
    """A published online method: it names its point, and the engine does the rest."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.point()  # which checks itself

    @abstractmethod
    def point(self) -> OnlineConfig:
        """Where in the space the method is."""

    def stages(self, task: Task) -> Iterator[Stage]:
        """One stage, ``train``; it delivers ``target``, independent peers by name, and ``ensemble``."""
        yield engine.stage(self, self.point(), task)

    def teaching(self) -> Sequence[Edge]:
        """Who teaches whom."""
        return self.point().edges()


@dataclass(kw_only=True)
class Online(OnlineMethod, OnlineConfig):
    """An online method of your own, composed of the parts of the published ones.

    Example: three branches, of which the target learns from the mean of the others, and they from its moving average:

        Online(
            network="resnet32",
            peers=Branched(num=3),
            aggregator="mean",
            distillations=(
                Distillation(source="mean", teachers=(1, 2), students=(0,)),
                Distillation(source="mean", teachers=(0,), students=(1, 2), temperature=1, from_ema=True),
            ),
            ema_decay=0.999,
        )
    """

    name = "online"
    summary = "a method of your own: peers, an aggregator, and who teaches whom"

    # Of the types of OnlineConfig, or mappings of plain values, as a run's configuration holds them.
    peers: Any = field(default_factory=Branched)
    distillations: Sequence[Any] = (Distillation(),)

    def __post_init__(self) -> None:
        self.peers = _make_part(self.peers, "⟨method.peers⟩", Branched, Independent)
        distillations = check_value("⟨method.distillations⟩", self.distillations, list)
        self.distillations = tuple(
            _make_part(distillation, "⟨method.distillations⟩", Distillation) for distillation in distillations
        )
        OnlineConfig.__post_init__(self)

    def point(self) -> OnlineConfig:
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
