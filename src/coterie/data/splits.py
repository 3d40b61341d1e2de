"""Seeded, stratified splits of labels."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from coterie.seeds import mix

Array = np.ndarray[Any, Any]


def stratified(
    labels: Array,
    count: int,
    seed: int,
    names: Sequence[str] | None = None,
    every_class_in: Literal["first", "rest"] | None = None,
) -> tuple[Array, Array]:
    """Split indices into ``count`` and the rest, each class in proportion; both parts sorted.

    A class of two or more images keeps at least one in each part where ``count`` allows it.

    Args:
        labels: (N,).
        count: Size of the first part, from 0 to N.
        seed: Of the choice within classes.
        names: A name (N,) of each image. The choice is then a function of seed and name, not of the other images: one
            more image moves one at most in its class, but for what the share of the class rounds to.
        every_class_in: The part in which every class must have an image, one of a single image too. ``first`` holds
            where ``count`` is not below the number of classes, ``rest`` where it is :func:`most_held_out` at most.
    """
    generator = np.random.default_rng(seed)
    classes, sizes = np.unique(labels, return_counts=True)
    share = sizes * (count / len(labels))
    quota = np.floor(share).astype(int)
    fewest, most = np.zeros_like(sizes), sizes
    if count >= len(classes):
        fewest = np.where(sizes >= 2, 1, 0)
        if every_class_in == "first":
            fewest = np.ones_like(sizes)
    if len(labels) - count >= len(classes):
        most = np.where(sizes >= 2, sizes - 1, sizes)
    if every_class_in == "rest":
        most = sizes - 1
    quota = np.clip(quota, fewest, most)
    # What rounding left over goes where it is owed most; what the minima took too much comes from the largest.
    while quota.sum() < count:
        quota[np.argmax(np.where(quota < most, share - quota, -np.inf))] += 1
    while quota.sum() > count:
        quota[np.argmax(np.where(quota > fewest, quota - share, -np.inf))] -= 1
    ranks = None if names is None else np.array([mix(seed, name) for name in names], np.uint64)
    chosen = []
    for label, wanted in zip(classes, quota, strict=True):
        members = np.flatnonzero(labels == label)
        if ranks is None:
            chosen.append(generator.permutation(members)[:wanted])
        else:
            chosen.append(members[np.argsort(ranks[members], kind="stable")][:wanted])
    first = np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, np.int64)
    return first, np.setdiff1d(np.arange(len(labels)), first)


def most_held_out(labels: Array) -> int:
    """How many images can be held out so that every class keeps one."""
    return len(labels) - len(np.unique(labels))
