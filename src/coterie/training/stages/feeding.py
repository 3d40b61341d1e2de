"""Where a stage's batches are made: on the device where its memory holds the training images, else on the processor."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from coterie.data import Batch, ImageData, Resident, read_ahead, training_batches
from coterie.training.stages.setting import Setting
from coterie.training.together import takes_turns

_LARGEST_SHARE = 0.1  # of the device's free memory


def near(data: ImageData, device: torch.device) -> ImageData:
    """The data with the training images in the device's memory, where they are varied there.

    That is on CUDA, for images in memory that take a tenth of the device's free memory at most. Images that are cropped
    and resized at random stay where they are: each would be a call of its own.

    Args:
        data: The run's.
        device: Where it trains.
    """
    train = data.train
    if device.type != "cuda" or not isinstance(train, Resident) or data.augment == "random-resized-crop":
        return data
    free, _ = torch.cuda.mem_get_info(device)
    return replace(data, train=train.to(device)) if train.data.nbytes <= _LARGEST_SHARE * free else data


def feed(
    setting: Setting, data: ImageData, stage: int, epoch: int, epochs: int, views: int, start: int
) -> Iterator[Batch]:
    """The rest of an epoch's batches for this process, on the device.

    Args:
        setting: The run's.
        data: Of :func:`near`.
        stage: The stage's index.
        epoch: From 0.
        epochs: Of the stage.
        views: How many augmentations of each image.
        start: Batches to leave out at the beginning.
    """
    accelerator, recipe = setting.accelerator, setting.recipe
    cuda = accelerator.device.type == "cuda"
    batches = training_batches(
        data,
        batch_size=setting.batch_size,
        seed=setting.options.seed,
        stage=stage,
        epoch=epoch,
        views=views,
        start=start,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        progress=epoch / epochs,
        mixing=recipe.mixing,
        variation=recipe.variation,
        sampling=recipe.sampling,
        # Only proven there: elsewhere they are made on the processor and moved.
        device=accelerator.device if cuda else torch.device("cpu"),
    )
    # Others have their workers; of several trainings in one process each has a stream, which another thread is not in.
    if cuda and isinstance(data.train, Resident) and not takes_turns():
        batches = read_ahead(batches)
    return (batch.to(accelerator.device) for batch in batches)
