"""The layout in memory of a stage's networks."""

from collections.abc import Collection

import torch
from torch import nn

from coterie.processor import memory_format, uses_avx2

# Whose modules call no convolution but those that can be seen among them, of widths that stay as they are. Rooms of
# methods that slice or prune channels as they train, or convolve with tensors of their own, are not among them.
_KNOWN = (
    "torch.nn.",
    "torchvision.",
    "timm.",
    "coterie.networks.",
    "coterie.peers.",
    "coterie.methods.vanilla",
    "coterie.methods.kd",
    "coterie.methods.frozen_teacher",
    "coterie.methods.online.",
)
_MULTIPLE = 8  # channels: a vector of float32 in AVX2
_STEM_KERNELS, _IMAGE_CHANNELS = range(3, 8), (1, 3)


def layout_of(modules: Collection[nn.Module], device: torch.device) -> torch.memory_format:
    """The layout of networks that are trained together.

    With AVX2 alone, channels-last is faster for small networks (``benchmarks/layouts.py``), but some convolutions of
    few channels write beyond their memory (:func:`coterie.processor.memory_format`). So it is taken there only where
    each convolution is of a kind in which thousands of drawn shapes did not (``benchmarks/layouts.py --proof``): all
    of them, since one takes its layout from what the one before it put out.

    Args:
        modules: All networks of a stage.
        device: Where they are trained.
    """
    if device.type == "cpu" and uses_avx2() and modules and all(map(_is_proven, modules)):
        return torch.channels_last
    return memory_format(device)


def _is_proven(module: nn.Module) -> bool:
    return all(_is_known(each) and _has_proven_channels(each) for each in module.modules())


def _is_known(module: nn.Module) -> bool:
    return type(module).__module__.startswith(_KNOWN)


def _has_proven_channels(module: nn.Module) -> bool:
    """Channels of eights in each group, or depthwise of eights, or a stem of small kernel that images go into."""
    if not isinstance(module, nn.Conv2d):
        return not isinstance(module, nn.modules.conv._ConvNd)
    depthwise = module.groups == module.in_channels == module.out_channels
    if module.in_channels in _IMAGE_CHANNELS:
        return module.out_channels % _MULTIPLE == 0 and all(side in _STEM_KERNELS for side in module.kernel_size)
    groups = 1 if depthwise else module.groups
    return all(channels % (_MULTIPLE * groups) == 0 for channels in (module.in_channels, module.out_channels))
