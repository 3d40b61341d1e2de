"""Handwritten digits, 8x8 grey, bundled with scikit-learn: 1,297 to train on and 500 to test on."""

import numpy as np
import torch

from coterie.data.base import DataEntry, Resident, Shape, Source
from coterie.data.splits import most_held_out, stratified
from coterie.errors import UserError
from coterie.extras import need

_TEST = 500


def read_digits(test_fraction: float | None = None, seed: int = 0) -> Source:
    """The digits, split.

    Args:
        test_fraction: Share of the 1,797 images to test on; None for the fixed 500, the same for every seed.
        seed: Of the choice where a share is given.

    Raises:
        UserError: The share leaves no image to train or to test on.
    """
    bunch = need("sklearn.datasets", "data").load_digits()
    pixels = torch.from_numpy(np.round(bunch.images * (255 / 16)).astype(np.uint8)).unsqueeze(3)
    everything = Resident(pixels, bunch.target.astype(np.int64))
    count, choice = (_TEST, 0) if test_fraction is None else (round(test_fraction * len(everything)), seed)
    if not 0 < count < len(everything):
        raise UserError(f"⟨data.test_fraction {test_fraction}⟩ holds out {count} of {len(everything)} images")
    if count > most_held_out(everything.labels):
        raise UserError(f"⟨data.test_fraction {test_fraction}⟩ leaves classes without training images; hold out fewer")
    test, train = stratified(everything.labels, count, choice)
    return Source(
        classes=tuple(str(digit) for digit in range(10)),
        train=everything.subset(train),
        test=everything.subset(test),
        mean=(0.3053,),
        std=(0.3760,),
        image_size=(8, 8),
        channels=1,
    )


DIGITS = DataEntry(
    "handwritten digits, 8x8 grey, 1,297 + 500, bundled", read_digits, augment="crop", shape=Shape(10, 1, 8)
)
