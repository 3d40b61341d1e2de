"""What an online method is made of: who learns together, what combines them, and who teaches whom."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from coterie.bounds import NonNegative, NonNegativeInt, PositiveInt, Share, Temperature
from coterie.checking import check_fields
from coterie.errors import UserError, unknown_name
from coterie.functional import check_divergence
from coterie.methods.base import Edge
from coterie.methods.online.aggregators import AGGREGATORS
from coterie.methods.online.peers import Branched, Independent, Peers
from coterie.methods.online.targets import TARGETS

Students = tuple[NonNegativeInt, ...] | Literal["all", "ensemble"]

# Of 300 epochs of CIFAR in batches of 128, for which papers state the decay of their averages.
EMA_STEPS = 300 * 391


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Who teaches whom, and how strongly.

    Attributes:
        source: What the soft targets are made of, a name of ``coterie.methods.online.TARGETS``.
        teachers: The peers that they are made from, by number; None for all.
        students: Who learns: ``all`` peers, the ``ensemble``, or peers by number.
        temperature: T > 0; None for the method's.
        weight: v >= 0.
        rampup: Share of the training over which the weight rises, 0 to 1; None for the method's.
        detach: Whether the targets are held fixed; otherwise the distillation's gradient reaches the teachers too.
        scale_by_t2: Whether the distillation is multiplied by T².
        from_ema: Whether the teachers are the peers' moving averages.
        loss: How far students are from their targets, a name of ``coterie.functional.DIVERGENCES``.
    """

    source: str = "ensemble"
    teachers: tuple[NonNegativeInt, ...] | None = None
    students: Students = "all"
    temperature: Temperature | None = None
    weight: NonNegative = 1.0
    rampup: Share | None = None
    detach: bool = True
    scale_by_t2: bool = True
    from_ema: bool = False
    loss: str = "kl"

    def __post_init__(self) -> None:
        check_fields(self, "method.distillations")
        if self.source not in TARGETS:
            raise unknown_name("source of a distillation", self.source, TARGETS)
        check_divergence(self.loss, "loss of a distillation")


@dataclass(kw_only=True)
class OnlineConfig:
    """An online method as its parts.

    Attributes:
        peers: Who learns together: :class:`Branched` or :class:`Independent`.
        aggregator: What combines the peers into an ensemble: ``gate`` and ``gate-softmax`` read the shared trunk,
            ``mean`` averages logits, ``fused-features`` and ``fused-maps`` classify what all peers see.
        distillations: Who teaches whom, and how.
        temperature: T > 0 of the distillations.
        rampup: Share of the training over which the distillations' weight rises, 0 to 1; 0 for none.
        ce_weight: a, the weight of every peer's cross-entropy.
        ensemble_ce_weight: b, the weight of the ensemble's cross-entropy.
        view_per_peer: Whether every peer sees an augmentation of its own.
        sequential: Whether independent peers are updated one after another, each taught by what the others say by then.
        ema_decay: The decay that the peers' moving averages reach in a training of ``ema_steps`` steps, 0 to 1;
            None without averages.
        ema_steps: In a training of another length, their window is the same share of the training; None for
            ``ema_decay`` as it stands, whatever the length.
        combiner_weight_decay: Weight decay of the aggregator's own parameters, as a multiple of the recipe's.
    """

    peers: Peers = field(default_factory=Branched)
    aggregator: str = "gate"
    distillations: Sequence[Distillation] = (Distillation(),)
    temperature: Temperature = 3.0
    rampup: Share = 0.0
    ce_weight: NonNegative = 1.0
    ensemble_ce_weight: NonNegative = 1.0
    view_per_peer: bool = False
    sequential: bool = False
    ema_decay: Share | None = None
    ema_steps: PositiveInt | None = EMA_STEPS
    combiner_weight_decay: NonNegative = 1.0

    def __post_init__(self) -> None:
        check_fields(self, "method", skip=("network",))
        if self.peers.count < 1:
            option = "num_branches" if isinstance(self.peers, Branched) else "num_peers"
            raise UserError(f"⟨method.{option}⟩ is {self.peers.count}; use 1 or more")
        if self.aggregator not in AGGREGATORS:
            raise unknown_name("⟨method.aggregator⟩", self.aggregator, AGGREGATORS)
        if AGGREGATORS[self.aggregator].make is None and isinstance(self.peers, Independent):
            raise UserError("a gate reads a shared trunk, and independent peers have none; use aggregator='mean'")
        if self.sequential and not (isinstance(self.peers, Independent) and self.aggregator == "mean"):
            raise UserError("peers are updated in turn only where they are independent and combined by their mean")
        for distillation in self.distillations:
            self._check(distillation)

    def _check(self, distillation: Distillation) -> None:
        named = {*self.teachers(distillation), *self.students(distillation)}
        if not named <= set(range(self.peers.count)):
            raise UserError(f"a distillation names peer {max(named)}, and there are {self.peers.count}, counted from 0")
        if distillation.from_ema and self.ema_decay is None:
            raise UserError(
                "a distillation of the peers' moving averages needs ema_decay=, their decay, for example 0.999"
            )
        if distillation.from_ema and self.sequential:
            raise UserError("moving averages teach only where all peers learn at once; leave sequential out")
        if TARGETS[distillation.source].of_others and len(self.teachers(distillation)) < 2:
            raise UserError(f"'{distillation.source}' needs two peers or more; there is one")

    def students(self, distillation: Distillation) -> tuple[int, ...]:
        """Who learns from a distillation, by number; none where it is the ensemble."""
        if distillation.students == "all":
            return tuple(range(self.peers.count))
        return () if distillation.students == "ensemble" else tuple(distillation.students)

    def teachers(self, distillation: Distillation) -> tuple[int, ...]:
        """Which peers a distillation's soft targets are made from."""
        return tuple(range(self.peers.count)) if distillation.teachers is None else tuple(distillation.teachers)

    def edges(self) -> list[Edge]:
        """The distillations as arrows between peers and what is made of them."""
        names = self.peers.names
        combined = (
            any("ensemble" in (TARGETS[each.source].reads, each.students) for each in self.distillations)
            or self.ensemble_ce_weight
        )
        arrows = [Edge(name, "ensemble", self.aggregator, teaches=False) for name in names if combined]
        for distillation in self.distillations:
            students = [names[student] for student in self.students(distillation)] or ["ensemble"]
            sources = [names[peer] for peer in self.teachers(distillation)]
            temperature = self.temperature if distillation.temperature is None else distillation.temperature
            over_time = ", averaged over time" if distillation.from_ema else ""
            targets = TARGETS[distillation.source]
            label = f"{targets.summary}{over_time}, T = {temperature:g}"
            if targets.reads == "ensemble":
                sources = ["ensemble"]
            elif not targets.of_others and len(sources) > 1:
                arrows += [Edge(source, targets.summary, teaches=False) for source in sources]
                sources = [targets.summary]
            arrows += [Edge(source, to, label) for to in students for source in sources if source != to]
        return arrows
