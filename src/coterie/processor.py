"""What the processor is known to do right and fast: layouts of images in memory, and bfloat16."""

import os

import torch
from torch import Tensor

# oneDNN's processors that multiply no bfloat16, as ONEDNN_MAX_CPU_ISA names them, which holds it to one of them.
_BEFORE_BFLOAT16 = ("sse41", "avx", "avx2", "avx2_vnni", "avx2_vnni_2", "avx512_core", "avx512_core_vnni")


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
    convolution may be channels-last with AVX2 too (``coterie.training.layout``); their images stay as they are.

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
