"""The network alone: plain cross-entropy training, the baseline of every comparison.

L = CE(z, y),   z: logits (B, C), y: labels (B,)
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from coterie.functional import cross_entropy
from coterie.methods.base import Method, Stage, Task, Turn
from coterie.outputs import Batch, LossTerms, PeerOutput, StepResult


@dataclass(kw_only=True)
class Vanilla(Method):
    """The network trained alone with cross-entropy.

    Attributes:
        network: The backbone: a name, a factory, or a module of yours.
        epochs: Stage name to its own number of epochs; the one stage is ``train``.
    """

    name = "vanilla"
    summary = "the network alone, cross-entropy: the baseline"

    def stages(self, task: Task) -> Iterator[Stage]:
        """One stage, ``train``."""
        model = self.build(task)
        turn = Turn(CrossEntropyStep(model), tuple(model.parameters()))
        yield Stage("train", [turn], network=model, deliver={"target": model})


class CrossEntropyStep(nn.Module):
    """The step of a network that learns from labels alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> StepResult:
        """A batch to its cross-entropy."""
        logits = self.model(batch.images)
        loss = LossTerms({"cross_entropy": cross_entropy(logits, batch.labels)})
        return StepResult(loss, PeerOutput(logits.unsqueeze(1)))
