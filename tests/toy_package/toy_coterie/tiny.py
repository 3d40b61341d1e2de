"""A network: two convolutions and a classifier."""

from torch import nn

from coterie.networks import NetworkEntry


def make_tiny(num_classes: int, in_channels: int, width: int = 8) -> nn.Module:
    """Images (B, in_channels, H, W) to logits (B, num_classes)."""
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, num_classes),
    )


TINY = NetworkEntry(make_tiny, "two convolutions, for tests")
