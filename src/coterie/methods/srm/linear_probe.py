"""A linear probe: what a network has learned, as its retrained classifier alone can tell."""

from torch import Tensor, nn


class LinearProbe(nn.Module):
    """A network of which only the classifier is trained: it stays in evaluation mode, so that no statistic moves.

    Whoever trains it updates the parameters of ``classifier`` and no others.

    Args:
        network: Maps images (B, channels, H, W) to logits (B, C).
        path: Where its classifier is.
    """

    def __init__(self, network: nn.Module, path: str) -> None:
        super().__init__()
        self.network = network
        self.path = path
        self.eval()

    @property
    def classifier(self) -> nn.Module:
        """The one part that learns."""
        return self.network.get_submodule(self.path)

    def train(self, mode: bool = True) -> "LinearProbe":
        """A linear probe stays in evaluation mode."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Images to logits."""
        logits: Tensor = self.network(images)
        return logits
