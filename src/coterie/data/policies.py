"""How training images are varied beside crops and flips: a policy, colour jitter, random erasing.

TrivialAugment (Müller, Hutter, ICCV 2021, 2103.10158) takes one operation for an image, and one of 31 magnitudes, all
alike; RandAugment (Cubuk, Zoph, Shlens, Le, 2020, 1909.13719) two operations, at magnitude 9 of 0 to 30. The ranges are
those of torchvision: TrivialAugment's is the wide space.

Random erasing (Zhong, Zheng, Kang, Li, Yang, AAAI 2020, 1708.04896) erases a box of 2 to 33 % of the image, of an
aspect in 0.3 to 3.3: pixels become 0 after they are normalised, which is the data's mean colour.

All that is drawn for an image is a function of (seed, stage, epoch, view, image index).
"""

from dataclasses import dataclass
from math import log
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from coterie.data.operations import Operation, operate
from coterie.seeds import random_bits

Array = np.ndarray[Any, Any]
Policy = Literal["none", "trivial-augment", "rand-augment"]

_MAGNITUDES = 31
_RAND_AUGMENT = 9  # of 0 to 30
_ERASED = (0.02, 0.33)  # share of the image's area
_ASPECT = (0.3, 1 / 0.3)
_TRIES = 10
_HUE = 0.25  # of a turn, at full jitter
_AT_ONCE = 2**14  # pixels whose jitter stays in the processor's cache
# Which number of an image is drawn for what: crops and flips take those below, so that nothing is drawn twice.
_OPERATION, _JITTER, _HUE_JITTER, _ERASING, _BOX = 1, 3, 4, 5, 6
_APART = 40  # bits between them: more than there are counters of crops


@dataclass(frozen=True)
class Variation:
    """How training images are varied beside what the data's ``augment`` does, see :class:`coterie.recipes.Recipe`.

    Attributes:
        policy: ``trivial-augment``, ``rand-augment`` or ``none``.
        strength: How far the policy goes, from 0, where it leaves every image as it is, to 1, the published range.
        jitter: j; brightness, contrast and saturation are multiplied by factors from 1 - j to 1 + j, and hue is turned
            by up to j / 4 of the circle either way. Of grey images brightness and contrast alone.
        erasing: Share of the images of which a box is erased.
    """

    policy: Policy = "none"
    strength: float = 1.0
    jitter: float = 0.0
    erasing: float = 0.0


class _Space(NamedTuple):
    """The largest amounts of a policy; shares are of the image's side."""

    shear: float
    pixels: float
    share: float
    degrees: float
    factor: float
    bits: int


# torchvision's wide space moves by 32 pixels whatever the size; smaller images would leave their frame: a side at most.
_WIDE = _Space(shear=0.99, pixels=32, share=1.0, degrees=135, factor=0.99, bits=6)
_NARROW = _Space(shear=0.3, pixels=np.inf, share=150 / 331, degrees=30, factor=0.9, bits=4)


def vary(pixels: Tensor, indices: Array, key: int, variation: Variation) -> Tensor:
    """What a policy and jitter make of a batch.

    Args:
        pixels: uint8 (B, H, W, channels), on any device.
        indices: Which images these are (B,).
        key: The stream of random numbers, of (seed, stage, epoch, view).
        variation: How far they go.

    Returns:
        uint8 (B, H, W, channels).
    """
    if variation.policy != "none" and variation.strength > 0:
        for place in range(1 if variation.policy == "trivial-augment" else 2):
            operations, amounts = draw_operations(indices, key, variation, (pixels.shape[1], pixels.shape[2]), place)
            pixels = operate(pixels, operations, amounts)
    if variation.jitter > 0:
        pixels = jitter(pixels, draw_factors(indices, key, variation.jitter))
    return pixels


def draw_operations(
    indices: Array, key: int, variation: Variation, size: tuple[int, int], place: int = 0
) -> tuple[Array, Array]:
    """What a policy does to each image, and how far, both (B,).

    Args:
        indices: Which images these are (B,).
        key: The stream of random numbers.
        variation: The policy and its strength.
        size: (height, width) of the images.
        place: Which of an image's operations: 0, of RandAugment also 1.
    """
    wide = variation.policy == "trivial-augment"
    space, bits = _WIDE if wide else _NARROW, _draw(indices, key, _OPERATION + place)
    operations = ((bits & np.uint64(0xFFFFF)) % np.uint64(len(Operation))).astype(np.int64)
    drawn = ((bits >> np.uint64(20)) & np.uint64(0xFFFFF)) % np.uint64(_MAGNITUDES)
    magnitudes = drawn / (_MAGNITUDES - 1) if wide else np.full(len(indices), _RAND_AUGMENT / (_MAGNITUDES - 1))
    magnitudes = magnitudes * variation.strength
    signed = np.where(bits >> np.uint64(63), -magnitudes, magnitudes)
    tables = np.zeros((len(Operation), len(indices)))
    tables[[Operation.SHEAR_X, Operation.SHEAR_Y]] = signed * space.shear
    for operation, side in ((Operation.TRANSLATE_X, size[1]), (Operation.TRANSLATE_Y, size[0])):
        tables[operation] = np.trunc(signed * min(space.pixels, space.share * side))
    tables[Operation.ROTATE] = signed * space.degrees
    tables[[Operation.BRIGHTNESS, Operation.SATURATION, Operation.CONTRAST, Operation.SHARPNESS]] = (
        signed * space.factor
    )
    tables[Operation.POSTERIZE] = np.rint(magnitudes * space.bits)
    tables[Operation.SOLARIZE] = magnitudes * 256
    tables[[Operation.AUTOCONTRAST, Operation.EQUALIZE]] = variation.strength
    return operations, tables[operations, np.arange(len(indices))]


class Factors(NamedTuple):
    """How each image's colours are changed, (B,) float32 each: three factors, and a part of the circle of hues."""

    brightness: Array
    contrast: Array
    saturation: Array
    hue: Array


def draw_factors(indices: Array, key: int, strength: float) -> Factors:
    """The factors of colour jitter, uniform in their ranges.

    Args:
        indices: Which images these are (B,).
        key: The stream of random numbers.
        strength: j, see :class:`Variation`.
    """
    low = np.uint64(0xFFFFFFFF)
    first, second = _draw(indices, key, _JITTER), _draw(indices, key, _HUE_JITTER)
    between = [
        strength * (2 * (bits / 2**32) - 1)
        for bits in (first & low, first >> np.uint64(32), second & low, second >> np.uint64(32))
    ]
    offsets = [value.astype(np.float32) for value in between]
    return Factors(1 + offsets[0], 1 + offsets[1], 1 + offsets[2], offsets[3] * np.float32(_HUE))


def jitter(pixels: Tensor, factors: Factors) -> Tensor:
    """Change brightness, contrast, saturation and hue, in this order, and round once.

    Args:
        pixels: uint8 (B, H, W, channels).
        factors: Of each image.

    Returns:
        uint8 (B, H, W, channels).
    """
    count = max(1, _AT_ONCE // (pixels.shape[1] * pixels.shape[2])) if pixels.device.type == "cpu" else len(pixels)
    values = torch.from_numpy(np.stack(factors)).to(pixels.device)
    columns = [torch.split(value.view(-1, 1, 1, 1), count) for value in values]
    parts = zip(torch.split(pixels, count), *columns, strict=True)
    return torch.cat([_jitter_part(*part) for part in parts])


def _jitter_part(pixels: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor) -> Tensor:
    images = pixels.permute(0, 3, 1, 2).float().contiguous()
    images.mul_(brightness).clamp_(max=255)
    # Rounded down before they are summed, so that the sum is exact in whatever order.
    mean = _luminance(images).to(torch.int32).sum((1, 2, 3), keepdim=True) / (images.shape[2] * images.shape[3])
    images.mul_(contrast).add_(mean * (1 - contrast)).clamp_(0, 255)
    if images.shape[1] == 3:
        grey = _luminance(images).mul_(1 - saturation)
        images.mul_(saturation).add_(grey).clamp_(0, 255)
        images = _turn_hues(images, hue)
    return images.round_().byte().permute(0, 2, 3, 1)


def _luminance(images: Tensor) -> Tensor:
    """(B, channels, H, W) to (B, 1, H, W)."""
    if images.shape[1] == 1:
        return images
    return (images[:, :1] * 0.2989).add_(images[:, 1:2] * 0.587).add_(images[:, 2:] * 0.114)


def _turn_hues(images: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue of images (B, 3, H, W) by these parts of the circle (B, 1, 1, 1); value and range stay.

    With h in [0, 6) the hue in sixths of the circle, m the least and c the range of a pixel's channels: red is
    m + c clamp(|h - 3| - 1), green m + c clamp(2 - |h - 2|), blue m + c clamp(2 - |h - 4|), clamped to [0, 1].
    """
    red, green, blue = images.unbind(1)
    most = torch.maximum(torch.maximum(red, green), blue)
    least = torch.minimum(torch.minimum(red, green), blue)
    span = most - least
    by = span.clamp(min=1e-6).reciprocal_()
    hue = ((red - green).mul_(by)).add_(4)
    hue = torch.where(most == green, (blue - red).mul_(by).add_(2), hue)
    hue = torch.where(most == red, (green - blue).mul_(by), hue).add_(6 * turn[:, 0])
    hue.sub_((hue / 6).floor_().mul_(6))
    turned = torch.empty_like(images)
    for channel, (middle, sign, offset) in enumerate(((3, 1, -1), (2, -1, 2), (4, -1, 2))):
        share = (hue - middle).abs_().mul_(sign).add_(offset).clamp_(0, 1)
        torch.add(share.mul_(span), least, out=turned[:, channel])
    return turned


def erase(images: Tensor, indices: Array, key: int, share: float) -> Tensor:
    """Erase a random box of some images, in place.

    Args:
        images: Normalised (B, channels, H, W), on any device: 0 is the mean colour.
        indices: Which images these are (B,).
        key: The stream of random numbers.
        share: Of the images that lose a box, in [0, 1].

    Returns:
        ``images``.
    """
    if share <= 0:
        return images
    chosen = np.flatnonzero((_draw(indices, key, _ERASING) >> np.uint64(11)) / 2**53 < share)
    boxes = erased_boxes(indices[chosen], key, (images.shape[2], images.shape[3]))
    for place, (top, left, height, width) in zip(chosen.tolist(), boxes.tolist(), strict=True):
        images[place, :, top : top + height, left : left + width] = 0
    return images


def erased_boxes(indices: Array, key: int, size: tuple[int, int]) -> Array:
    """The boxes of random erasing: of ten tries the first that is smaller than the image; an empty one if none is.

    Args:
        indices: Which images these are (B,).
        key: The stream of random numbers.
        size: (height, width) of the images.

    Returns:
        Top, left, height, width (B, 4), int64.
    """
    rows, columns = size
    tries = np.stack([_draw(indices, key, _BOX + number) for number in range(_TRIES)], 1)
    share, shape = (tries & np.uint64(0xFFFFFFFF)) / 2**32, (tries >> np.uint64(32)) / 2**32
    area = rows * columns * (_ERASED[0] + (_ERASED[1] - _ERASED[0]) * share)
    aspect = np.exp(log(_ASPECT[0]) + (log(_ASPECT[1]) - log(_ASPECT[0])) * shape)
    height, width = np.rint(np.sqrt(area * aspect)).astype(int), np.rint(np.sqrt(area / aspect)).astype(int)
    fits = (height >= 1) & (height < rows) & (width >= 1) & (width < columns)
    images, first = np.arange(len(indices)), fits.argmax(1)
    fit = fits[images, first]
    height, width = np.where(fit, height[images, first], 0), np.where(fit, width[images, first], 0)
    places = _draw(indices, key, _BOX + _TRIES)
    top = (places & np.uint64(0x7FFFFFFF)).astype(np.int64) % (rows - height + 1)
    left = ((places >> np.uint64(31)) & np.uint64(0x7FFFFFFF)).astype(np.int64) % (columns - width + 1)
    return np.stack([top, left, height, width], 1)


def _draw(indices: Array, key: int, number: int) -> Array:
    """64 random bits of each image: its so-manieth."""
    return random_bits(key, indices + (number << _APART))
