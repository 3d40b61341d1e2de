"""A data set: stripes that lie, stand or lean, 8x8 grey."""

import numpy as np
import torch

from coterie.data import DataEntry, Resident, Shape, Source

CLASSES = ("lying", "standing", "leaning")


def read_stripes(period: int = 4, seed: int = 0) -> Source:
    """All images, drawn.

    Args:
        period: Pixels from one stripe to the next, an option of this data set alone: ``--data.period 4``.
        seed: Of the noise.
    """
    return Source(
        classes=CLASSES,
        train=_draw(48, period, seed),
        test=_draw(24, period, seed + 1),
        mean=(0.5,),
        std=(0.25,),
        image_size=(8, 8),
        channels=1,
    )


def _draw(count: int, period: int, seed: int) -> Resident:
    labels = np.arange(count) % len(CLASSES)
    rows, columns = np.mgrid[:8, :8]
    phase = np.stack([rows, columns, rows + columns])[labels]
    noise = np.random.default_rng(seed).normal(0, 20, phase.shape)
    pixels = (128 + 90 * np.sin(2 * np.pi * phase / period) + noise).clip(0, 255).astype(np.uint8)
    return Resident(torch.from_numpy(pixels).unsqueeze(3), labels.astype(np.int64))


STRIPES = DataEntry(
    "stripes in three directions, 8x8 grey, 48 + 24", read_stripes, augment="none", shape=Shape(3, 1, 8)
)
