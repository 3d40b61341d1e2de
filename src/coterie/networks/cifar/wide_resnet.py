"""Wide ResNets for CIFAR (Zagoruyko, Komodakis, *Wide Residual Networks*, BMVC 2016, arXiv 1605.07146).

Three stages of pre-activation basic blocks, of widths 16 k, 32 k and 64 k over a 3x3 stem of 16. WRN-28-10 has 36.5 M
parameters. Without the paper's optional dropout.
"""

from typing import ClassVar

from torch import Tensor, nn

from coterie.networks.checkpointing import Blocks
from coterie.networks.cifar.resnet import conv1x1, conv3x3, initialise


class PreActivationBlock(nn.Module):
    """BN-ReLU-3x3 twice around a shortcut; where the shape changes, a 1x1 convolution of the first BN-ReLU's output."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv3x3(inputs, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width)
        self.downsample = None if stride == 1 and inputs == width else conv1x1(inputs, width, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, width, H / stride, W / stride)."""
        y = self.relu(self.bn1(x))
        kept = x if self.downsample is None else self.downsample(y)
        return kept + self.conv2(self.relu(self.bn2(self.conv1(y))))


class WideResNet(nn.Module):
    """Images (B, in_channels, H, W) to logits (B, num_classes).

    Args:
        depth: 6 n + 4, n blocks in each stage: 16, 28, 40.
        widen: k.
        num_classes: C.
        in_channels: Channels of the images.
    """

    last_stage: ClassVar[str] = "layer3"  # where the papers' branches begin

    def __init__(self, depth: int, widen: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        self.conv1 = conv3x3(in_channels, 16)
        self.layer1 = _stage(16, 16 * widen, blocks, 1)
        self.layer2 = _stage(16 * widen, 32 * widen, blocks, 2)
        self.layer3 = _stage(32 * widen, 64 * widen, blocks, 2)
        self.bn = nn.BatchNorm2d(64 * widen)
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64 * widen, num_classes)
        self.apply(initialise)

    _init_weights = staticmethod(initialise)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, num_classes)."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return self.fc(self.avgpool(self.relu(self.bn(x))).flatten(1))


def _stage(inputs: int, width: int, blocks: int, stride: int) -> Blocks:
    first = PreActivationBlock(inputs, width, stride)
    return Blocks(first, *(PreActivationBlock(width, width, 1) for _ in range(blocks - 1)))
