"""Wrong labels on purpose, seeded: what a method makes of noisy labels can be measured against the clean ones."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from coterie.data.base import Array, Images
from coterie.errors import UserError

NoiseKind = Literal["symmetric", "asymmetric"]
Share = float | Sequence[float]


def noisy(
    images: Images, share: Share, kind: NoiseKind, mapping: Mapping[int, int] | None, classes: int, seed: int
) -> Images:
    """A split with wrong labels, its own kept as ``clean``.

    Of the n_c images of class c, share_c · n_c get a wrong label: rounded down, and what that leaves over of the whole
    number Σ_c share_c · n_c goes where most was lost, so that the total is exact and no class is an image or more off.
    ``symmetric`` draws the wrong label uniformly from the other classes (not from all of them: the stated share is
    wrong). ``asymmetric`` takes the class that ``mapping`` gives; without a mapping the next one, the last's being the
    first. A larger share keeps the wrong labels of a smaller one and adds to them.

    Args:
        images: The split.
        share: Share of wrong labels, in [0, 1]; or one for each class.
        kind: How a wrong label is chosen.
        mapping: Class to the class it is taken for; the labels of a class that it does not name stay right.
        classes: C.
        seed: Of the choice of images and of symmetric labels.
    """
    labels = images.labels
    generator = np.random.default_rng([seed, _PURPOSE])
    wrong = (labels + generator.integers(1, classes, len(labels))) % classes
    if kind == "asymmetric":
        into = (np.arange(classes) + 1) % classes if mapping is None else np.arange(classes)
        for source, target in (mapping or {}).items():
            into[source] = target
        wrong = into[labels]
    rank = _rank_in_class(labels, generator.random(len(labels)))
    shares = np.broadcast_to(np.asarray(share, float), classes)
    if mapping is not None:
        shares = np.where(np.isin(np.arange(classes), list(mapping)), shares, 0.0)
    counts = _apportioned(shares * np.bincount(labels, minlength=classes))
    return replace(images, labels=np.where(rank < counts[labels], wrong, labels), clean=labels)


# So that these draws are other ones than those of the splits, which have the same seed.
_PURPOSE = 0x401CE


def _rank_in_class(labels: Array, draws: Array) -> Array:
    """The place (N,) of each image among those of its class, by rising draw."""
    rank = np.empty(len(labels), np.int64)
    for each in np.unique(labels):
        members = np.flatnonzero(labels == each)
        rank[members[np.argsort(draws[members])]] = np.arange(len(members))
    return rank


def _apportioned(wanted: Array) -> Array:
    """Whole numbers (C,), each less than one off, that add up to the rounded sum (largest remainders)."""
    # Shares such as 0.29 of 100 come out as 28.999999999999996.
    wanted = wanted.round(9)
    counts = np.floor(wanted).astype(np.int64)
    left = round(wanted.sum()) - counts.sum()
    counts[np.argsort(counts - wanted, kind="stable")[:left]] += 1
    return counts


def check_noise(share: Share, kind: str, mapping: Mapping[int, int] | None, classes: int) -> None:
    """Refuse noise that cannot be.

    Raises:
        UserError: Names the option and the mend.
    """
    shares = [share] if isinstance(share, (int, float)) else list(share)
    if not isinstance(share, (int, float)) and len(shares) != classes:
        raise UserError(
            f"⟨data.noise⟩ has {len(shares)} shares, and there are {classes} classes; give one, or one each"
        )
    if not all(0 <= each <= 1 for each in shares):
        bad = next(each for each in shares if not 0 <= each <= 1)
        raise UserError(f"⟨data.noise⟩ is {bad}; it is the share of wrong labels, from 0 to 1")
    if kind not in ("symmetric", "asymmetric"):
        raise UserError(f"⟨data.noise_kind⟩ is '{kind}'; use symmetric or asymmetric")
    if mapping is None:
        return
    if kind != "asymmetric":
        raise UserError("⟨data.noise_map⟩ says what each class becomes; add ⟨data.noise_kind asymmetric⟩")
    if not any(shares):
        raise UserError("⟨data.noise_map⟩ is given and ⟨data.noise⟩ is 0; say the share of wrong labels, as 0.4")
    for source, target in mapping.items():
        if not (0 <= source < classes and 0 <= target < classes) or source == target:
            raise UserError(f"⟨data.noise_map⟩ has {source}: {target}; map a class to another, from 0 to {classes - 1}")
