"""Mixed images and soft labels: label smoothing, mixup, cutmix.

With x, x' two images of one batch, y, y' their one-hot labels (C,), λ in [0, 1] and M a box that covers 1 − λ of the
image:

    mixup    x ← λ x + (1 − λ) x'                        (Zhang, Cisse, Dauphin, Lopez-Paz, ICLR 2018, 1710.09412)
    cutmix   x ← x outside of M, x' inside               (Yun et al., ICCV 2019, 1905.04899)
    y ← λ y + (1 − λ) y',    then  y ← (1 − ε) y + ε / C  (label smoothing: Szegedy et al., CVPR 2016, 1512.00567)

λ ~ Beta(α, α). A batch has one kind, one λ and one box, drawn by its place in the training; images are mixed with their
neighbours in the batch, which is in random order: 2k with 2k + 1. All views and peers see the same mixture.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from coterie.seeds import mix

Array = np.ndarray[Any, Any]

_KEPT, _MIXUP, _CUTMIX = range(3)


@dataclass(frozen=True)
class Mixing:
    """How labels are smoothed and images mixed, see :class:`coterie.recipes.Recipe`.

    Attributes:
        label_smoothing: ε.
        mixup: α; 0 for none.
        cutmix: α; 0 for none.
        probability: Share of the batches that are mixed.
        until: Share of a stage's epochs after which none is.
        weighs: Whether labels are multiplied by their classes' weights (:func:`coterie.data.loader.class_weights`).
    """

    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    probability: float = 1.0
    until: float = 1.0
    weighs: bool = False

    @property
    def mixes(self) -> bool:
        """Whether images are mixed at all."""
        return (self.mixup > 0 or self.cutmix > 0) and self.probability > 0 and self.until > 0

    @property
    def softens(self) -> bool:
        """Whether labels are distributions."""
        return self.mixes or self.label_smoothing > 0 or self.weighs


class Mixtures(NamedTuple):
    """What happens to each batch of an epoch.

    Attributes:
        kind: 0 for nothing, 1 for mixup, 2 for cutmix (steps,).
        share: λ (steps,), for cutmix of the box that was drawn.
        box: Top, bottom, left and right of cutmix's box, in pixels (steps, 4).
    """

    kind: Array
    share: Array
    box: Array


def draw_mixtures(
    mixing: Mixing, steps: int, size: tuple[int, int], seed: int, stage: int, epoch: int, progress: float
) -> Mixtures:
    """The mixture of every batch of an epoch: that of step k is a function of (seed, stage, epoch, k) alone.

    Args:
        mixing: What may be drawn.
        steps: Batches in the epoch.
        size: (height, width) of the images.
        seed: The run's.
        stage: The stage's index.
        epoch: From 0.
        progress: The share of the stage's epochs that are over.
    """
    if not mixing.mixes or progress >= mixing.until:
        return Mixtures(np.zeros(steps, int), np.ones(steps), np.zeros((steps, 4), int))

    # A generator for each quantity: what a beta variable takes from one depends on what was drawn.
    def generator(name: str) -> np.random.Generator:
        return np.random.default_rng(mix(seed, stage, epoch, name))

    half = 0.5 if mixing.mixup and mixing.cutmix else float(mixing.cutmix > 0)
    cut = generator("mixture kind").random(steps) < half
    kind = np.where(cut, _CUTMIX, _MIXUP)
    kind[generator("mixture").random(steps) >= mixing.probability] = _KEPT
    first = generator("mixup share").beta(mixing.mixup or 1.0, mixing.mixup or 1.0, steps)
    second = generator("cutmix share").beta(mixing.cutmix or 1.0, mixing.cutmix or 1.0, steps)
    box = _boxes(np.sqrt(1 - second), generator("box").random((steps, 2)), size)
    covered = (box[:, 1] - box[:, 0]) * (box[:, 3] - box[:, 2]) / (size[0] * size[1])
    share = np.select([kind == _MIXUP, kind == _CUTMIX], [first, 1 - covered], 1.0)
    return Mixtures(kind, share, box)


def _boxes(sides: Array, centres: Array, size: tuple[int, int]) -> Array:
    """Boxes of these sides around these centres (steps, 2), both as shares of the image's; cut off at its edges."""
    ends = []
    for axis, length in enumerate(size):
        middle = (centres[:, axis] * length).astype(int)
        half = (sides * length).astype(int) // 2
        ends += [np.clip(middle - half, 0, length), np.clip(middle + half, 0, length)]
    return np.stack(ends, 1)


def partners(count: int) -> Array:
    """With which image of a batch each is mixed (count,): its neighbour; the last of an odd number, the one before."""
    places = np.arange(count) ^ 1
    if count % 2:
        places[-1] = max(count - 2, 0)
    return places


def mix_images(images: Tensor, others: Sequence[int] | Array, mixtures: Mixtures, step: int) -> Tensor:
    """Mix the first images of a batch with others of it.

    Args:
        images: (N, channels, H, W), N >= B.
        others: Where the partner of each of the first B images is.
        mixtures: Of the epoch.
        step: Which batch this is.

    Returns:
        (B, channels, H, W).
    """
    mine = images[: len(others)]
    if mixtures.kind[step] == _KEPT:
        return mine
    places = torch.as_tensor(others, device=images.device)
    if mixtures.kind[step] == _MIXUP:
        return torch.lerp(images.index_select(0, places), mine, float(mixtures.share[step]))
    top, bottom, left, right = mixtures.box[step].tolist()
    mixed = mine.clone()
    mixed[:, :, top:bottom, left:right] = images[:, :, top:bottom, left:right].index_select(0, places)
    return mixed


def soften(labels: Tensor, others: Tensor, share: float, classes: int, smoothing: float) -> Tensor:
    """Class indices and those of the images they are mixed with, both (B,), as distributions (B, C) in float32.

    Args:
        labels: y (B,), int64.
        others: y' (B,), int64.
        share: λ.
        classes: C.
        smoothing: ε.
    """
    soft = torch.full((len(labels), classes), smoothing / classes, device=labels.device)
    soft.scatter_add_(1, labels[:, None], torch.full_like(soft[:, :1], (1 - smoothing) * share))
    return soft.scatter_add_(1, others[:, None], torch.full_like(soft[:, :1], (1 - smoothing) * (1 - share)))
