"""Operations on images for whole batches of uint8, on any device: each image has its own operation and amount.

An image's result is a function of that image alone, to the bit: sums over pixels are of integers, and no product is
fused with a sum, which would round the last images of a batch otherwise than the first.
"""

from collections.abc import Callable
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, Any]


class Operation(IntEnum):
    """What can be done to an image, and in what its amount is; 0 always leaves it as it is.

    Outside of a moved image is black, and pixels are taken from the nearest place.

    Attributes:
        IDENTITY: Nothing.
        SHEAR_X: Tangent; a row moves by its distance from the top.
        SHEAR_Y: Tangent; a column moves by its distance from the left.
        TRANSLATE_X: Whole pixels to the right.
        TRANSLATE_Y: Whole pixels down.
        ROTATE: Degrees, anticlockwise around the middle.
        BRIGHTNESS: Factor less 1: -1 is black.
        SATURATION: Factor less 1: -1 is grey.
        CONTRAST: Factor less 1: -1 is the mean grey.
        SHARPNESS: Factor less 1: -1 is blurred.
        POSTERIZE: How many of the lower bits become 0.
        SOLARIZE: How many of the 256 levels are inverted, the brightest ones.
        AUTOCONTRAST: Share of the way to where each channel's lowest and highest level are 0 and 255.
        EQUALIZE: Share of the way to where each channel's levels are about equally many.
    """

    IDENTITY = 0
    SHEAR_X = 1
    SHEAR_Y = 2
    TRANSLATE_X = 3
    TRANSLATE_Y = 4
    ROTATE = 5
    BRIGHTNESS = 6
    SATURATION = 7
    CONTRAST = 8
    SHARPNESS = 9
    POSTERIZE = 10
    SOLARIZE = 11
    AUTOCONTRAST = 12
    EQUALIZE = 13


_MOVING = (
    *(Operation.SHEAR_X, Operation.SHEAR_Y, Operation.TRANSLATE_X, Operation.TRANSLATE_Y),
    Operation.ROTATE,
)
_BY_LEVEL = (
    *(Operation.BRIGHTNESS, Operation.CONTRAST, Operation.POSTERIZE, Operation.SOLARIZE),
    *(Operation.AUTOCONTRAST, Operation.EQUALIZE),
)


def operate(pixels: Tensor, operations: Array, amounts: Array) -> Tensor:
    """Do to each image of a batch its own operation.

    Args:
        pixels: uint8 (B, H, W, channels), 1 or 3 channels.
        operations: An :class:`Operation` each (B,).
        amounts: Of it (B,).

    Returns:
        uint8 (B, H, W, channels), where ``pixels`` are.
    """
    images = pixels.contiguous()
    changed = images.clone()
    kernels: tuple[tuple[tuple[Operation, ...], Callable[[Tensor, Array, Array], Tensor]], ...] = (
        (_MOVING, _move),
        (_BY_LEVEL, _map_levels),
        ((Operation.SATURATION,), _saturate),
        ((Operation.SHARPNESS,), _sharpen),
    )
    for kinds, kernel in kernels:
        rows = np.flatnonzero(np.isin(operations, kinds) & (amounts != 0))
        if len(rows):
            there = torch.from_numpy(rows).to(pixels.device)
            done = kernel(_rows(images, there), operations[rows], amounts[rows].astype(np.float64))
            # Whole images as rows, which is many times faster than by their dimensions.
            changed.view(len(changed), -1).index_copy_(0, there, done.reshape(len(rows), -1))
    return changed


def grey_levels(images: Tensor) -> Tensor:
    """The luminance (n, H, W, 1) of colour images, rounded down, int32; of grey ones their own.

    The weights are torchvision's, in ten-thousandths.
    """
    wide = images.int()
    if images.shape[3] == 1:
        return wide
    return (wide[..., :1] * 2989).add_(wide[..., 1:2] * 5870).add_(wide[..., 2:] * 1140).floor_divide_(10000)


def _rows(images: Tensor, rows: Tensor) -> Tensor:
    return images.view(len(images), -1).index_select(0, rows).view(len(rows), *images.shape[1:])


def _column(amounts: Array, images: Tensor, dimensions: int) -> Tensor:
    """Amounts (n,) beside images, float64 (n, 1, …)."""
    return torch.from_numpy(amounts).to(images.device).view(-1, *(1,) * (dimensions - 1))


def _levels(images: Tensor) -> Tensor:
    return torch.arange(256, dtype=torch.float32, device=images.device)


def _move(images: Tensor, operations: Array, amounts: Array) -> Tensor:
    """Shear, translate or rotate: one gather for all of them."""
    count, height, width, channels = images.shape
    device = images.device
    matrices = torch.from_numpy(_matrices(operations, amounts, height, width)).to(device)[..., None, None]
    y = torch.arange(height, dtype=torch.float64, device=device)[None, :, None]
    x = torch.arange(width, dtype=torch.float64, device=device)[None, None, :]
    column, row = (
        (matrices[:, axis, 0] * x + matrices[:, axis, 1] * y + matrices[:, axis, 2]).round_() for axis in (0, 1)
    )
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    places = torch.where(inside, row * width + column, float(height * width)).long()
    # One black pixel after each image is what lies outside of it.
    padded = images.new_zeros(count, height * width + 1, channels)
    padded[:, :-1] = images.view(count, -1, channels)
    places += torch.arange(count, device=device)[:, None, None] * (height * width + 1)
    return padded.view(-1, channels).index_select(0, places.view(-1)).view(images.shape)


def _matrices(operations: Array, amounts: Array, height: int, width: int) -> Array:
    """From a pixel's (column, row, 1) to those of where it is taken from: (n, 2, 3), float64."""
    matrices = np.zeros((len(amounts), 2, 3))
    matrices[:, 0, 0] = matrices[:, 1, 1] = 1.0

    def of(operation: Operation) -> Array:
        return np.where(operations == operation, amounts, 0.0)

    # A shear fixes the image's corner, which lies half a pixel before the first pixel's middle.
    matrices[:, 0, 1], matrices[:, 0, 2] = of(Operation.SHEAR_X), of(Operation.SHEAR_X) / 2
    matrices[:, 1, 0], matrices[:, 1, 2] = of(Operation.SHEAR_Y), of(Operation.SHEAR_Y) / 2
    matrices[:, 0, 2] -= of(Operation.TRANSLATE_X)
    matrices[:, 1, 2] -= of(Operation.TRANSLATE_Y)
    rows = operations == Operation.ROTATE
    angle, middle = np.deg2rad(amounts[rows]), ((width - 1) / 2, (height - 1) / 2)
    cosine, sine = np.cos(angle), np.sin(angle)
    matrices[rows, 0] = np.stack([cosine, -sine, middle[0] - cosine * middle[0] + sine * middle[1]], 1)
    matrices[rows, 1] = np.stack([sine, cosine, middle[1] - sine * middle[0] - cosine * middle[1]], 1)
    return matrices


def _map_levels(images: Tensor, operations: Array, amounts: Array) -> Tensor:
    """What changes a pixel by its level alone: a table of 256 levels for each image's channel, and one look-up."""
    count, _, _, channels = images.shape
    tables = images.new_empty(count, channels, 256)
    for operation, make in _TABLES.items():
        rows = np.flatnonzero(operations == operation)
        if len(rows):
            there = torch.from_numpy(rows).to(images.device)
            tables[there] = make(_rows(images, there), _column(amounts[rows], images, 3))
    return tables.view(-1).take(images + _starts(images))


def _starts(images: Tensor) -> Tensor:
    """Where the 256 levels of each image's channel begin (n, 1, 1, channels)."""
    count, _, _, channels = images.shape
    return torch.arange(0, count * channels * 256, 256, device=images.device).view(count, 1, 1, channels)


def _to_bytes(levels: Tensor) -> Tensor:
    return levels.clamp(0, 255).byte()  # rounded down, as torchvision does


def _brightness(images: Tensor, amounts: Tensor) -> Tensor:
    return _to_bytes(_levels(images) * (1 + amounts).float())


def _contrast(images: Tensor, amounts: Tensor) -> Tensor:
    mean = grey_levels(images).sum((1, 2, 3)).double() / (images.shape[1] * images.shape[2])
    return _to_bytes(_levels(images) * (1 + amounts) - mean[:, None, None] * amounts)


def _posterize(images: Tensor, amounts: Tensor) -> Tensor:
    bits = amounts.int()
    levels = torch.arange(256, dtype=torch.int32, device=images.device)
    return ((levels >> bits) << bits).byte()


def _solarize(images: Tensor, amounts: Tensor) -> Tensor:
    levels = _levels(images)
    return torch.where(levels >= 256 - amounts, 255 - levels, levels).byte()


def _autocontrast(images: Tensor, amounts: Tensor) -> Tensor:
    low, high = (end.float()[:, :, None] for end in (images.amin((1, 2)), images.amax((1, 2))))
    flat = low == high
    scale = torch.where(flat, 1.0, (high - low) * (1 / 255))
    return _part_way((_levels(images) - low.masked_fill(flat, 0)) / scale, amounts)


def _equalize(images: Tensor, amounts: Tensor) -> Tensor:
    """Pillow's rule: the darkest level becomes 0, and the brightest does not count."""
    count, height, width, channels = images.shape
    counted = torch.zeros(count * channels * 256, dtype=torch.int64, device=images.device)
    places = (images + _starts(images)).view(-1)
    frequencies = counted.scatter_add_(0, places, torch.ones_like(places)).view(count, channels, 256)
    brightest = images.amax((1, 2)).long()[:, :, None]
    step = (height * width - frequencies.gather(2, brightest)) // 255
    before = frequencies.cumsum(2) - frequencies
    levels = torch.where(step > 0, (before + step // 2) // step.clamp(min=1), _levels(images).long())
    levels[:, :, :1] *= step == 0
    return _part_way(levels, amounts)


def _part_way(table: Tensor, amounts: Tensor) -> Tensor:
    levels = torch.arange(256, dtype=torch.float64, device=table.device)
    return (levels + (_to_bytes(table) - levels) * amounts).round_().byte()


_TABLES: dict[Operation, Callable[[Tensor, Tensor], Tensor]] = {
    Operation.BRIGHTNESS: _brightness,
    Operation.CONTRAST: _contrast,
    Operation.POSTERIZE: _posterize,
    Operation.SOLARIZE: _solarize,
    Operation.AUTOCONTRAST: _autocontrast,
    Operation.EQUALIZE: _equalize,
}


def _saturate(images: Tensor, operations: Array, amounts: Array) -> Tensor:
    if images.shape[3] == 1:
        return images
    factors = _column(amounts, images, 4).float()
    return _to_bytes(images * (1 + factors) - grey_levels(images) * factors)


def _sharpen(images: Tensor, operations: Array, amounts: Array) -> Tensor:
    """Towards or away from a blur of 3x3 pixels, the middle one counting five times; the edge stays."""
    if min(images.shape[1:3]) <= 2:
        return images
    wide = images.int()
    rows = wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]
    middle = wide[:, 1:-1, 1:-1]
    summed = (rows[:, :, :-2] + rows[:, :, 1:-1]).add_(rows[:, :, 2:]).add_(4 * middle)
    blurred = summed.mul_(2).add_(13).floor_divide_(26)  # rounded: a thirteenth is never half of anything
    factors = _column(amounts, images, 4).float()
    sharpened = images.clone()
    sharpened[:, 1:-1, 1:-1] = _to_bytes(middle * (1 + factors) - blurred * factors)
    return sharpened
