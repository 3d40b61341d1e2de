"""The base of the published online methods, and a method of one's own that is composed of their parts.

An online method is a configuration: the peers (branches, or whole networks), the aggregator that combines them into an
ensemble, and who teaches whom with which temperature, weight and ramp (:class:`OnlineConfig`).
:mod:`coterie.methods.online.loss` has the equation of its loss. :class:`Online` composes a configuration from its
parts; a published method is an :class:`OnlineMethod` that gives its own.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import or_
from typing import Any

from torch import Tensor, nn

from coterie.checking import check_value, make_checked
from coterie.errors import UserError, unknown_name
from coterie.functional import check_divergence
from coterie.methods.base import Edge, Method, Stage, Task
from coterie.methods.online.config import Distillation, OnlineConfig
from coterie.methods.online.loss import Loss
from coterie.methods.online.peers import Branched, Independent
from coterie.methods.online.stage import make_group, make_stage
from coterie.networks.logits import find_answer
from coterie.networks.preserve import preserve_state
from coterie.networks.zoo import Backbone, BackboneLike
from coterie.outputs import PeerOutput


class OnlineMethod(Method):
    """A published online method: a configuration. What it means is the same for all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_divergence(getattr(self, "divergence", "kl"))
        self.config()  # which checks itself

    @abstractmethod
    def config(self) -> OnlineConfig:
        """The peers, what combines them, and who teaches whom."""

    def loss(self, example: PeerOutput, learners: Sequence[int] | None = None) -> Loss:
        """What ``coterie train`` optimises, for a loop of your own: ``loss(output, labels, progress=…)``.

        Args:
            example: An output of the peers, for the sizes of what they give.
            learners: Which peers learn, by number; None for all. Where peers are updated one after another (DML), each
                has a loss of its own.

        Returns:
            A module, whose parameters, if it has any, belong in the optimiser.

        Raises:
            UserError: The output is of another number of peers, or lacks what the soft targets are made of.
        """
        config = self.config()
        peers = range(config.peers.count)
        if unknown := [peer for peer in learners or () if peer not in peers]:
            raise UserError(f"learners names peer {unknown[0]}; there are {len(peers)}, counted from 0")
        return Loss(config, tuple(peers if learners is None else learners), example)

    def build_peers(self, network: BackboneLike, example: Tensor, num_classes: int | None = None) -> nn.Module:
        """The peers that ``coterie train`` trains, for a loop of your own.

        Args:
            network: A module, which becomes peer 0 and is trained in place; a factory, called with ``num_classes`` and
                ``in_channels``; or a name.
            example: Images as the network takes them, two or more, (B, channels, H, W).
            num_classes: C; None for as many as a module tells apart.

        Returns:
            A module that maps images, or one view of them for each peer, to a
            :class:`~coterie.outputs.PeerOutput` with logits (B, m, C) and the ensemble's (B, C).

        Raises:
            UserError: The network does not take such images or cannot be branched, or the number of classes is missing.
        """
        source = Backbone.of(network).source
        if num_classes is None:
            if not isinstance(source, nn.Module):
                raise UserError("num_classes is missing; only a module says how many classes it tells apart")
            with preserve_state(source):
                answer = find_answer(source, example)
                num_classes = answer.of(source, source(example)).shape[1]
        _, channels, height, width = example.shape
        task = Task(num_classes, channels, (height, width))
        return make_group(replace(self, network=network), self.config(), task)

    def stages(self, task: Task) -> Iterator[Stage]:
        """One stage, ``train``; it delivers ``target``, independent peers by name, and ``ensemble``."""
        yield make_stage(self, self.config(), task)

    def teaching(self) -> Sequence[Edge]:
        """Who teaches whom."""
        return self.config().edges()


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

    def config(self) -> OnlineConfig:
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
