"""Compact structure by distillation: a network loses channels until a budget is met, while its former self teaches it.

A reconstruction. Ahmed, Zunino, Morerio, Murino, *Compact CNN Structure Learning by Knowledge Distillation* (ICPR 2020,
arXiv 2104.09191) is public in its abstract alone, which names distillation, a customizable block-wise optimisation, and
FLOPs or parameters as the target. The rest is MorphNet's regulariser (Gordon et al., CVPR 2018) and choices made here;
no result of it is the paper's. A network t is trained, and its copy s with logits (B, C), labels y (B,), learns

    L = (1 - a) CE(s, y) + a T² KL(softmax(t / T) ‖ softmax(s / T)) + c Σ_b w_b Σ_{L in b} R_L / C0

at a fixed rate, R_L being the cost of layer L times its channels' batch-norm scales γ (``costs.py``), C0 the full
network's cost and b its blocks; γ is excluded from weight decay. Then s is pruned to the channels of the
largest γ that meet the budget, its batch norms' statistics are estimated anew, and it learns from t again, without the
penalty. Three readings of "block-wise" are offered: A, all blocks shrink together; B, one after the other; C, as A, and
every block's output map is matched to the teacher's.

A gain over the original has a fair control only in ``--method.importance none``: the whole network given the same extra
distillation. Every other importance but ``learned`` is given it too, without the penalty, and pruned to the same
budget.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import cos, pi
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from coterie.bounds import NonNegative, PositiveInt, PositiveShare, Share, Temperature
from coterie.errors import UserError
from coterie.functional import check_divergence
from coterie.methods.base import Edge, Hooks, Stage, Task, Turn
from coterie.methods.compact.costs import ChannelCosts
from coterie.methods.compact.shrinking import (
    BlockMatching,
    CostRegulariser,
    ShrinkingStep,
    ShrinkSettings,
    copy_first_teacher,
    estimate_statistics,
    group_scales,
)
from coterie.methods.frozen_teacher import Teacher
from coterie.methods.kd import DistillationStep
from coterie.methods.offline import OfflineMethod
from coterie.methods.vanilla import CrossEntropyStep
from coterie.networks.prune.channel_groups import ChannelGroups, Resource, find_channel_groups
from coterie.networks.prune.removal import prune_channels, rank_channels, rescale_weights, select_within_budget
from coterie.networks.zoo import Backbone


@dataclass(kw_only=True)
class Compact(OfflineMethod):
    """A network pruned to a budget of FLOPs or parameters while its former self teaches it.

    Attributes:
        network: The network: a name, a factory, or a module of yours, which is pruned in place.
        epochs: Stage name to its own number of epochs; the stages are ``teacher`` (none where teachers are given),
            ``shrink``, ``prune`` (one epoch, in which batch norms gather statistics) and ``finetune``.
        teacher: As in ``kd``; the student starts as a copy of the first where that is of its architecture, and from
            the network's own weights otherwise.
        flops: The budget, as a share of the full network's FLOPs; 0.5 where neither this nor ``params`` is given.
        params: The budget, as a share of the full network's parameters.
        importance: What decides which channels go: ``learned`` is the method; at equal cost and training ``magnitude``
            (|γ| without the penalty), ``uniform`` (all widths alike) and ``random`` (random widths) are its baselines,
            and ``none`` (nothing is pruned) its control.
        blockwise: Reading A, ``joint``; B, ``sequential``; or C, ``matched``.
        blocks: Module path to its weight w_b, for example ``{layer1: 3, layer3: 0.3}``; layers of no block named
            weigh 1, or with ``sequential`` are not shrunk. Empty for the network's own blocks, all weighing 1.
        match_weight: With ``matched``, the weight of the blocks' relative squared errors.
        strength: c in multiples of c*, at which a channel that nothing holds is gone by the end of ``shrink``.
        threshold: The |γ| up to which a channel counts as dead while shrinking.
        least: The share of the channels of each tied group that is kept in any case.
        multiple: Channels are kept in multiples of so many, where a group has them and the budget allows: runtimes are
            built for widths of 8 or 16, and others can take longer than the whole network; 1 for the finest choice.
        proximal: Whether γ is shrunk by a proximal step (exact zeros) and not by the penalty's gradient.
        fold: Whether the constants that dead channels give go into the biases of layers that read them.
        start: ``inherit`` fine-tunes what is left; ``scratch`` retrains the pruned network anew (MorphNet).
        rate: The learning rate of ``shrink``, and of ``finetune`` at its start, as a share of the recipe's.
        distil: The stages in which the teacher is heard: ``both``, ``shrink``, ``finetune`` or ``neither``.
        temperature: T of the soft targets.
        alpha: a, the share of the soft targets.
        divergence: How far the student is from its teacher, a name of ``coterie.functional.DIVERGENCES``: ``kl``,
            ``dkd``, ``dist`` or ``standardised``.
    """

    name = "compact"
    summary = "pruned to a budget while its former self teaches it (reconstruction of Ahmed et al. 2020)"
    prunes: ClassVar[bool] = True

    flops: PositiveShare | None = None
    params: PositiveShare | None = None
    importance: Literal["learned", "magnitude", "uniform", "random", "none"] = "learned"
    blockwise: Literal["joint", "sequential", "matched"] = "joint"
    blocks: dict[str, NonNegative] = field(default_factory=dict)
    match_weight: NonNegative = 1.0
    strength: NonNegative = 2.0
    threshold: NonNegative = 0.01
    least: Share = 0.1
    multiple: PositiveInt = 8
    proximal: bool = True
    fold: bool = True
    start: Literal["inherit", "scratch"] = "inherit"
    rate: PositiveShare = 0.2
    distil: Literal["both", "shrink", "finetune", "neither"] = "both"
    temperature: Temperature = 4.0
    alpha: Share = 0.5
    divergence: str = "kl"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_divergence(self.divergence)
        if self.flops is not None and self.params is not None:
            raise UserError("⟨method.flops⟩ and ⟨method.params⟩ are both given; give one budget")
        if self.blockwise == "matched" and self.teacher_network is not None:
            raise UserError(
                "⟨method.blockwise⟩ matched needs a teacher of the network's own kind; leave out "
                "⟨method.teacher_network⟩"
            )
        if self.start == "scratch" and isinstance(Backbone.of(self.network).source, nn.Module):
            raise UserError("⟨method.start⟩ scratch builds the network anew; give a factory, not a module of your own")

    @property
    def resource(self) -> Resource:
        """What the budget is of."""
        return "flops" if self.params is None else "params"

    @property
    def budget(self) -> float:
        """The share of the full network that is left."""
        return self.params or self.flops or 0.5

    def stage_names(self) -> tuple[str, ...]:
        """The teacher's, if it is trained first, ``shrink``, ``prune`` where anything is pruned, and ``finetune``."""
        return (*self.teacher_stage_names(), "shrink", *(() if self.importance == "none" else ("prune",)), "finetune")

    def stages(self, task: Task) -> Iterator[Stage]:
        """Those of :meth:`stage_names`; the last delivers ``target``, the pruned network."""
        example = torch.zeros(2, task.channels, *task.image_size)
        with torch.random.fork_rng(devices=[]):  # the teacher is what `vanilla` trains with the same seed
            student = self.build(task)
        groups = find_channel_groups(student, example)
        self._select(torch.ones(groups.num_channels), groups)  # refuses a budget that cannot be met
        teacher = yield from self.teacher_stages(task)
        if not copy_first_teacher(teacher, student) and self.blockwise == "matched":
            raise UserError("⟨method.blockwise⟩ matched needs a teacher of the network's own kind; give another")
        yield self._shrink(student, teacher, groups)
        if self.importance != "none":
            alive = self._select(self._rank(student, groups), groups)
            prune_channels(student, groups, alive, example, fold=self.fold)
            yield from estimate_statistics(student)
            if self.start == "scratch":
                student = Backbone.of(self.network).build_fresh(task.num_classes, task.channels, task.image_size)
                prune_channels(student, groups, alive, example)
                rescale_weights(student, groups, alive)
        turn = Turn(self._make_step(student, teacher, "finetune"), tuple(student.parameters()))
        yield Stage(
            "finetune",
            [turn],
            network=student,
            deliver={"target": student},
            schedule=self._cosine if self.start == "inherit" else None,
            teacher=teacher if self.distil in ("both", "finetune") else None,
        )

    def teaching(self) -> Sequence[Edge]:
        """The network as it was before pruning teaches what is left of it."""
        how = f"soft labels, T = {self.temperature:g}"
        return [Edge(name, "target", how) for name in self.teacher_names() if self.distil != "neither"]

    def _untrained_teacher(self, task: Task) -> nn.Module:
        # A module of the user's own is the student: its copy is trained first.
        return copy.deepcopy(self.build(task)) if self.teacher_network is None else super()._untrained_teacher(task)

    def _shrink(self, student: nn.Module, teacher: Teacher, groups: ChannelGroups) -> Stage:
        sequential = self.blockwise == "sequential"
        settings = self.strength, self.threshold, self.least, self.proximal, sequential, self.rate
        regulariser = CostRegulariser(groups, ShrinkSettings(self.resource, self.budget, *settings), self.blocks)
        learned = self.importance == "learned"
        matching = None
        if learned and self.blockwise == "matched":
            matching = BlockMatching(student, teacher.members[0].network, regulariser.blocks, self.match_weight)
        learn = self._make_step(student, teacher, "shrink")
        step = ShrinkingStep(learn, student, regulariser if learned else None, matching)
        return Stage(
            "shrink",
            [Turn(step, group_scales(student, groups))],
            network=student,
            schedule=regulariser.schedule,
            hooks=Hooks(after_step=lambda done: regulariser.step(student, done)) if learned else Hooks(),
            teacher=teacher if self.distil in ("both", "shrink") else None,
            selects=False,  # an epoch in the middle is of a network that is not yet shrunk
        )

    def _make_step(self, student: nn.Module, teacher: Teacher, stage: str) -> nn.Module:
        if self.distil in ("both", stage):
            settings = self.temperature, 1 - self.alpha, self.alpha
            return DistillationStep(student, teacher, *settings, divergence=self.divergence)
        return CrossEntropyStep(student)

    def _select(self, values: Tensor, groups: ChannelGroups) -> Tensor:
        return select_within_budget(values, groups, self.resource, self.budget, self.least, self.multiple)

    def _rank(self, student: nn.Module, groups: ChannelGroups) -> Tensor:
        costs = ChannelCosts(groups, self.resource).to(next(student.parameters()).device)
        values = costs.values(student).detach()
        if self.importance not in ("uniform", "random"):
            return values
        shares = torch.ones(len(groups.sizes))
        return rank_channels(values, groups, shares if self.importance == "uniform" else shares.uniform_(0.25, 1))

    def _cosine(self, optimiser: Optimizer, steps: int) -> LambdaLR:
        return LambdaLR(optimiser, lambda step: self.rate * 0.5 * (1 + cos(pi * min(step / steps, 1))))
