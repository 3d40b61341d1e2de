"""A linear probe: what a network has learned, as its retrained classifier alone can tell."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.optim import Optimizer

from coterie.methods.base import Stage, Turn
from coterie.methods.vanilla import CrossEntropyStep


class LinearProbe(nn.Module):
    """A network of which only the classifier is trained: it stays in evaluation mode, so that no statistic moves.

    Args:
        network: Maps images (B, channels, H, W) to logits (B, C).
        paths: Where the layers of its classifier are: distilled transformers have two.
    """

    def __init__(self, network: nn.Module, paths: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.paths = tuple(paths)
        self.eval()

    def learning(self) -> tuple[nn.Parameter, ...]:
        """The parameters of the classifier, all that learns."""
        return tuple(parameter for path in self.paths for parameter in self.network.get_submodule(path).parameters())

    def train(self, mode: bool = True) -> "LinearProbe":
        """A linear probe stays in evaluation mode."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Images to logits."""
        logits: Tensor = self.network(images)
        return logits


def make_probe_stage(
    name: str, probe: LinearProbe, optimiser: Callable[[list[dict[str, object]]], Optimizer] | None = None
) -> Stage:
    """The stage that trains a probe by cross-entropy.

    Args:
        name: The stage's name, and that of its one peer.
        probe: What is trained.
        optimiser: As of :class:`~coterie.methods.base.Turn`; None for the run's recipe.
    """
    turn = Turn(CrossEntropyStep(probe), probe.learning(), optimiser)
    return Stage(name, [turn], network=probe, peers=(name,))
