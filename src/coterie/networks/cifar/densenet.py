"""DenseNet-BC for CIFAR (Huang et al. 2017): dense blocks of bottleneck layers, compression 1/2."""

from fractions import Fraction
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from coterie.networks.checkpointing import Blocks
from coterie.networks.cifar.allcnn import initialise_as_srm
from coterie.networks.cifar.resnet import conv1x1, conv3x3, initialise, slim_widths


class DenseLayer(nn.Module):
    """BN-ReLU-1x1 to 4k channels, BN-ReLU-3x3 to k, concatenated to the input."""

    def __init__(self, inputs: int, growth: int, bias: bool = False) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv1x1(inputs, 4 * growth, bias=bias)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = conv3x3(4 * growth, growth, bias=bias)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, inputs + growth, H, W)."""
        y = self.conv1(self.relu(self.bn1(x)))
        y = self.conv2(self.relu(self.bn2(y)))
        return torch.cat([x, y], 1)


class Transition(nn.Module):
    """BN-ReLU-1x1 to half the channels, then 2x2 average pooling."""

    def __init__(self, inputs: int, bias: bool = False) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(inputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv = conv1x1(inputs, inputs // 2, bias=bias)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, inputs / 2, H / 2, W / 2)."""
        return self.pool(self.conv(self.relu(self.bn(x))))


class DenseNetBC(nn.Module):
    """Images (B, in_channels, H, W) to logits (B, num_classes).

    Args:
        depth: L = 6 n + 4, n layers in each block: 100, 190.
        growth: k.
        num_classes: C.
        in_channels: Channels of the images.
        growths: Each block's own k; None for k in all. The stem's width is 2 k whatever they are.
    """

    last_stage: ClassVar[str] = "dense3"  # where the papers' branches begin
    stages: ClassVar[tuple[str, ...]] = ("dense1", "dense2", "dense3")
    stage_ends: ClassVar[tuple[str, ...]] = ("trans1", "trans2", "dense3")  # whose outputs students compare

    def __init__(
        self,
        depth: int,
        growth: int,
        num_classes: int,
        in_channels: int,
        growths: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        layers = (depth - 4) // 6
        width = 2 * growth
        first, second, third = growths or (growth,) * 3
        self.conv1 = conv3x3(in_channels, width)
        self.dense1, width = _dense(width, first, layers)
        self.trans1, width = Transition(width), width // 2
        self.dense2, width = _dense(width, second, layers)
        self.trans2, width = Transition(width), width // 2
        self.dense3, width = _dense(width, third, layers)
        self.bn = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width, num_classes)
        self.apply(initialise)

    _init_weights = staticmethod(initialise)

    def slim(self, share: Fraction, at: str) -> "DenseNetBC":
        """The same network, newly initialised, with a share of the growth in every dense block from ``at`` on."""
        blocks = (self.dense1, self.dense2, self.dense3)
        growths = tuple(cast(DenseLayer, block[0]).conv2.out_channels for block in blocks)
        return DenseNetBC(
            6 * len(self.dense1) + 4,
            self.conv1.out_channels // 2,
            self.fc.out_features,
            self.conv1.in_channels,
            slim_widths(growths, self.stages, share, at),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, num_classes)."""
        x = self.trans1(self.dense1(self.conv1(x)))
        x = self.trans2(self.dense2(x))
        x = self.relu(self.bn(self.dense3(x)))
        return self.fc(self.avgpool(x).flatten(1))


class DenseNet121(nn.Module):
    """DenseNet-121 for small images: images (B, in_channels, H, W) to logits (B, num_classes).

    The ImageNet network's blocks of 6, 12, 24 and 16 layers at k = 32, over a 3x3 stem of 64 channels that keeps the
    size; convolutions have biases. SRM's teacher: weights and biases start as in its official code, see
    :func:`coterie.networks.cifar.allcnn.initialise_as_srm`.

    Args:
        num_classes: C.
        in_channels: Channels of the images.
    """

    last_stage: ClassVar[str] = "dense4"

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, 64, bias=True)
        self.dense1, width = _dense(64, 32, 6, bias=True)
        self.trans1, width = Transition(width, bias=True), width // 2
        self.dense2, width = _dense(width, 32, 12, bias=True)
        self.trans2, width = Transition(width, bias=True), width // 2
        self.dense3, width = _dense(width, 32, 24, bias=True)
        self.trans3, width = Transition(width, bias=True), width // 2
        self.dense4, width = _dense(width, 32, 16, bias=True)
        self.bn = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width, num_classes)
        self.apply(initialise_as_srm)

    _init_weights = staticmethod(initialise_as_srm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, num_classes)."""
        x = self.trans1(self.dense1(self.conv1(x)))
        x = self.trans2(self.dense2(x))
        x = self.trans3(self.dense3(x))
        x = self.relu(self.bn(self.dense4(x)))
        return self.fc(self.avgpool(x).flatten(1))


def _dense(width: int, growth: int, layers: int, bias: bool = False) -> tuple[Blocks, int]:
    block = Blocks(*(DenseLayer(width + index * growth, growth, bias) for index in range(layers)))
    return block, width + layers * growth
