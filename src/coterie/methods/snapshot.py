"""Snapshot ensembles (Huang, Li, Pleiss, Liu, Hopcroft, Weinberger, *Train 1, get M for free*, ICLR 2017, 1704.00109).

One network is trained with cross-entropy in M cycles of the learning rate, each from α_0 down to 0 along a cosine. At
step t = 1..T of the training (section 3, equation 2):

    α(t) = α_0 / 2 (cos(π mod(t - 1, ⌈T/M⌉) / ⌈T/M⌉) + 1)

At the end of every cycle the network is kept. With h_i (B, C) the softmax output of snapshot i, the last m are
averaged:

    h = 1/m Σ_i h_{M-i},    i = 0..m-1                                                                           (B, C)

Where M does not divide T, cycles here differ by one step at most, so that there are always M. α_0 is the recipe's
learning rate (the paper: 0.1, and 0.2 for wide networks); the recipe's own schedule is not used.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil, cos, pi

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from coterie.bounds import Count, PositiveInt
from coterie.errors import UserError
from coterie.methods.base import Hooks, Method, Stage, Task
from coterie.methods.vanilla import make_plain_stage
from coterie.peers.combine import Average
from coterie.peers.ensemble import Ensemble


def cyclic_cosine(step: int, steps: int, cycles: int) -> float:
    """The learning rate's share of its peak at a step.

    Args:
        step: t - 1, from 0.
        steps: T.
        cycles: M.
    """
    start = ceil(step * cycles // steps * steps / cycles)
    return 0.5 * (cos(pi * (step - start) / ceil(steps / cycles)) + 1)


@dataclass(kw_only=True)
class Snapshot(Method):
    """One network whose states at the ends of several learning-rate cycles are an ensemble.

    Attributes:
        network: The backbone: a name, a factory, or a module of yours.
        epochs: Stage name to its own number of epochs; the one stage is ``train``.
        cycles: M (papers that compare with it: 5); as many as there are epochs where these are fewer.
        last: m, how many of the last snapshots are the ensemble; None for all.
        average: The mean of ``probabilities`` (paper) or of ``logits``.
    """

    name = "snapshot"
    summary = "one training in cycles, its states at their ends an ensemble (Huang et al. 2017)"

    cycles: Count = 5
    last: PositiveInt | None = None
    average: Average = "probabilities"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.last is not None and self.last > self.cycles:
            raise UserError(f"⟨method.last⟩ is {self.last}; use 1 to {self.cycles}, the number of ⟨method.cycles⟩")

    def stages(self, task: Task) -> Iterator[Stage]:
        """One stage, ``train``; it delivers ``ensemble`` and ``target``, the last snapshot."""
        model = self.build(task)
        cycles = min(self.cycles, self.epochs.get("train", task.epochs))
        group = Ensemble([copy.deepcopy(model) for _ in range(min(self.last or cycles, cycles))], self.average)
        collector = _SnapshotCollector(model, group, cycles)
        yield replace(
            make_plain_stage("train", model),
            peers=("target",),
            deliver={"ensemble": group, "target": model},
            schedule=collector.schedule,
            hooks=Hooks(after_step=collector.after_step),
            state={"snapshots": group},
            group=tuple(f"snapshot{cycles - len(group.members) + index + 1}" for index in range(len(group.members))),
            selects=False,  # an epoch in the middle would leave the later snapshots out
        )


class _SnapshotCollector:
    """Keeps the model's state at the end of every cycle."""

    def __init__(self, model: nn.Module, group: Ensemble, cycles: int) -> None:
        self.model, self.group, self.cycles = model, group, cycles
        self.steps = 0

    def schedule(self, optimiser: Optimizer, steps: int) -> LambdaLR:
        self.steps = steps
        return LambdaLR(optimiser, lambda step: cyclic_cosine(step, steps, self.cycles))

    def after_step(self, done: float) -> None:
        step = round(done * self.steps)
        cycle, before = (now * self.cycles // self.steps for now in (step, step - 1))
        place = cycle - 1 - (self.cycles - len(self.group.members))
        if cycle > before and place >= 0:
            self.group.members[place].load_state_dict(self.model.state_dict())
