"""CIFAR ResNets (He et al. 2016, section 4.2) with option-B shortcuts, as ONE's official code trains them.

Three stages of widths 16, 32 and 64 over a 3x3 stem; global average pool and one linear layer. Inputs of any size from
8x8 on.

A basic block has two weighted layers and a bottleneck three. ONE's official code puts (110 - 2) / 6 = 18 bottlenecks in
each stage and calls that ResNet-110: it has in fact 164 layers, 1.727 M parameters and 4.95e8 FLOPs at 100 classes.
OKDDip's has 12 bottlenecks a stage, which does make 110 layers (1.171 M parameters, 3.35e8 FLOPs).
"""

from fractions import Fraction
from math import sqrt
from typing import ClassVar, cast

from torch import Tensor, nn

from coterie.errors import UserError
from coterie.networks.checkpointing import Blocks


def conv3x3(inputs: int, outputs: int, stride: int = 1, groups: int = 1, bias: bool = False) -> nn.Conv2d:
    """A padded 3x3 convolution."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, groups=groups, bias=bias)


def conv1x1(inputs: int, outputs: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    """A 1x1 convolution."""
    return nn.Conv2d(inputs, outputs, 1, stride, bias=bias)


def initialise(module: nn.Module) -> None:
    """A convolution from N(0, 2 / (k² C_out)); other layers as PyTorch has them: batch norms at 1 and 0.

    Networks have it as ``_init_weights``, by which fresh branches of them start alike.
    """
    if isinstance(module, nn.Conv2d):
        size = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
        nn.init.normal_(module.weight, 0, sqrt(2 / size))


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Identity where shapes agree, else a 1x1 convolution with batch norm (option B)."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))


def slim_widths(widths: tuple[int, ...], stages: tuple[str, ...], share: Fraction, at: str) -> tuple[int, ...]:
    """Channels of each stage, those from ``at`` on cut to int(c share), at least 1.

    (Walawalkar, Shen, Savvides 2020, section 3.1: student i of S keeps the share (S - i + 1) / S of every layer above
    the common base.)

    Args:
        widths: Channels of each stage at full width.
        stages: The names of their modules.
        share: In (0, 1].
        at: The first stage to be cut.

    Raises:
        UserError: ``at`` is no stage.
    """
    if at not in stages:
        raise UserError(f"this network is slimmed from a stage on, and '{at}' is none; use one of {', '.join(stages)}")
    first = stages.index(at)
    return widths[:first] + tuple(max(1, int(channels * share)) for channels in widths[first:])


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, width, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut(inputs, width, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, width, H / stride, W / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut; the output is four times as wide."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv1x1(inputs, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv1x1(width, 4 * width)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = shortcut(inputs, 4 * width, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, 4 width, H / stride, W / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class CifarResNet(nn.Module):
    """A three-stage ResNet: images (B, in_channels, H, W) to logits (B, num_classes).

    Args:
        block: :class:`BasicBlock` or :class:`Bottleneck`.
        blocks: Blocks in each stage.
        num_classes: C.
        in_channels: Channels of the images.
        widths: Channels of each stage's blocks, before their expansion. The stem's are 16 whatever they are.
    """

    last_stage: ClassVar[str] = "layer3"  # where the papers' branches begin
    stages: ClassVar[tuple[str, ...]] = ("layer1", "layer2", "layer3")
    stage_ends: ClassVar[tuple[str, ...]] = stages  # whose outputs students of several widths compare

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: int,
        num_classes: int,
        in_channels: int,
        widths: tuple[int, ...] = (16, 32, 64),
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, 16)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        first, second, third = widths
        self.layer1 = _stage(block, 16, first, blocks, 1)
        self.layer2 = _stage(block, first * block.expansion, second, blocks, 2)
        self.layer3 = _stage(block, second * block.expansion, third, blocks, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(third * block.expansion, num_classes)
        self.apply(initialise)

    _init_weights = staticmethod(initialise)

    def slim(self, share: Fraction, at: str) -> "CifarResNet":
        """The same network, newly initialised, with a share of the channels in every stage from ``at`` on."""
        first = [cast(BasicBlock | Bottleneck, stage[0]) for stage in (self.layer1, self.layer2, self.layer3)]
        widths = slim_widths(tuple(block.conv1.out_channels for block in first), self.stages, share, at)
        sizes = len(self.layer1), self.fc.out_features, self.conv1.in_channels
        return CifarResNet(type(first[0]), *sizes, widths)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, num_classes)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.avgpool(x).flatten(1))


def _stage(block: type[BasicBlock] | type[Bottleneck], inputs: int, width: int, blocks: int, stride: int) -> Blocks:
    first = block(inputs, width, stride)
    return Blocks(first, *(block(width * block.expansion, width, 1) for _ in range(blocks - 1)))
