"""What is exported, with the test images on which it is compared."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from coterie.console.counting import counted
from coterie.data import ImageData, Images, decode, evaluation_batches
from coterie.data.base import Streaming
from coterie.data.pixels import decode_image
from coterie.data.transforms import normalise
from coterie.deploy.formats.base import Deliverable, Logits
from coterie.deploy.formats.preparing import preprocessing
from coterie.records import Card
from coterie.run import Run

_MEMORY = 4e8  # bytes, of all compared images
_BATCH = 64
# Heights and widths of whole images where the data set has only small ones, as shares of theirs.
_SHAPES = ((1.0, 1.3), (0.7, 0.6), (1.6, 1.6), (2.5, 1.9), (3.4, 4.1))


def deliverable_of(run: Run, student: str | None, count: int, whole: bool, options: Mapping[str, Any]) -> Deliverable:
    """The network, its card, and what it says of test images that lie evenly among all.

    Args:
        run: A finished run.
        student: Which deliverable; None for the default one.
        count: On how many test images they are compared, where so many fit in memory.
        whole: Whether the file is to prepare whole images.
        options: Of :func:`coterie.data.load` in place of the run's.
    """
    network, card, name = run.network(student), run.card, run.student(student)
    card["student"], card["epochs"] = name, run.config["epochs"]
    card["preprocessing"] = preprocessing(card, whole)
    data = run.data(**options)
    room = int(_MEMORY / (4 * data.channels * data.image_size[0] * data.image_size[1]))
    chosen = np.linspace(0, len(data.test) - 1, min(count, max(room, 1), len(data.test))).astype(np.int64)
    test = data.test.subset(chosen)
    labels = torch.from_numpy(test.labels if test.clean is None else test.clean)
    if whole:
        originals = _whole(data, test)
        images = torch.cat([prepared(image, card) for image in originals])
    else:
        originals = None
        batches = counted(evaluation_batches(data, test, batch_size=_BATCH), len(test))
        images = torch.cat([batch.images for batch in batches])
    with torch.inference_mode():
        parts = counted(iter(torch.split(images, _BATCH)), len(images))
        logits = torch.cat([Logits(network)(part) for part in parts])
    return Deliverable(run, name, network, card, data, images, labels, logits, originals)


def prepared(image: Tensor, card: Card) -> Tensor:
    """A whole image, uint8 (H, W, channels), as :func:`coterie.predict` gives it to the network."""
    made = Image.fromarray((image[:, :, 0] if card["channels"] == 1 else image).numpy())
    framing = card.get("crop_ratio", 1.0), card.get("interpolation", "bicubic")
    pixels = decode_image(made, "image", card["image_size"], card["channels"], None, None, True, *framing)
    return normalise(torch.from_numpy(pixels.copy())[None], card["mean"], card["std"])


def _whole(data: ImageData, test: Images) -> list[Tensor]:
    """Files at their own size; images in memory, which have only one, enlarged and reduced."""
    if isinstance(test, Streaming):
        files = (decode(Path(name), None, data.channels, data.pixel_range) for name in test.names)
        return [torch.from_numpy(pixels.copy()) for pixels in files]
    return [resized(pixels, place) for place, pixels in enumerate(test.pixels(np.arange(len(test))))]


def resized(pixels: Tensor, place: int) -> Tensor:
    """An image (H, W, channels) at another size, one of a few that take turns."""
    tall, wide = _SHAPES[place % len(_SHAPES)]
    height, width, channels = pixels.shape
    made = Image.fromarray((pixels[:, :, 0] if channels == 1 else pixels).numpy())
    made = made.resize((max(round(width * wide), 1), max(round(height * tall), 1)), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(made).copy()).reshape(made.height, made.width, channels)
