"""Batches whose order and augmentation are a function of (seed, stage, epoch, image index, view).

Neither the number of processes nor the place of a resumed step changes what a batch holds.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from coterie.data.base import ImageData, Images, Streaming
from coterie.data.mixing import Mixing, draw_mixtures, mix_images, partners, soften
from coterie.data.policies import Variation, erase, vary
from coterie.data.transforms import augment, framed, normalise
from coterie.errors import UserError, in_a_line
from coterie.outputs import Batch
from coterie.processor import measured_at_once
from coterie.seeds import mix

Array = np.ndarray[Any, Any]

CPU = torch.device("cpu")
NO_MIXING = Mixing()
NO_VARIATION = Variation()
Sampling = Literal["all", "balanced"]
# The views of a batch of these images, of their pixels.
_Views = Callable[[Tensor, Array], tuple[Tensor, ...]]

_PATIENCE = 600  # seconds that a batch may take to be decoded: nothing waits for ever


def order(count: int, seed: int, stage: int, epoch: int) -> Array:
    """The order of ``count`` images in an epoch: a permutation (count,), int64."""
    return np.random.default_rng(mix(seed, stage, epoch, "order")).permutation(count)


def balanced_order(labels: Array, seed: int, stage: int, epoch: int) -> Array:
    """As many images as there are, each class as often as the others: rare classes' several times, others' in part.

    Which classes have one image more than the rest, and which images of a class are shown, changes from epoch to epoch.

    Args:
        labels: Class indices (N,).
        seed: The run's.
        stage: The stage's index.
        epoch: From 0.

    Returns:
        Indices (N,), int64.
    """
    draw = np.random.default_rng(mix(seed, stage, epoch, "balanced order"))
    classes = draw.permutation(np.unique(labels))
    shown = [len(part) for part in np.array_split(labels, len(classes))]
    chosen = []
    for label, count in zip(classes, shown, strict=True):
        images = np.flatnonzero(labels == label)
        rounds = [draw.permutation(images) for _ in range(-(-count // len(images)))]
        chosen.append(np.concatenate(rounds)[:count] if rounds else images[:0])
    return draw.permutation(np.concatenate(chosen))


def class_weights(labels: Array, classes: int) -> Tensor:
    """What an image of each class weighs, so that classes weigh alike and the images' mean is 1 (C,): N / (k N_c).

    Args:
        labels: Class indices (N,), of k classes.
        classes: C; one without images weighs 0.
    """
    counts = np.bincount(labels, minlength=classes)
    weights = np.divide(len(labels), counts * np.count_nonzero(counts), out=np.zeros(classes), where=counts > 0)
    return torch.from_numpy(weights).float()


def batches_per_epoch(count: int, batch_size: int, world: int = 1) -> int:
    """Batches of ``batch_size`` images over all processes; a last short one counts if each process gets two images.

    Batch norm needs two: a rest of fewer is left out of the epoch (another one, in another order, the next time).
    """
    whole, rest = divmod(count, batch_size)
    return whole + (rest >= 2 * world)


def training_batches(
    data: ImageData,
    *,
    batch_size: int,
    seed: int,
    stage: int,
    epoch: int,
    views: int = 1,
    start: int = 0,
    rank: int = 0,
    world: int = 1,
    progress: float = 0.0,
    mixing: Mixing = NO_MIXING,
    variation: Variation = NO_VARIATION,
    sampling: Sampling = "all",
    device: torch.device = CPU,
) -> Iterator[Batch]:
    """The augmented batches of an epoch.

    Args:
        data: What to train on.
        batch_size: Images in a step over all processes.
        seed: The run's.
        stage: The stage's index.
        epoch: From 0.
        views: How many augmentations of each image.
        start: Batches to leave out at the beginning, of a resumed epoch.
        rank: This process's index.
        world: How many processes share a step.
        progress: The share of the stage's epochs that are over; passed on to the batches.
        mixing: How labels are smoothed and images mixed.
        variation: How images are varied beside the data's ``augment``; not at all where that is ``none``.
        sampling: ``all`` images once an epoch, or the classes ``balanced`` (:func:`balanced_order`).
        device: Where batches are made. What is done in 8 bits happens where the training images are
            (:meth:`~coterie.data.base.Resident.to`), and the rest here.

    Raises:
        UserError: A batch, or the whole training set, does not have two images for each process.
    """
    if batch_size < 2 * world:
        raise UserError(f"⟨batch_size⟩ is {batch_size}; use {2 * world} or more, two images for each process")
    if batches_per_epoch(len(data.train), batch_size, world) == 0:
        raise UserError(
            f"data '{data.name}' has {len(data.train)} training images; give {2 * world} or more, two for each process"
        )
    sequence = order(len(data.train), seed, stage, epoch)
    if sampling == "balanced":
        sequence = balanced_order(data.train.labels, seed, stage, epoch)
    steps = batches_per_epoch(len(sequence), batch_size, world)
    mixtures = draw_mixtures(mixing, steps, data.image_size, seed, stage, epoch, progress)
    places = [
        _places(min(batch_size, len(sequence) - step * batch_size), rank, world, mixtures.kind[step] > 0)
        for step in range(start, steps)
    ]
    parts = [sequence[step * batch_size + own.all] for step, own in zip(range(start, steps), places, strict=True)]
    keys = [mix(seed, stage, epoch, f"view{view}") for view in range(views)]
    variation = NO_VARIATION if data.augment == "none" else variation
    make_views = partial(_make_views, keys, data.augment, data.image_size, data.flip, variation)
    weights = class_weights(data.train.labels, len(data.classes)).to(device) if mixing.weighs else None
    fetched = _fetch(data.train, parts, make_views)
    for step, own, (indices, varied) in zip(range(start, steps), places, fetched, strict=True):
        normalised = (
            erase(normalise(view.to(device), data.mean, data.std), indices, key, variation.erasing)
            for view, key in zip(varied, keys, strict=True)
        )
        images = tuple(mix_images(view, own.others, mixtures, step) for view in normalised)
        labels = torch.from_numpy(data.train.labels[indices]).to(device)
        mine = labels[: len(own.others)]
        if mixing.softens:
            share = float(mixtures.share[step])
            mine = soften(mine, labels[own.others], share, len(data.classes), mixing.label_smoothing)
        if weights is not None:
            mine = mine * weights
        yield Batch(images, mine, torch.from_numpy(indices[: len(own.others)]).to(device), progress)


def _make_views(
    keys: list[int],
    how: str,
    size: tuple[int, int],
    flip: bool | None,
    variation: Variation,
    pixels: Tensor,
    indices: Array,
) -> tuple[Tensor, ...]:
    """An augmentation of a batch for each key, all of it that is done in 8 bits."""
    return tuple(vary(augment(pixels, indices, key, how, size, flip), indices, key, variation) for key in keys)


class _Places(NamedTuple):
    """Which images of a batch a process needs.

    Attributes:
        all: Their places in the batch of all processes: its own, then partners that are another process's.
        others: Where among these the partner of each of its own is.
    """

    all: Array
    others: Array


def _places(count: int, rank: int, world: int, mixed: bool) -> _Places:
    own = np.array_split(np.arange(count), world)[rank]
    if not mixed:
        return _Places(own, np.arange(len(own)))
    wanted = partners(count)[own]
    everything = np.concatenate([own, np.setdiff1d(wanted, own)])
    # Its own are a range, and what is added is sorted: at most one before it and one after.
    return _Places(everything, np.array([int(np.flatnonzero(everything == place)[0]) for place in wanted], int))


def evaluation_batches(
    data: ImageData, images: Images, *, batch_size: int = 0, device: str = "cpu", rank: int = 0, world: int = 1
) -> Iterator[Batch]:
    """A split in order, not augmented, every image exactly once over all processes; 0 is what suits the device."""
    batch_size = batch_size or measured_at_once(data.image_size, device)
    mine = np.array_split(np.arange(len(images)), world)[rank]
    parts = np.array_split(mine, range(batch_size, len(mine), batch_size)) if len(mine) else []
    make_views = partial(_framed, data.image_size, data.crop_ratio, data.interpolation)
    for indices, (pixels,) in _fetch(images, parts, make_views):
        view = normalise(pixels, data.mean, data.std)
        yield Batch((view,), torch.from_numpy(images.labels[indices]), torch.from_numpy(indices))


def read_ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches, each made in a thread while the one before it is used.

    For devices that compute while the processor waits; where the processor computes too, both would share its cores.
    """
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, batches, None)
            yield batch


def _framed(
    size: tuple[int, int], crop_ratio: float, interpolation: str, pixels: Tensor, indices: Array
) -> tuple[Tensor, ...]:
    return (framed(pixels, size, crop_ratio, interpolation),)


class _Decoded(Dataset[list[Array] | str]):
    """The views of whole batches of a streaming split, for worker processes.

    What is wrong with a file comes back as its line.
    """

    def __init__(self, images: Images, parts: list[Array], make_views: _Views) -> None:
        self.images, self.parts, self.make_views = images, parts, make_views

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, step: int) -> list[Array] | str:
        indices = self.parts[step]
        try:
            return [view.numpy() for view in self.make_views(self.images.pixels(indices), indices)]
        except UserError as error:
            return str(error)


def _as_it_is(batch: Any) -> Any:
    return batch


def _fetch(images: Images, parts: list[Array], make_views: _Views) -> Iterator[tuple[Array, tuple[Tensor, ...]]]:
    """The views of these parts of a split, made by the processes that decode where there are any."""
    workers = images.workers if isinstance(images, Streaming) else 0
    if workers == 0:
        for indices in parts:
            yield indices, make_views(images.pixels(indices), indices)
        return
    loader = DataLoader(
        _Decoded(images, parts, make_views),
        batch_size=None,
        num_workers=min(workers, max(len(parts), 1)),
        generator=torch.Generator(),  # else each epoch draws its workers' seed from the network's random numbers
        # Arrays come through pipes, tensors through shared memory, of which a container has 64 MB: where it is full
        # the workers die or wait for ever.
        collate_fn=_as_it_is,
        timeout=_PATIENCE,
    )
    decoded = _lines(loader)
    for indices in parts:
        views = next(decoded)
        if isinstance(views, str):
            raise UserError(views)
        yield indices, tuple(map(torch.from_numpy, views))


def _lines(loader: DataLoader[list[Array] | str]) -> Iterator[list[Array] | str]:
    """What the workers decode; what becomes of the workers themselves is one line too."""
    mend = "give fewer with ⟨data.workers⟩, or 0"
    try:
        batches = iter(loader)
    except OSError as error:
        raise UserError(
            f"the {loader.num_workers} processes that decode images cannot start ({error.strerror}); {mend}"
        ) from error
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except RuntimeError as error:
            reason = f"a batch took more than {_PATIENCE} s" if "timed out" in str(error) else in_a_line(error)
            raise UserError(f"the processes that decode images failed ({reason}); {mend}") from error
        yield batch
