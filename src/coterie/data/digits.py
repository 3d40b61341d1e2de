"""Handwritten digits, 8x8 grey, bundled with scikit-learn: 1,297 to train on and 500 to test on."""

import numpy as np
import torch

from coterie.data.base import Resident, Source
from coterie.data.splits import stratified

_TEST = 500


def read() -> Source:
    """The split is the same for every seed."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = torch.from_numpy(np.round(bunch.images * (255 / 16)).astype(np.uint8)).unsqueeze(3)
    everything = Resident(pixels, bunch.target.astype(np.int64))
    test, train = stratified(everything.labels, _TEST, seed=0)
    return Source(
        classes=tuple(str(digit) for digit in range(10)),
        train=everything.subset(train),
        test=everything.subset(test),
        mean=(0.3053,),
        std=(0.3760,),
        image_size=(8, 8),
        channels=1,
    )
