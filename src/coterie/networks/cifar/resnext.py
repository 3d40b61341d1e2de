"""ResNeXt-29 for CIFAR (Xie et al. 2017, section 5.3): three stages of three grouped bottlenecks."""

from fractions import Fraction
from typing import ClassVar, cast

from torch import Tensor, nn

from coterie.networks.checkpointing import Blocks
from coterie.networks.cifar.resnet import conv1x1, conv3x3, initialise, shortcut, slim_widths


class ResNeXtBlock(nn.Module):
    """1x1, grouped 3x3 and 1x1 convolutions around a shortcut."""

    def __init__(self, inputs: int, outputs: int, inner: int, groups: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv1x1(inputs, inner)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = conv3x3(inner, inner, stride, groups)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = conv1x1(inner, outputs)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = shortcut(inputs, outputs, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class ResNeXt29(nn.Module):
    """Images (B, in_channels, H, W) to logits (B, num_classes); 34.4 M parameters at 8 groups of width 64.

    Args:
        num_classes: C.
        in_channels: Channels of the images.
        groups: Cardinality.
        widths: Width of a group in each stage.
        outputs: Channels between the blocks of each stage.
    """

    last_stage: ClassVar[str] = "layer3"  # where the papers' branches begin
    stages: ClassVar[tuple[str, ...]] = ("layer1", "layer2", "layer3")
    stage_ends: ClassVar[tuple[str, ...]] = stages  # whose outputs students of several widths compare

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        groups: int = 8,
        widths: tuple[int, ...] = (64, 128, 256),
        outputs: tuple[int, ...] = (256, 512, 1024),
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, 64)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(64, outputs[0], groups * widths[0], groups, 1)
        self.layer2 = _stage(outputs[0], outputs[1], groups * widths[1], groups, 2)
        self.layer3 = _stage(outputs[1], outputs[2], groups * widths[2], groups, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(outputs[2], num_classes)
        self.apply(initialise)

    _init_weights = staticmethod(initialise)

    def slim(self, share: Fraction, at: str) -> "ResNeXt29":
        """The same network, newly initialised: from ``at`` on as many groups, each a share as wide, and so between."""
        first = [cast(ResNeXtBlock, stage[0]) for stage in (self.layer1, self.layer2, self.layer3)]
        groups = first[0].conv2.groups
        widths = tuple(block.conv2.out_channels // groups for block in first)
        outputs = tuple(block.conv3.out_channels for block in first)
        return ResNeXt29(
            self.fc.out_features,
            self.conv1.in_channels,
            groups,
            slim_widths(widths, self.stages, share, at),
            slim_widths(outputs, self.stages, share, at),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, num_classes)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.avgpool(x).flatten(1))


def _stage(inputs: int, outputs: int, inner: int, groups: int, stride: int) -> Blocks:
    first = ResNeXtBlock(inputs, outputs, inner, groups, stride)
    return Blocks(first, *(ResNeXtBlock(outputs, outputs, inner, groups, 1) for _ in range(2)))
