"""Batches whose order and augmentation are a function of (seed, stage, epoch, image index, view).

Neither the number of processes nor the place of a resumed step changes what a batch holds.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from coterie.data.base import ImageData, Images, Streaming
from coterie.data.transforms import augment, normalise, resized
from coterie.errors import UserError, in_a_line
from coterie.outputs import Batch
from coterie.seeds import mix

Array = np.ndarray[Any, Any]

_PATIENCE = 600  # seconds that a batch may take to be decoded: nothing waits for ever


def order(count: int, seed: int, stage: int, epoch: int) -> Array:
    """The order of ``count`` images in an epoch: a permutation (count,), int64."""
    return np.random.default_rng(mix(seed, stage, epoch, "order")).permutation(count)


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
        progress: Passed on to the batches.

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
    parts = []
    for step in range(start, batches_per_epoch(len(sequence), batch_size, world)):
        whole = sequence[step * batch_size : (step + 1) * batch_size]
        parts.append(np.array_split(whole, world)[rank])
    keys = [mix(seed, stage, epoch, f"view{view}") for view in range(views)]
    for indices, pixels in _fetch(data.train, parts):
        varied = (augment(pixels, indices, key, data.augment, data.image_size) for key in keys)
        images = tuple(normalise(view, data.mean, data.std) for view in varied)
        yield _batch(images, data.train, indices, progress)


def evaluation_batches(
    data: ImageData, images: Images, *, batch_size: int = 256, rank: int = 0, world: int = 1
) -> Iterator[Batch]:
    """A split in order, not augmented, every image exactly once over all processes."""
    mine = np.array_split(np.arange(len(images)), world)[rank]
    parts = np.array_split(mine, range(batch_size, len(mine), batch_size)) if len(mine) else []
    for indices, pixels in _fetch(images, parts):
        yield _batch((normalise(resized(pixels, data.image_size), data.mean, data.std),), images, indices, 0.0)


def _batch(views: tuple[Tensor, ...], images: Images, indices: Array, progress: float) -> Batch:
    return Batch(views, torch.from_numpy(images.labels[indices]), torch.from_numpy(indices), progress)


class _Decoded(Dataset[Array | str]):
    """Whole batches of a streaming split, for worker processes; what is wrong with a file comes back as its line."""

    def __init__(self, images: Images, parts: list[Array]) -> None:
        self.images, self.parts = images, parts

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, step: int) -> Array | str:
        try:
            return self.images.pixels(self.parts[step]).numpy()
        except UserError as error:
            return str(error)


def _as_it_is(batch: Any) -> Any:
    return batch


def _fetch(images: Images, parts: list[Array]) -> Iterator[tuple[Array, Tensor]]:
    workers = images.workers if isinstance(images, Streaming) else 0
    if workers == 0:
        for indices in parts:
            yield indices, images.pixels(indices)
        return
    loader = DataLoader(
        _Decoded(images, parts),
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
        pixels = next(decoded)
        if isinstance(pixels, str):
            raise UserError(pixels)
        yield indices, torch.from_numpy(pixels)


def _lines(loader: DataLoader[Array | str]) -> Iterator[Array | str]:
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
