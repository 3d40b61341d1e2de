"""A method: cross-entropy with smoothed labels."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from torch.nn import functional

from coterie.bounds import Share
from coterie.methods import Method, Stage, Task, Turn
from coterie.outputs import Batch, LossTerms, PeerOutput, StepResult


@dataclass(kw_only=True)
class Smoothed(Method):
    """The network alone, trained with smoothed labels.

    Attributes:
        network: The backbone: a name, a factory, or a module of yours.
        epochs: Stage name to its own number of epochs; the one stage is ``train``.
        smoothing: ε, the share of the label that all classes divide among themselves.
    """

    name = "smoothed"
    summary = "the network alone, with smoothed labels"

    smoothing: Share = 0.1

    def stages(self, task: Task) -> Iterator[Stage]:
        """One stage, ``train``."""
        network = self.build(task)
        turn = Turn(SmoothedStep(network, self.smoothing), tuple(network.parameters()))
        yield Stage("train", [turn], network=network, deliver={"target": network})


class SmoothedStep(nn.Module):
    """A batch to its loss and the network's answer."""

    def __init__(self, network: nn.Module, smoothing: float) -> None:
        super().__init__()
        self.network = network
        self.smoothing = smoothing

    def forward(self, batch: Batch) -> StepResult:
        """CE(z, (1 - ε) y + ε / C), mean over the batch."""
        logits = self.network(batch.images)
        loss = functional.cross_entropy(logits, batch.labels, label_smoothing=self.smoothing)
        return StepResult(LossTerms({"smoothed": loss}), PeerOutput(logits.unsqueeze(1)))
