"""What the processor is known to do right and fast: layouts of images in memory, sizes of batches, and bfloat16."""

import os
from collections.abc import Collection

import torch
from torch import Tensor, nn

# oneDNN's processors that multiply no bfloat16, as ONEDNN_MAX_CPU_ISA names them, which holds it to one of them.
_BEFORE_BFLOAT16 = ("sse41", "avx", "avx2", "avx2_vnni", "avx2_vnni_2", "avx512_core", "avx512_core_vnni")

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
_IMAGE_CHANNELS = (1, 3)
KERNELS, STRIDES = (1, 3, 5, 7), (1, 2, 3)  # that were proven, unpadded or padded by half the kernel
# Kernel, stride and padding of first convolutions that were proven, on images of 8 pixels or more.
STEMS = ((3, 1, 1), (3, 2, 1), (3, 2, 0), (4, 4, 0), (5, 1, 2), (5, 2, 2), (7, 2, 3))


def uses_avx512() -> bool:
    """Whether both PyTorch's own kernels and oneDNN's are those for AVX-512 here.

    Either can be held to less, by ``ATEN_CPU_CAPABILITY`` and ``ONEDNN_MAX_CPU_ISA``, on a processor that has it.
    """
    # oneDNN takes bfloat16 from AVX-512 on; there is no other way to ask what it dispatches to.
    asked = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512") and bool(asked())


def uses_avx2() -> bool:
    """Whether PyTorch's own kernels are those for AVX2, or for AVX-512 while oneDNN's are not."""
    return torch.backends.cpu.get_cpu_capability().startswith(("AVX2", "AVX512")) and not uses_avx512()


def has_native_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 matrices in hardware, and its kernels may."""
    held = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    if not uses_avx512() or held.lower() in _BEFORE_BFLOAT16:
        return False
    known = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in known)


def memory_format(device: torch.device | str = "cpu") -> torch.memory_format:
    """The layout of images and of any convolution's weights on a device: channels-last where that is proven.

    It is faster with AVX-512 and on CUDA, and everything was trained so. Elsewhere it is declined: with oneDNN's
    kernels for AVX2, the backward of a convolution of few channels writes beyond its memory
    (``benchmarks/onednn_crash.py``).
    Precision does not change the choice, since a bfloat16 run is measured in float32. Networks that hold no such
    convolution may be channels-last with AVX2 too (:func:`layout_of`); their images stay as they are.

    Args:
        device: Where the images are used.
    """
    kind = torch.device(device).type
    proven = kind == "cuda" or (kind == "cpu" and uses_avx512())
    return torch.channels_last if proven else torch.contiguous_format


def laid_out(images: Tensor) -> Tensor:
    """Images (B, channels, H, W) in their device's layout, copied where they are in another."""
    layout = memory_format(images.device)
    # Images of one channel are in both layouts at once, and convolutions go by their strides.
    copied = layout is torch.contiguous_format and images.stride(1) < images.stride(2)
    return images.clone(memory_format=layout) if copied else images.contiguous(memory_format=layout)


def measured_at_once(image_size: tuple[int, int], device: str = "cpu") -> int:
    """How many images are in a batch that is only measured: on a CPU 32, or 16 of more than 96 pixels, else 256.

    glibc gives the memory of large batches back to the system, which clears it anew at each forward; so small ones were
    1.1 to 3.9 times as fast (``benchmarks/evaluation_batches.py``).

    Args:
        image_size: Height and width in pixels.
        device: Type of the network's device.
    """
    if device != "cpu":
        return 256
    return 32 if max(image_size) <= 96 else 16


def layout_of(modules: Collection[nn.Module], device: torch.device) -> torch.memory_format:
    """The layout of networks that are trained together.

    With AVX2 alone, channels-last is faster for small networks (``benchmarks/layouts.py``), but some convolutions of
    few channels write beyond their memory (:func:`memory_format`). So it is taken there only where each convolution is
    of a kind in which thousands of drawn shapes did not (``benchmarks/layouts.py --proof``): all of them, since one
    takes its layout from what the one before it put out.

    Args:
        modules: All networks of a stage.
        device: Where they are trained.
    """
    if device.type == "cpu" and uses_avx2() and modules and all(map(_is_proven, modules)):
        return torch.channels_last
    return memory_format(device)


def _is_proven(module: nn.Module) -> bool:
    return all(_is_known(each) and _has_proven_shape(each) for each in module.modules())


def _is_known(module: nn.Module) -> bool:
    return type(module).__module__.startswith(_KNOWN)


def _has_proven_shape(module: nn.Module) -> bool:
    """No convolution, or of :data:`STEMS`, or of channels in eights in each group or depthwise."""
    if not isinstance(module, nn.Conv2d):
        return not isinstance(module, nn.modules.conv._ConvNd)
    kernel, stride, padding = (set(sides) for sides in (module.kernel_size, module.stride, module.padding))
    if not len(kernel) == len(stride) == len(padding) == 1 or module.dilation != (1, 1):
        return False
    shape = (*kernel, *stride, *padding)
    if module.in_channels in _IMAGE_CHANNELS:
        return shape in STEMS and module.out_channels % _MULTIPLE == 0
    depthwise = module.groups == module.in_channels == module.out_channels
    groups = 1 if depthwise else module.groups
    proven = shape[0] in KERNELS and shape[1] in STRIDES and shape[2] in (0, shape[0] // 2)
    return proven and all(each % (_MULTIPLE * groups) == 0 for each in (module.in_channels, module.out_channels))
