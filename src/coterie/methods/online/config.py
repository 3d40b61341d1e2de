"""A point of the space of online methods: who learns together, what combines them, and who teaches whom."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from coterie.bounds import NonNegative, NonNegativeInt, PositiveInt, Share, Temperature
from coterie.checking import check_fields
from coterie.errors import UserError
from coterie.methods.base import Edge
from coterie.methods.online.peers import Branched, Independent, Peers
from coterie.methods.online.targets import TARGETS

Aggregator = Literal["gate", "gate-softmax", "mean", "fused-features", "fused-maps"]
Source = Literal["ensemble", "mean", "others", "each", "attention", "best", "linear", "min-logit", "validated"]
Students = tuple[NonNegativeInt, ...] | Literal["all", "ensemble"]

# Of 300 epochs of CIFAR in batches of 128, for which papers state the decay of their averages.
AVERAGE_STEPS = 300 * 391


@dataclass(frozen=True, kw_only=True)
class Teaches:
    """One lesson: from whom, to whom, and how strongly.

    Attributes:
        source: What the soft targets are made of, see ``coterie.methods.online.targets``.
        among: Which peers they are made from; None for all.
        to: Who learns: ``all`` peers, the ``ensemble``, or peers by number.
        temperature: T > 0; None for the point's.
        weight: v >= 0.
        rampup: Share of the training over which the weight rises, 0 to 1; None for the point's.
        detach: Whether the targets are held fixed; otherwise the lesson's gradient reaches the teachers too.
        squared: Whether the lesson is multiplied by T².
        averaged: Whether the teachers are the peers' moving averages.
    """

    source: Source = "ensemble"
    among: tuple[NonNegativeInt, ...] | None = None
    to: Students = "all"
    temperature: Temperature | None = None
    weight: NonNegative = 1.0
    rampup: Share | None = None
    detach: bool = True
    squared: bool = True
    averaged: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "--method.teaches.")


@dataclass(kw_only=True)
class Point:
    """A point of the space.

    Attributes:
        peers: Who learns together: :class:`Branched` or :class:`Independent`.
        aggregator: What combines the peers into an ensemble: ``gate`` and ``gate-softmax`` read the shared trunk,
            ``mean`` averages logits, ``fused-features`` and ``fused-maps`` classify what all peers see.
        teaches: The lessons.
        temperature: T > 0 of the lessons.
        rampup: Share of the training over which the lessons' weight rises, 0 to 1; 0 for none.
        supervise: a, the weight of every peer's cross-entropy.
        supervise_ensemble: b, the weight of the ensemble's cross-entropy.
        own_views: Whether every peer sees an augmentation of its own.
        in_turn: Whether independent peers are updated one after another, each taught by what the others say by then.
        average: The decay that the peers' moving averages reach in a training of ``average_steps`` steps, 0 to 1;
            None without averages.
        average_steps: In a training of another length, their window is the same share of the training; None for
            ``average`` as it stands, whatever the length.
        combiner_decay: Weight decay of the aggregator's own parameters, as a multiple of the recipe's.
    """

    peers: Peers = field(default_factory=Branched)
    aggregator: Aggregator = "gate"
    teaches: Sequence[Teaches] = (Teaches(),)
    temperature: Temperature = 3.0
    rampup: Share = 0.0
    supervise: NonNegative = 1.0
    supervise_ensemble: NonNegative = 1.0
    own_views: bool = False
    in_turn: bool = False
    average: Share | None = None
    average_steps: PositiveInt | None = AVERAGE_STEPS
    combiner_decay: NonNegative = 1.0

    def __post_init__(self) -> None:
        check_fields(self, "--method.", skip=("network",))
        if self.peers.count < 1:
            option = "num_branches" if isinstance(self.peers, Branched) else "num_peers"
            raise UserError(f"--method.{option} is {self.peers.count}; use 1 or more")
        if self.aggregator.startswith("gate") and isinstance(self.peers, Independent):
            raise UserError("a gate reads a shared trunk, and independent peers have none; use aggregator='mean'")
        if self.in_turn and not (isinstance(self.peers, Independent) and self.aggregator == "mean"):
            raise UserError("peers are updated in turn only where they are independent and combined by their mean")
        for lesson in self.teaches:
            self._check(lesson)

    def _check(self, lesson: Teaches) -> None:
        named = {*self.among(lesson), *self.students(lesson)}
        if not named <= set(range(self.peers.count)):
            raise UserError(f"a lesson names peer {max(named)}, and there are {self.peers.count}, counted from 0")
        if lesson.averaged and self.average is None:
            raise UserError("a lesson of the peers' moving averages needs average=, their decay, for example 0.999")
        if lesson.averaged and self.in_turn:
            raise UserError("moving averages teach only where all peers learn at once; leave in_turn out")
        if lesson.source in ("others", "each") and len(self.among(lesson)) < 2:
            raise UserError(f"'{lesson.source}' needs two peers or more; there is one")

    def students(self, lesson: Teaches) -> tuple[int, ...]:
        """Who learns from a lesson, by number; none where it is the ensemble."""
        if lesson.to == "all":
            return tuple(range(self.peers.count))
        return () if lesson.to == "ensemble" else tuple(lesson.to)

    def among(self, lesson: Teaches) -> tuple[int, ...]:
        """Which peers a lesson's soft targets are made from."""
        return tuple(range(self.peers.count)) if lesson.among is None else tuple(lesson.among)

    def edges(self) -> list[Edge]:
        """The lessons as arrows between peers and what is made of them."""
        names = self.peers.names
        combined = any("ensemble" in (lesson.source, lesson.to) for lesson in self.teaches) or self.supervise_ensemble
        arrows = [Edge(name, "ensemble", self.aggregator, teaches=False) for name in names if combined]
        for lesson in self.teaches:
            students = [names[student] for student in self.students(lesson)] or ["ensemble"]
            sources = [names[peer] for peer in self.among(lesson)]
            temperature = self.temperature if lesson.temperature is None else lesson.temperature
            over_time = ", averaged over time" if lesson.averaged else ""
            label = f"{TARGETS[lesson.source].summary}{over_time}, T = {temperature:g}"
            if lesson.source == "ensemble":
                sources = ["ensemble"]
            elif lesson.source not in ("each", "others") and len(sources) > 1:
                made = TARGETS[lesson.source].summary
                arrows += [Edge(source, made, teaches=False) for source in sources]
                sources = [made]
            arrows += [Edge(source, to, label) for to in students for source in sources if source != to]
        return arrows
