"""Which peers an online method trains: branches of one network, or networks side by side.

Plain values, so that a run's configuration can hold them.
"""

from dataclasses import dataclass
from math import prod

import torch
from torch import nn

from coterie.bounds import Count
from coterie.checking import check_fields
from coterie.errors import UserError
from coterie.methods.base import Method, Task
from coterie.networks.reinit import Init, reinitialise
from coterie.networks.zoo import Backbone
from coterie.peers.branching import branch
from coterie.peers.combine import GateForm
from coterie.peers.independent import Separate


@dataclass(frozen=True, kw_only=True)
class Branched:
    """Branches of the method's network.

    Attributes:
        num: How many, the target's own among them; or the copies made at each cut of a tree, (2, 2) for four.
        at: The module with which the branched tail begins, or one for each level of a tree; None for the last stage.
        share: False makes every branch a whole network.
        init: How auxiliary branches start: ``fresh``, as a ``copy`` with a fresh classifier, or as a ``clone``; None
            for fresh, or copy of a network with weights.
        rescale: Whether gradients are divided by the number of copies at each cut.
    """

    num: Count | tuple[Count, ...] = 3
    at: str | tuple[str, ...] | None = None
    share: bool = True
    init: Init | None = None
    rescale: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "method.peers")

    @property
    def count(self) -> int:
        """How many peers."""
        return self.num if isinstance(self.num, int) else prod(self.num)

    @property
    def names(self) -> tuple[str, ...]:
        """The peers' names, the target first."""
        return ("target", *(f"branch{index}" for index in range(1, self.count)))

    def build(self, method: Method, task: Task, *, gate: GateForm = "uniform", maps: bool = False) -> nn.Module:
        """The method's network for this task, branched."""
        network = Backbone.of(method.network)
        size = (task.num_classes, task.channels, task.image_size)
        return branch(
            network.build(*size),
            self.num,
            self.at,
            torch.zeros(2, task.channels, *task.image_size),
            init=self.init or _init(network),
            gate=gate,
            share=self.share,
            rescale=self.rescale,
            maps=maps,
            factory=None if isinstance(network.source, nn.Module) else lambda: network.build_fresh(*size),
        )


@dataclass(frozen=True, kw_only=True)
class Independent:
    """Networks that share nothing.

    Attributes:
        num: How many, the target among them.
        networks: Names of the other peers' networks, one for each; None for the method's network.
    """

    num: Count = 2
    networks: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_fields(self, "method.peers")

    @property
    def count(self) -> int:
        """How many peers."""
        return self.num

    @property
    def names(self) -> tuple[str, ...]:
        """The peers' names, the target first."""
        return ("target", *(f"peer{index}" for index in range(1, self.count)))

    def build(self, method: Method, task: Task, *, features: bool = False, maps: bool = False) -> Separate:
        """The method's network and its peers for this task."""
        if self.networks is not None and len(self.networks) != self.num - 1:
            raise UserError(
                f"⟨method.networks⟩ names {len(self.networks)} networks, and the target has {self.num - 1} other peers"
            )
        size = (task.num_classes, task.channels, task.image_size)
        network = Backbone.of(method.network)
        target = network.build(*size)
        if self.networks is not None:
            others = [Backbone(name).build(*size) for name in self.networks]
        else:
            factory = None if isinstance(network.source, nn.Module) else lambda: network.build_fresh(*size)
            others = [reinitialise(target, _init(network), factory) for _ in range(self.num - 1)]
        return Separate([target, *others], features=features, maps=maps)


Peers = Branched | Independent


def _init(network: Backbone) -> Init:
    return "copy" if network.pretrained or network.weights is not None else "fresh"
