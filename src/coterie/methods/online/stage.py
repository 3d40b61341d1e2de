"""How an online method is trained: its group of peers, the turns of a batch, its averages, and what it delivers."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from coterie.methods.base import Hooks, Method, ParameterGroup, Stage, Task, Turn
from coterie.methods.online.aggregators import AGGREGATORS
from coterie.methods.online.config import OnlineConfig
from coterie.methods.online.loss import Loss
from coterie.methods.online.peers import Independent
from coterie.methods.online.targets import TARGETS
from coterie.networks.moving_average import MovingAverage
from coterie.networks.preserve import preserve_state
from coterie.outputs import Batch, PeerOutput, StepResult
from coterie.peers.independent import Group, Separate, freeze_statistics


def make_stage(method: Method, config: OnlineConfig, task: Task) -> Stage:
    """The one stage of an online method.

    Args:
        method: Says which network is trained.
        config: Its peers, and who teaches whom.
        task: The sizes of images and classes.
    """
    group = make_group(method, config, task)
    example = look(group, task)
    average = make_average(group, config)
    everyone = tuple(range(config.peers.count))
    if config.sequential:
        answers: dict[int, list[Tensor | None]] = {}
        steps = [SequentialStep(Loss(config, (own,), example), group, own, answers) for own in everyone]
        losses = [step.loss for step in steps]
        turns = [Turn(step, tuple(step.peers.networks[step.own].parameters())) for step in steps]
    else:
        losses = [Loss(config, everyone, example)]
        step = JointStep(losses[0], group, average)
        turns = [Turn(step, _parameter_groups(step, group, config.combiner_weight_decay))]
    return Stage(
        "train",
        turns,
        network=group,
        peers=config.peers.names,
        deliver=_deliverables(group, config, average),
        views=config.peers.count if config.view_per_peer else 1,
        hooks=Hooks(
            after_step=None if average is None else lambda done: average.update(group, done),
            after_validation=partial(_renew, losses) if losses[0].needs_validation else None,
        ),
        # Where all learn at once, the average is part of their turn.
        state={"average": average} if average is not None and config.sequential else {},
    )


def make_group(method: Method, config: OnlineConfig, task: Task) -> nn.Module:
    """The peers and what combines them: one view of the images, or one for each peer, to a PeerOutput."""
    aggregator = AGGREGATORS[config.aggregator]
    features = aggregator.reads == "features" or any(
        TARGETS[distillation.source].reads == "features" for distillation in config.distillations
    )
    maps = aggregator.reads == "maps"
    if isinstance(config.peers, Independent):
        peers: nn.Module = config.peers.build(method, task, features=features, maps=maps)
    else:
        peers = config.peers.build(method, task, gate=aggregator.gate, maps=maps)
    if aggregator.make is None:
        return peers  # the gate is part of the branched network
    return Group(peers, aggregator.make(look(peers, task)))


def make_average(group: nn.Module, config: OnlineConfig) -> MovingAverage | None:
    """The peers' moving average, where there is one; it runs on every batch where it teaches."""
    if config.ema_decay is None:
        return None
    teaches = any(distillation.from_ema for distillation in config.distillations)
    return MovingAverage(group, config.ema_decay, config.ema_steps, runs=teaches)


def look(group: nn.Module, task: Task) -> PeerOutput:
    """What the peers say of two black images, for the sizes; the group is left as it was."""
    with preserve_state(group):
        output: PeerOutput = group.eval()(torch.zeros(2, task.channels, *task.image_size))
    return output


class JointStep(nn.Module):
    """One turn for all peers: one forward, the sum of all terms."""

    def __init__(self, loss: Loss, group: nn.Module, average: MovingAverage | None) -> None:
        super().__init__()
        self.loss, self.group, self.average = loss, group, average

    def forward(self, batch: Batch) -> StepResult:
        """A batch to the loss of all, and to their output."""
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
        answers: Every peer's last logits for each part of the batch, shared by all turns; None where the peer was
            updated since.
    """

    def __init__(self, loss: Loss, group: nn.Module, own: int, answers: dict[int, list[Tensor | None]]) -> None:
        super().__init__()
        assert isinstance(group, Group)
        assert isinstance(group.peers, Separate)
        self.loss, self.group, self.own, self.answers = loss, group, own, answers

    @property
    def peers(self) -> Separate:
        """The networks."""
        return self.group.peers  # type: ignore[return-value]

    def forward(self, batch: Batch) -> StepResult:
        """A batch to this peer's loss, and to the output of all."""
        count = len(self.peers.networks)
        if self.own == 0:
            self.answers[batch.part] = [None] * count
        answers = self.answers[batch.part]
        with torch.no_grad(), freeze_statistics(self.peers):  # each network counts a batch once, in its own turn
            for peer in range(count):
                if peer != self.own and answers[peer] is None:
                    answers[peer] = self.peers.ask(peer, batch.views)[0]
        answers[self.own] = self.peers.ask(self.own, batch.views)[0]
        output = PeerOutput(torch.stack([logits for logits in answers if logits is not None], 1))
        answers[self.own] = None  # it is about to be updated
        return StepResult(self.loss(output, batch.labels, batch.progress), output)


def _parameter_groups(step: nn.Module, group: nn.Module, combiner_weight_decay: float) -> list[ParameterGroup]:
    """What a joint step updates: the combiner's parameters apart, for their own weight decay."""
    combiner = group.combiner if isinstance(group, Group) else group.gate
    combining: list[nn.Parameter] = list(combiner.parameters())  # type: ignore[union-attr]
    own = {id(parameter) for parameter in combining}
    others = [parameter for parameter in step.parameters() if id(parameter) not in own]
    return [{"params": others}, {"params": combining, "decay_factor": combiner_weight_decay}]


def _renew(losses: Sequence[Loss], logits: Tensor, labels: Tensor) -> None:
    for loss in losses:
        loss.renew(logits, labels)


def _deliverables(group: nn.Module, config: OnlineConfig, average: MovingAverage | None) -> dict[str, nn.Module]:
    peers = group.peers if isinstance(group, Group) else group
    deliver: dict[str, nn.Module] = {"target": peers.target}  # type: ignore[dict-item]
    if isinstance(peers, Separate):
        deliver |= dict(zip(config.peers.names, peers.networks, strict=True))
    deliver["ensemble"] = group
    if average is not None:
        averaged = average.module.peers if isinstance(average.module, Group) else average.module
        deliver["average"] = averaged.target  # type: ignore[assignment]
    return deliver
