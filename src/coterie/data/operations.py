"""Operations on images for whole batches of uint8: each image has its own operation and its own amount.

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
_LEVELS = np.arange(256, dtype=np.float32)


def operate(pixels: Tensor, operations: Array, amounts: Array) -> Tensor:
    """Do to each image of a batch its own operation.

    Args:
        pixels: uint8 (B, H, W, channels), 1 or 3 channels.
        operations: An :class:`Operation` each (B,).
        amounts: Of it (B,).

    Returns:
        uint8 (B, H, W, channels).
    """
    images = np.ascontiguousarray(pixels.numpy())
    changed = images.copy()
    kernels: tuple[tuple[tuple[Operation, ...], Callable[[Array, Array, Array], Array]], ...] = (
        (_MOVING, _move),
        (_BY_LEVEL, _map_levels),
        ((Operation.SATURATION,), _saturate),
        ((Operation.SHARPNESS,), _sharpen),
    )
    for kinds, kernel in kernels:
        rows = np.flatnonzero(np.isin(operations, kinds) & (amounts != 0))
        if len(rows):
            changed[rows] = kernel(images[rows], operations[rows], amounts[rows].astype(np.float64))
    return torch.from_numpy(changed)


def grey_levels(images: Array) -> Array:
    """The luminance (n, H, W, 1) of colour images, rounded down, int32; of grey ones their own.

    The weights are torchvision's, in ten-thousandths.
    """
    wide = images.astype(np.int32)
    if images.shape[3] == 1:
        return wide
    weighed: Array = (wide[..., :1] * 2989 + wide[..., 1:2] * 5870 + wide[..., 2:] * 1140) // 10000
    return weighed


def _move(images: Array, operations: Array, amounts: Array) -> Array:
    """Shear, translate or rotate: one gather for all of them."""
    count, height, width, channels = images.shape
    matrices = _matrices(operations, amounts, height, width)
    y, x = np.arange(height)[None, :, None], np.arange(width)[None, None, :]
    column, row = (
        np.rint(
            matrices[:, axis, 0, None, None] * x
            + matrices[:, axis, 1, None, None] * y
            + matrices[:, axis, 2, None, None]
        )
        for axis in (0, 1)
    )
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    places = np.where(inside, row * width + column, height * width).astype(np.intp)
    # One black pixel after each image is what lies outside of it.
    padded = np.zeros((count, height * width + 1, channels), np.uint8)
    padded[:, :-1] = images.reshape(count, -1, channels)
    places += (np.arange(count) * (height * width + 1))[:, None, None]
    moved: Array = padded.reshape(-1, channels)[places]
    return moved


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


def _map_levels(images: Array, operations: Array, amounts: Array) -> Array:
    """What changes a pixel by its level alone: a table of 256 levels for each image's channel, and one look-up."""
    count, _, _, channels = images.shape
    tables = np.empty((count, channels, 256), np.uint8)
    for operation, make in _TABLES.items():
        rows = np.flatnonzero(operations == operation)
        if len(rows):
            tables[rows] = make(images[rows], amounts[rows][:, None, None])
    starts = (np.arange(count)[:, None] * channels + np.arange(channels)) * 256
    mapped: Array = tables.reshape(-1)[images + starts[:, None, None, :]]
    return mapped


def _to_bytes(levels: Array) -> Array:
    rounded: Array = np.clip(levels, 0, 255).astype(np.uint8)  # down, as torchvision does
    return rounded


def _brightness(images: Array, amounts: Array) -> Array:
    return _to_bytes(_LEVELS * (1 + amounts).astype(np.float32))


def _contrast(images: Array, amounts: Array) -> Array:
    mean = grey_levels(images).mean((1, 2, 3), dtype=np.float64)[:, None, None]
    return _to_bytes(_LEVELS * (1 + amounts) - mean * amounts)


def _posterize(images: Array, amounts: Array) -> Array:
    bits = amounts.astype(np.int64)
    return ((np.arange(256) >> bits) << bits).astype(np.uint8)


def _solarize(images: Array, amounts: Array) -> Array:
    return np.where(256 - amounts <= _LEVELS, 255 - _LEVELS, _LEVELS).astype(np.uint8)


def _autocontrast(images: Array, amounts: Array) -> Array:
    low, high = (end.astype(np.float32)[:, :, None] for end in (images.min((1, 2)), images.max((1, 2))))
    flat = low == high
    scale = np.where(flat, np.float32(1), (high - low) * np.float32(1 / 255))
    return _part_way(_to_bytes((_LEVELS - np.where(flat, 0, low)) / scale), amounts)


def _equalize(images: Array, amounts: Array) -> Array:
    """Pillow's rule: the darkest level becomes 0, and the brightest does not count."""
    count, height, width, channels = images.shape
    starts = (np.arange(count)[:, None] * channels + np.arange(channels)) * 256
    counted = np.bincount((images + starts[:, None, None, :]).ravel(), minlength=count * channels * 256)
    frequencies = counted.reshape(count, channels, 256)
    cumulated = frequencies.cumsum(2)
    brightest = 255 - (frequencies[:, :, ::-1] > 0).argmax(2)
    step = (height * width - np.take_along_axis(frequencies, brightest[:, :, None], 2)) // 255
    before = np.concatenate([np.zeros_like(step), cumulated[:, :, :-1]], 2)
    levels = np.where(step > 0, (before + step // 2) // np.maximum(step, 1), np.arange(256))
    levels[:, :, :1] *= step == 0
    return _part_way(_to_bytes(levels), amounts)


def _part_way(table: Array, amounts: Array) -> Array:
    return np.rint(_LEVELS + (table - _LEVELS) * amounts).astype(np.uint8)


_TABLES: dict[Operation, Callable[[Array, Array], Array]] = {
    Operation.BRIGHTNESS: _brightness,
    Operation.CONTRAST: _contrast,
    Operation.POSTERIZE: _posterize,
    Operation.SOLARIZE: _solarize,
    Operation.AUTOCONTRAST: _autocontrast,
    Operation.EQUALIZE: _equalize,
}


def _saturate(images: Array, operations: Array, amounts: Array) -> Array:
    if images.shape[3] == 1:
        return images
    factors, grey = amounts.astype(np.float32)[:, None, None, None], grey_levels(images).astype(np.float32)
    return _to_bytes(images * (1 + factors) - grey * factors)


def _sharpen(images: Array, operations: Array, amounts: Array) -> Array:
    """Towards or away from a blur of 3x3 pixels, the middle one counting five times; the edge stays."""
    if min(images.shape[1:3]) <= 2:
        return images
    wide = images.astype(np.int32)
    rows = wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]
    middle = wide[:, 1:-1, 1:-1]
    summed = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * middle
    blurred = (2 * summed + 13) // 26  # rounded: a thirteenth is never half of anything
    factors = amounts.astype(np.float32)[:, None, None, None]
    sharpened = images.copy()
    sharpened[:, 1:-1, 1:-1] = _to_bytes(middle * (1 + factors) - blurred * factors)
    return sharpened
