"""The network alone: plain cross-entropy training, the baseline of every comparison.

L = CE(z, y),   z: logits (B, C), y: labels (B,)
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

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
    baseline = True

    def stages(self, task: Task) -> Iterator[Stage]:
        """One stage, ``train``."""
        model = self.build(task)
        yield replace(make_plain_stage("train", model), peers=("target",), deliver={"target": model})


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


def make_plain_stage(name: str, network: nn.Module) -> Stage:
    """The stage that trains a network alone with cross-entropy.

    Other methods use it too: for their teachers, members and baselines.

    Args:
        name: The stage's name, and that of its one peer.
        network: Images (B, channels, H, W) to logits (B, C).
    """
    turn = Turn(CrossEntropyStep(network), tuple(network.parameters()))
    return Stage(name, [turn], network=network, peers=(name,))
