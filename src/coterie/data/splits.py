"""Seeded, stratified splits of labels."""

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def stratified(labels: Array, count: int, seed: int) -> tuple[Array, Array]:
    """Split indices into ``count`` and the rest, each class in proportion; both parts sorted.

    A class of two or more images keeps at least one in each part where ``count`` allows it.

    Args:
        labels: (N,).
        count: Size of the first part, from 0 to N.
        seed: Of the choice within classes.
    """
    generator = np.random.default_rng(seed)
    classes, sizes = np.unique(labels, return_counts=True)
    share = sizes * (count / len(labels))
    quota = np.floor(share).astype(int)
    fewest, most = np.zeros_like(sizes), sizes
    if count >= len(classes):
        fewest = np.where(sizes >= 2, 1, 0)
    if len(labels) - count >= len(classes):
        most = np.where(sizes >= 2, sizes - 1, sizes)
    quota = np.clip(quota, fewest, most)
    # What rounding left over goes where it is owed most; what the minima took too much comes from the largest.
    while quota.sum() < count:
        quota[np.argmax(np.where(quota < most, share - quota, -np.inf))] += 1
    while quota.sum() > count:
        quota[np.argmax(np.where(quota > fewest, quota - share, -np.inf))] -= 1
    chosen = [
        generator.permutation(np.flatnonzero(labels == each))[:wanted]
        for each, wanted in zip(classes, quota, strict=True)
    ]
    first = np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, np.int64)
    return first, np.setdiff1d(np.arange(len(labels)), first)
