"""Augmentation and normalisation of a whole batch at a time.

The random numbers of an image are a function of (seed, stage, epoch, view, image index) alone, by a counter hash
without state: neither the batch it is in nor the process matters.
"""

from functools import lru_cache
from math import ceil, log
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from coterie.data.pixels import before_crop
from coterie.processor import laid_out
from coterie.seeds import random_bits

Array = np.ndarray[Any, Any]

AUGMENTATIONS = ("crop-flip", "crop", "random-resized-crop", "none")

_AREA = (0.08, 1.0)  # of a random crop, as a share of the image's
_ASPECT = (3 / 4, 4 / 3)  # its width over its height
_TRIES = 10


def padding(size: int) -> int:
    """How far a crop moves: an eighth of the side, 4 pixels at 28 and 32."""
    return ceil(size / 8)


def roomy(size: tuple[int, int]) -> tuple[int, int]:
    """The size at which images are kept that are cropped and resized to ``size``: 8/7 of it, 256 for 224."""
    return ceil(size[0] * 8 / 7), ceil(size[1] * 8 / 7)


def augment(
    pixels: Tensor,
    indices: Array,
    key: int,
    how: str,
    size: tuple[int, int] | None = None,
    flip: bool | None = None,
) -> Tensor:
    """Vary a batch of images.

    ``crop`` pads each image with black and crops it back at a random place; ``crop-flip`` also mirrors half of them;
    ``random-resized-crop`` takes a random part of the image, resizes it, and mirrors half of them.

    Args:
        pixels: uint8 (B, H, W, channels).
        indices: Which images these are (B,).
        key: The stream of random numbers, of (seed, stage, epoch, view).
        how: One of :data:`AUGMENTATIONS`.
        size: (height, width) of what comes out of ``random-resized-crop``; None for the images' own. The others leave
            the size as it is.
        flip: Whether half of the images are mirrored; None for what ``how`` says. ``none`` never mirrors.

    Returns:
        uint8 (B, height, width, channels).
    """
    if how == "none":
        return pixels
    flip = how != "crop" if flip is None else flip
    if how == "random-resized-crop":
        return _random_resized(pixels, indices, key, size or (pixels.shape[1], pixels.shape[2]), flip)
    bits = random_bits(key, indices)
    mirrored = (bits >> np.uint64(40)) & np.uint64(1) if flip else np.zeros_like(bits)
    return _crop(pixels, bits & np.uint64(0xFFFFF), (bits >> np.uint64(20)) & np.uint64(0xFFFFF), mirrored)


def _crop(pixels: Tensor, top: Array, left: Array, mirrored: Array) -> Tensor:
    """Images padded with black and cropped back where these random numbers say, some of them mirrored."""
    count, height, width, channels = pixels.shape
    down, right = padding(height), padding(width)
    drawn = (top % np.uint64(2 * down + 1), left % np.uint64(2 * right + 1), mirrored)
    above, before, mirror = torch.from_numpy(np.stack(drawn).astype(np.int64)).to(pixels.device)[:, :, None]
    padded = functional.pad(pixels, (0, 0, right, right, down, down))
    rows = torch.arange(height, device=pixels.device) + above
    columns = torch.arange(width, device=pixels.device)
    columns = torch.where(mirror > 0, width - 1 - columns, columns) + before
    places = (rows * (width + 2 * right))[:, :, None] + columns[:, None, :]
    places += torch.arange(count, device=pixels.device)[:, None, None] * (padded.shape[1] * padded.shape[2])
    return padded.view(-1, channels).index_select(0, places.view(-1)).view(pixels.shape)


def _mirror(images: Tensor, chosen: Array) -> None:
    """Mirror these images (B, H, W, channels) of a batch in place."""
    # Whole images as rows, and torch's own mirror: ten times faster than numpy's negative strides.
    places, flat = torch.from_numpy(chosen), images.view(len(images), -1)
    mirrored = flat.index_select(0, places).view(len(chosen), *images.shape[1:]).flip(2)
    flat.index_copy_(0, places, mirrored.flatten(1))


def _random_resized(pixels: Tensor, indices: Array, key: int, size: tuple[int, int], flip: bool) -> Tensor:
    boxes = random_boxes(indices, key, (pixels.shape[1], pixels.shape[2]))
    images = pixels.permute(0, 3, 1, 2)
    out = torch.empty(len(pixels), *size, pixels.shape[3], dtype=torch.uint8)
    for place, (top, left, height, width) in enumerate(boxes.tolist()):
        part = images[place : place + 1, :, top : top + height, left : left + width]
        resized = functional.interpolate(part, size, mode="bilinear", antialias=True)
        out[place] = resized[0].permute(1, 2, 0)
    if flip:
        _mirror(out, np.flatnonzero(random_bits(key, _counters(indices, _TRIES)) >> np.uint64(63)))
    return out


def random_boxes(indices: Array, key: int, size: tuple[int, int]) -> Array:
    """Random parts of images, as in "Going Deeper with Convolutions" (Szegedy et al. 2015, section 6).

    Of ten tries, the first that lies within the image: its area is uniform in 8 % to 100 % of the image's, its aspect
    log-uniform in 3/4 to 4/3. Where none does, the largest part in the middle whose aspect is allowed.

    Args:
        indices: Which images these are (B,).
        key: The stream of random numbers.
        size: (height, width) of the images.

    Returns:
        Top, left, height, width (B, 4), int64.
    """
    rows, columns = size
    tries = random_bits(key, _counters(indices[:, None], np.arange(_TRIES)))
    area = rows * columns * _between(_AREA, tries & np.uint64(0xFFFFFFFF))
    aspect = np.exp(_between((log(_ASPECT[0]), log(_ASPECT[1])), tries >> np.uint64(32)))
    width, height = np.sqrt(area * aspect).round().astype(np.int64), np.sqrt(area / aspect).round().astype(np.int64)
    fits = (width >= 1) & (width <= columns) & (height >= 1) & (height <= rows)
    first, found, each = fits.argmax(1), fits.any(1), np.arange(len(indices))
    whole = min(rows, round(columns / _ASPECT[0])), min(columns, round(rows * _ASPECT[1]))
    height = np.where(found, height[each, first], whole[0])
    width = np.where(found, width[each, first], whole[1])
    places = random_bits(key, _counters(indices, _TRIES))
    top = (places & np.uint64(0x7FFFFFFF)).astype(np.int64) % (rows - height + 1)
    left = ((places >> np.uint64(31)) & np.uint64(0x7FFFFFFF)).astype(np.int64) % (columns - width + 1)
    top, left = np.where(found, top, (rows - height) // 2), np.where(found, left, (columns - width) // 2)
    return np.stack([top, left, height, width], 1)


def _counters(indices: Array, number: Array | int) -> Array:
    """Counters of an image's several random numbers."""
    return indices * (_TRIES + 1) + number


def _between(ends: tuple[float, float], bits: Array) -> Array:
    """Uniform in an interval, of 32 random bits each."""
    return ends[0] + (ends[1] - ends[0]) * (bits.astype(np.float64) / 2**32)


def framed(pixels: Tensor, size: tuple[int, int], crop_ratio: float = 1.0, interpolation: str = "bicubic") -> Tensor:
    """Images as they are measured, of images that are kept whole: resized, and the middle taken.

    Args:
        pixels: uint8 (B, H, W, channels); of the aspect of ``size``.
        size: (height, width) of what comes out. Images that have it were framed when they were decoded.
        crop_ratio: The share of the sides that is taken, in (0, 1].
        interpolation: ``bicubic`` or ``bilinear``, antialiased.

    Returns:
        uint8 (B, height, width, channels).
    """
    if tuple(pixels.shape[1:3]) == size:
        return pixels
    whole = before_crop(size, crop_ratio)
    top, left = (round((side - kept) / 2) for side, kept in zip(whole, size, strict=True))
    pixels = resized(pixels, whole, interpolation)
    return pixels[:, top : top + size[0], left : left + size[1]].contiguous()


def resized(pixels: Tensor, size: tuple[int, int], interpolation: str = "bicubic") -> Tensor:
    """Images (B, H, W, channels), uint8, in another (height, width), by antialiased interpolation."""
    if tuple(pixels.shape[1:3]) == size:
        return pixels
    parts = [
        functional.interpolate(part.permute(0, 3, 1, 2).float(), size, mode=interpolation, antialias=True)
        for part in torch.split(pixels, 1024)
    ]
    return torch.cat([part.clamp(0, 255).round().byte() for part in parts]).permute(0, 2, 3, 1).contiguous()


@lru_cache(maxsize=8)
def _affine(
    mean: tuple[float, ...], std: tuple[float, ...], places: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Scale and shift for every place of an image: rows that long are vectorised, rows of one pixel are not."""
    scale = torch.tensor([1 / (255 * s) for s in std], device=device)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device)
    return scale.repeat(places), shift.repeat(places)


def normalise(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(pixels / 255 - mean) / std: uint8 (B, H, W, channels) to float32 (B, channels, H, W), as its device wants it."""
    count, height, width, channels = pixels.shape
    scale, shift = _affine(tuple(mean), tuple(std), height * width, pixels.device)
    flat = torch.addcmul(shift, pixels.reshape(count, -1).float(), scale)
    images = flat.view(count, height, width, channels).permute(0, 3, 1, 2)
    return laid_out(images)
