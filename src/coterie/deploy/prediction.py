"""Classes and probabilities of images, from a Run or an exported file."""

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from coterie.bounds import PositiveInt
from coterie.checking import check_value
from coterie.data import decode
from coterie.data.pixels import decode_image
from coterie.data.say import escape, say_once
from coterie.data.transforms import normalise
from coterie.deploy.images import Item, OneImage, items_of
from coterie.deploy.opening import Opened, open_source
from coterie.errors import UserError
from coterie.evaluation.tta import Copies, TestTime, check_test_time, flipped, mean_probabilities
from coterie.records import Card
from coterie.run import Run

_log = logging.getLogger("coterie")

_THREADS = 4  # that decode; more of them wait for the network
_Pixels = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Prediction:
    """What a network says of an image.

    Attributes:
        path: The image's file; None of an image that was given without one.
        classes: The likeliest classes, best first.
        probabilities: Theirs, in [0, 1].
        index: The image's place among those that were given, files of folders and patterns counted each, from 0.
        label: The class as whose folder the image's folder is named; None where it is named otherwise.
    """

    path: Path | None
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    index: int = 0
    label: str | None = None


def predict(
    source: Run | str | Path,
    images: OneImage | Iterable[OneImage],
    *,
    student: str | None = None,
    top: int = 3,
    batch_size: int = 64,
    skip_damaged: bool = False,
    tta: TestTime | None = None,
) -> list[Prediction]:
    """Classify images, and give what is said of all of them at once; :func:`predictions` says what may be given.

    Args:
        source: A run, its folder, or an exported file.
        images: Files, folders, patterns, Pillow's images or arrays: one of them, or any iterable of them.
        student: Which deliverable of a run; None for the default one.
        top: How many classes to name for each image.
        batch_size: How many images the network is given at once.
        skip_damaged: Leave out images that cannot be read, with a line for each, instead of ending there.
        tta: Test-time augmentation: ``"flip"`` averages the probabilities of an image and its mirror image, a number
            those of so many views; None for the image alone.

    Raises:
        UserError: The source is none of these, or an image does not decode.
    """
    options: dict[str, Any] = {"student": student, "top": top, "batch_size": batch_size}
    return list(predictions(source, images, **options, skip_damaged=skip_damaged, tta=tta))


def predictions(
    source: Run | str | Path,
    images: OneImage | Iterable[OneImage],
    *,
    student: str | None = None,
    top: int = 3,
    batch_size: int = 64,
    skip_damaged: bool = False,
    tta: TestTime | None = None,
) -> Iterator[Prediction]:
    """Classify any number of images, one after another, in the memory of a few batches.

    Files are decoded in a few threads while earlier ones are classified. An iterator is read about two batches ahead of
    what it gave; an image or array that it gives is copied before the next one is asked for.

    Args:
        source: A run, its folder, or an exported file.
        images: Files of any format and size, folders (all images below them, sorted), patterns such as
            ``photos/*.jpg``, Pillow's images, uint8 arrays (H, W) or (H, W, C): one of them, or any iterable of them.
        student: Which deliverable of a run; None for the default one.
        top: How many classes to name for each image.
        batch_size: How many images the network is given at once.
        skip_damaged: Leave out images that cannot be read, with a line for each, instead of ending there.
        tta: Test-time augmentation: ``"flip"`` averages the probabilities of an image and its mirror image, a number
            those of so many views; None for the image alone.

    Yields:
        What the network says of each image, in their order.

    Raises:
        UserError: The source is none of these, or an image does not decode. The source and the options are checked at
            once, images when their turn comes.
    """
    top = check_value("⟨top⟩", top, PositiveInt)
    batch_size = check_value("⟨batch_size⟩", batch_size, PositiveInt)
    tta = check_test_time(tta)
    opened = open_source(source, student)
    check_copies(opened, tta)
    return classify(opened, items_of(images), top, batch_size, _warn if skip_damaged else None, tta)


def check_copies(opened: Opened, tta: TestTime | None) -> None:
    """Refuse views of a file that prepares whole images.

    Raises:
        UserError: Images of no one size cannot be moved alike.
    """
    if opened.answer_whole is not None and isinstance(tta, int):
        raise UserError(f"⟨tta {tta}⟩: {opened.path} prepares whole images itself, which are not moved; use ⟨tta flip⟩")


def _warn(error: UserError) -> None:
    _log.warning("%s", error)


def classify(
    opened: Opened,
    items: Iterable[Item],
    top: int,
    batch_size: int,
    damaged: Callable[[UserError], None] | None = None,
    tta: TestTime | None = None,
) -> Iterator[Prediction]:
    """What a network says of each image.

    Args:
        opened: The network.
        items: The images.
        top: How many classes to name.
        batch_size: How many images the network is given at once.
        damaged: Is told of each image that cannot be read; None to raise what is wrong with it.
        tta: As of :func:`predict`, checked.

    Raises:
        UserError: An image cannot be read.
    """
    batch: list[_Decoded] = []
    for decoded in _decoded(items, opened, 2 * batch_size, damaged):
        batch.append(decoded)
        if len(batch) == batch_size:
            yield from _classified(opened, batch, top, tta)
            batch = []
    if batch:
        yield from _classified(opened, batch, top, tta)


class _Decoded(NamedTuple):
    """An image's place among those given, its file, its folder's class, and its pixels (H, W, channels)."""

    place: int
    path: Path | None
    label: str | None
    pixels: _Pixels


def _classified(opened: Opened, batch: list[_Decoded], top: int, tta: TestTime | None) -> Iterator[Prediction]:
    card, logits = opened.card, _logits(opened, batch, tta)
    best = logits.softmax(1).topk(min(top, len(card["classes"])))
    for decoded, values, places in zip(batch, best.values.tolist(), best.indices.tolist(), strict=True):
        names = tuple(card["classes"][place] for place in places)
        yield Prediction(decoded.path, names, tuple(values), decoded.place, decoded.label)


def _logits(opened: Opened, batch: list[_Decoded], tta: TestTime | None) -> torch.Tensor:
    card = opened.card
    if opened.answer_whole is not None:
        whole = [decoded.pixels for decoded in batch]
        logits = opened.answer_whole(whole)
        return logits if tta is None else mean_probabilities([logits, opened.answer_whole(flipped(whole))])
    images = normalise(torch.from_numpy(np.stack([decoded.pixels for decoded in batch])), card["mean"], card["std"])
    if tta is None:
        return opened.answer(images)
    places = torch.tensor([decoded.place for decoded in batch])
    copies = Copies(tta, card["mean"], card["std"]).of(images, places)
    return mean_probabilities([opened.answer(copy) for copy in copies])


def _decoded(
    items: Iterable[Item], opened: Opened, ahead: int, damaged: Callable[[UserError], None] | None
) -> Iterator[_Decoded]:
    """The decoded images, in order; no more than ``ahead`` of them are read and not yet given."""
    waiting: deque[tuple[Future[_Pixels], int, Path | None, str | None]] = deque()
    card, decode_item = opened.card, partial(_decode, opened.answer_whole is not None)

    def given() -> Iterator[_Decoded]:
        coming, index, path, label = waiting.popleft()
        try:
            pixels = coming.result()
        except UserError as error:
            if damaged is None:
                raise _with_mend(error, several=index > 0 or len(waiting) > 0) from error
            damaged(error)
        else:
            yield _Decoded(index, path, label, pixels)

    pool = ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1), "coterie-decode")
    try:
        for index, item in enumerate(items):
            start = pool.submit if isinstance(item.image, Path) else _now
            waiting.append((start(decode_item, card, item), index, item.path, item.label(card["classes"])))
            if len(waiting) >= ahead:
                yield from given()
        while waiting:
            yield from given()
    finally:
        pool.shutdown(cancel_futures=True)


def _now(decode_item: Callable[[Card, Item], _Pixels], card: Card, item: Item) -> "Future[_Pixels]":
    """What is no file is decoded at once: whoever gives it may close it, or write over it, before the next one."""
    future: Future[_Pixels] = Future()
    try:
        future.set_result(decode_item(card, item))
    except UserError as error:
        future.set_exception(error)
    return future


def _with_mend(error: UserError, several: bool) -> UserError:
    return UserError(f"{error.args[0]}, or give ⟨skip_damaged true⟩ to go on without such images") if several else error


def _decode(whole: bool, card: Card, item: Item) -> _Pixels:
    size, span = None if whole else card["image_size"], card.get("pixel_range")
    framing = card.get("crop_ratio", 1.0), card.get("interpolation", "bicubic")  # cards of 0.1.0 do not say it
    if isinstance(item.image, Path):
        return decode(item.image, size, card["channels"], span, say_once, False, *framing)
    try:
        # Pillow reads some images only now, from files that may be damaged.
        return decode_image(item.image, item.name, size, card["channels"], span, say_once, False, *framing)
    except UserError:
        raise
    except Exception as error:  # a damaged image raises whatever its bytes spell
        reason = escape(" ".join(str(error).split())[:200]) or type(error).__name__
        raise UserError(f"{escape(item.name)}: cannot be decoded as an image ({reason})") from error
