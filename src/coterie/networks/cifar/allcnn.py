"""All-convolutional networks for CIFAR, as SRM's official code has them (Tran, Gabbouj, Iosifidis 2021)."""

from typing import ClassVar

from torch import Tensor, nn

from coterie.networks.checkpointing import Blocks


def initialise_as_srm(module: nn.Module) -> None:
    """A convolution's or linear layer's weight Kaiming-normal, its bias from N(0, 1); other layers as PyTorch has them.

    Networks have it as ``_init_weights``, by which fresh branches of them start alike.
    """
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.kaiming_normal_(module.weight)
        if module.bias is not None:
            nn.init.normal_(module.bias)


class AllCNN(nn.Module):
    """Convolutions in four blocks, three of which end in a stride of 2: images (B, in_channels, H, W) to logits.

    Each convolution has a bias, and is followed by batch norm and a leaky ReLU of slope 0.1.

    Args:
        scale: Of the widths 96, 192, 256 and 384 (official code: 0.66).
        num_classes: C.
        in_channels: Channels of the images.
    """

    last_stage: ClassVar[str] = "block4"

    def __init__(self, scale: float, num_classes: int, in_channels: int) -> None:
        super().__init__()
        widths = [int(width * scale) for width in (96, 192, 256, 384)]
        self.block1 = _block(in_channels, widths[0], (3, 3, 3), last_stride=2)
        self.block2 = _block(widths[0], widths[1], (3, 3, 3), last_stride=2)
        self.block3 = _block(widths[1], widths[2], (3, 3, 3), last_stride=2)
        self.block4 = _block(widths[2], widths[3], (3, 3, 1), last_stride=1)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[3], num_classes)
        self.apply(initialise_as_srm)

    _init_weights = staticmethod(initialise_as_srm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, num_classes)."""
        x = self.block4(self.block3(self.block2(self.block1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def _block(inputs: int, width: int, kernels: tuple[int, ...], last_stride: int) -> Blocks:
    layers: list[nn.Module] = []
    for index, kernel in enumerate(kernels):
        stride = last_stride if index == len(kernels) - 1 else 1
        layers.append(
            nn.Sequential(
                nn.Conv2d(inputs if index == 0 else width, width, kernel, stride, padding=kernel // 2),
                nn.BatchNorm2d(width),
                nn.LeakyReLU(0.1),
            )
        )
    return Blocks(*layers)
