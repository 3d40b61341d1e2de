"""What trains a point of the space of online methods: its group of peers, its loss, and the turns of a batch."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from coterie.functional import cross_entropy, divergence, ramp_up
from coterie.methods.base import Hooks, Method, ParameterGroup, Stage, Task, Turn
from coterie.methods.online.config import Distillation, OnlineConfig
from coterie.methods.online.peers import Independent
from coterie.methods.online.targets import TARGETS, Validated
from coterie.networks.moving_average import MovingAverage
from coterie.networks.preserve import preserve_state
from coterie.networks.shapes import layout
from coterie.outputs import Batch, LossTerms, PeerOutput, StepResult
from coterie.peers.combine import FusedFeatures, FusedMaps, GateForm, MeanLogits
from coterie.peers.independent import Group, Separate, freeze_statistics

_GATES: dict[str, GateForm] = {"gate": "relu-softmax", "gate-softmax": "softmax"}


def stage(method: Method, point: OnlineConfig, task: Task) -> Stage:
    """The one stage of an online method."""
    group = build(method, point, task)
    example = _example(group, task)
    average = _average(group, point)
    everyone = tuple(range(point.peers.count))
    if point.sequential:
        said: list[Tensor | None] = [None] * point.peers.count
        steps = [SequentialStep(Loss(point, (own,), example), group, own, said) for own in everyone]
        turns = [Turn(step, tuple(step.peers.networks[step.own].parameters())) for step in steps]
    else:
        step = JointStep(Loss(point, everyone, example), group, average)
        turns = [Turn(step, _groups(step, group, point.combiner_weight_decay))]
    validated = [each for turn in turns for each in turn.module.modules() if isinstance(each, Validated)]
    return Stage(
        "train",
        turns,
        network=group,
        peers=point.peers.names,
        deliver=_delivered(group, point, average),
        views=point.peers.count if point.view_per_peer else 1,
        hooks=Hooks(
            after_step=None if average is None else _following(average, group),
            after_validation=_renewing(validated) if validated else None,
        ),
        # Where all learn at once, the average is part of their turn.
        state={"average": average} if average is not None and point.sequential else {},
    )


def build(method: Method, point: OnlineConfig, task: Task) -> nn.Module:
    """The peers of a point and what combines them: views of images to a PeerOutput with an ensemble."""
    read = point.aggregator == "fused-features" or any(
        TARGETS[each.source].reads == "features" for each in point.distillations
    )
    maps = point.aggregator == "fused-maps"
    if isinstance(point.peers, Independent):
        peers: nn.Module = point.peers.build(method, task, features=read, maps=maps)
    else:
        peers = point.peers.build(method, task, gate=_GATES.get(point.aggregator, "uniform"), maps=maps)
    if point.aggregator in _GATES:
        return peers
    if point.aggregator == "mean":
        return Group(peers, MeanLogits())
    example = _example(peers, task)
    if maps and example.maps is not None:
        combiner: nn.Module = FusedMaps(example, channels_last=layout(example.maps[0])[1])
    else:
        combiner = FusedMaps(example) if maps else FusedFeatures(example)
    return Group(peers, combiner)


class Loss(nn.Module):
    """The loss of a point, for some of its peers (equation of ``coterie.methods.online``).

    Args:
        point: The point.
        learners: Which peers learn.
        example: An output of the group, for the sizes of what it gives.
    """

    def __init__(self, point: OnlineConfig, learners: tuple[int, ...], example: PeerOutput) -> None:
        super().__init__()
        self.point, self.learners = point, learners
        self.distillations = [each for each in point.distillations if each.students == "ensemble" or self.taught(each)]
        self.targets = nn.ModuleList(
            TARGETS[each.source](point.teachers(each), self.taught(each), example) for each in self.distillations
        )

    def taught(self, distillation: Distillation) -> tuple[int, ...]:
        """Which of the learners a distillation is for."""
        return tuple(student for student in self.point.students(distillation) if student in self.learners)

    def forward(
        self, output: PeerOutput, labels: Tensor, progress: float, averaged: PeerOutput | None = None
    ) -> LossTerms:
        """The terms for an output of the group.

        Args:
            output: Of the group.
            labels: (B,).
            progress: Share of the training that is over.
            averaged: Of the peers' moving averages, where they teach.
        """
        point = self.point
        supervised = [cross_entropy(output.logits[:, peer], labels) for peer in self.learners]
        terms = {"cross_entropy": point.ce_weight * torch.stack(supervised).sum()}
        if point.ensemble_ce_weight and output.ensemble is not None:
            terms["cross_entropy_ensemble"] = point.ensemble_ce_weight * cross_entropy(output.ensemble, labels)
        for number, (distillation, targets) in enumerate(zip(self.distillations, self.targets, strict=True)):
            name = "distillation" if len(self.distillations) == 1 else f"distillation{number + 1}_{distillation.source}"
            terms[name] = self._distillation(distillation, targets, output, labels, progress, averaged)
        return LossTerms(terms)

    def _distillation(
        self,
        distillation: Distillation,
        targets: nn.Module,
        output: PeerOutput,
        labels: Tensor,
        progress: float,
        averaged: PeerOutput | None,
    ) -> Tensor:
        point = self.point
        temperature = point.temperature if distillation.temperature is None else distillation.temperature
        weight = distillation.weight * ramp_up(
            progress, point.rampup if distillation.rampup is None else distillation.rampup
        )
        if distillation.scale_by_t2:
            weight *= temperature**2
        taught: Tensor = targets(averaged if distillation.from_ema else output, labels)
        if distillation.detach:
            taught = taught.detach()
        if distillation.students == "ensemble":
            assert output.ensemble is not None
            students = output.ensemble[:, None]
        else:
            students = output.logits[:, list(self.taught(distillation))]
        return weight * divergence(students, taught, temperature)


class JointStep(nn.Module):
    """One turn for all peers: one forward, the sum of all terms."""

    def __init__(self, loss: Loss, group: nn.Module, average: MovingAverage | None) -> None:
        super().__init__()
        self.loss, self.group, self.average = loss, group, average

    def forward(self, batch: Batch) -> StepResult:
        """A batch's loss and what the group said."""
        output: PeerOutput = self.group(*batch.views)
        averaged = None
        if self.average is not None and self.average.runs:
            with torch.no_grad():
                averaged = self.average(*batch.views)
        return StepResult(self.loss(output, batch.labels, batch.progress, averaged), output)


class SequentialStep(nn.Module):
    """One peer's turn: it learns from what the others say by now (DML, algorithm 1).

    Args:
        loss: For this peer.
        group: Independent peers.
        own: Which peer this is.
        said: What every peer last said of the batch, shared by all turns; None where it has been updated since.
    """

    def __init__(self, loss: Loss, group: nn.Module, own: int, said: list[Tensor | None]) -> None:
        super().__init__()
        assert isinstance(group, Group)
        assert isinstance(group.peers, Separate)
        self.loss, self.group, self.own, self.said = loss, group, own, said

    @property
    def peers(self) -> Separate:
        """The networks."""
        return self.group.peers  # type: ignore[return-value]

    def forward(self, batch: Batch) -> StepResult:
        """A batch's loss for this peer, and what all said."""
        said, count = self.said, len(self.said)
        if self.own == 0:
            said[:] = [None] * count
        with torch.no_grad(), freeze_statistics(self.peers):  # each network counts a batch once, in its own turn
            for peer in range(count):
                if peer != self.own and said[peer] is None:
                    said[peer] = self.peers.ask(peer, batch.views)[0]
        said[self.own] = self.peers.ask(self.own, batch.views)[0]
        output = PeerOutput(torch.stack([each for each in said if each is not None], 1))
        said[self.own] = None  # it is about to be updated
        return StepResult(self.loss(output, batch.labels, batch.progress), output)


def _groups(step: nn.Module, group: nn.Module, combiner_weight_decay: float) -> list[ParameterGroup]:
    """What a joint step updates: the combiner's parameters apart, for their own weight decay."""
    combiner = group.combiner if isinstance(group, Group) else group.gate
    combining: list[nn.Parameter] = list(combiner.parameters())  # type: ignore[union-attr]
    own = {id(parameter) for parameter in combining}
    others = [parameter for parameter in step.parameters() if id(parameter) not in own]
    return [{"params": others}, {"params": combining, "decay_factor": combiner_weight_decay}]


def _example(group: nn.Module, task: Task) -> PeerOutput:
    """What the peers say of two black images, for the sizes."""
    with preserve_state(group):
        output: PeerOutput = group.eval()(torch.zeros(2, task.channels, *task.image_size))
    return output


def _average(group: nn.Module, point: OnlineConfig) -> MovingAverage | None:
    if point.ema_decay is None:
        return None
    teaches = any(distillation.from_ema for distillation in point.distillations)
    return MovingAverage(group, point.ema_decay, point.ema_steps, runs=teaches)


def _following(average: MovingAverage, group: nn.Module) -> Callable[[float], None]:
    return lambda done: average.update(group, done)


def _renewing(validated: Sequence[Validated]) -> Callable[[Tensor, Tensor], None]:
    def renew(logits: Tensor, labels: Tensor) -> None:
        for each in validated:
            each.renew(logits, labels)

    return renew


def _delivered(group: nn.Module, point: OnlineConfig, average: MovingAverage | None) -> dict[str, nn.Module]:
    peers = group.peers if isinstance(group, Group) else group
    deliver: dict[str, nn.Module] = {"target": peers.target}  # type: ignore[dict-item]
    if isinstance(peers, Separate):
        deliver |= dict(zip(point.peers.names, peers.networks, strict=True))
    deliver["ensemble"] = group
    if average is not None:
        averaged = average.module.peers if isinstance(average.module, Group) else average.module
        deliver["average"] = averaged.target  # type: ignore[assignment]
    return deliver
