"""Data that a caller in Python has at hand: arrays, data sets of PyTorch's or of Hugging Face's."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from coterie.bounds import Bounds, NonNegative, NonNegativeInt, Positive
from coterie.checking import check_fields, check_value
from coterie.data.base import Array, Augmentation, ImageData, Images, Resident, Streaming
from coterie.data.items import Items, indices_of, known_classes
from coterie.data.listing import check_class_names
from coterie.data.loading import Side, per_channel
from coterie.data.say import list_names
from coterie.data.sources.files import IMAGENET_MEAN, IMAGENET_STD, SMALL
from coterie.data.splits import most_held_out, stratified
from coterie.data.transforms import roomy
from coterie.errors import UserError, show_value

_TEST_FRACTION = 0.2  # as of folders


def from_arrays(
    images: Array | Tensor,
    labels: Array | Tensor | Sequence[int],
    test_images: Array | Tensor | None = None,
    test_labels: Array | Tensor | Sequence[int] | None = None,
    *,
    classes: Sequence[str] | None = None,
    name: str = "arrays",
    augment: Augmentation | None = None,
    flip: bool | None = None,
    validation: float = 0.0,
    test_fraction: float | None = None,
    seed: int = 0,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> ImageData:
    """Arrays as data to train on.

    A Run does not hold them: open it with ``coterie.Run(path, data=data)``, and resume it with the same arrays.

    Args:
        images: uint8 (N, H, W) or (N, H, W, channels) of 1 or 3 channels, from 0 to 255, not augmented; kept in memory.
        labels: (N,), class indices from 0 on.
        test_images: What is measured on, of the same shape; None to hold out ``test_fraction`` of ``images``.
        test_labels: Theirs.
        classes: Names of the classes, by index; None for their numbers.
        name: Of the data, for what is printed.
        augment: As of :func:`coterie.data.load`; None for crop-flip up to 64 pixels, and random-resized-crop above.
        flip: Whether half of the training images are mirrored; None for what ``augment`` says.
        validation: Share of the training images that chooses the epoch, in [0, 1), stratified.
        test_fraction: Share that is held out to test on, in (0, 1), stratified; None for a fifth.
        seed: Of these choices.
        mean: Per channel, of pixels scaled to [0, 1]; None for ImageNet's.
        std: Per channel.

    Raises:
        UserError: An array is of another type or shape, or labels are missing or out of range.
    """
    options = _Options(classes, name, augment, flip, validation, test_fraction, seed, mean, std)
    data = _pixels(images, "images")
    train: Images = Resident(data, indices_of(labels, len(data), "labels"))
    test: Images | None = None
    if test_images is not None:
        held_out = _pixels(test_images, "test_images")
        if held_out.shape[1:] != data.shape[1:]:
            theirs, ours = (list(each.shape[1:]) for each in (held_out, data))
            raise UserError(f"test_images are {theirs} each, and images {ours}; give both in one size")
        test = Resident(held_out, indices_of(test_labels, len(held_out), "test_labels"))
    elif test_labels is not None:
        raise UserError("test_labels are given without test_images; give both or neither")
    height, width, channels = data.shape[1:]
    return _made(train, test, (height, width), channels, options)


def from_dataset(
    train: Any,
    test: Any = None,
    *,
    image: str = "image",
    label: str = "label",
    image_size: int | tuple[int, int] | None = None,
    channels: Literal[1, 3] | None = None,
    classes: Sequence[str] | None = None,
    name: str = "dataset",
    augment: Augmentation | None = None,
    flip: bool | None = None,
    validation: float = 0.0,
    test_fraction: float | None = None,
    seed: int = 0,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    memory_gb: float = 2.0,
    workers: int = 0,
) -> ImageData:
    """A data set of PyTorch's or Hugging Face's as data to train on.

    Give it without transforms: coterie augments and normalises, as a function of seed, epoch and index. All of it is
    read once at first. What does not fit into ``memory_gb`` is read again whenever it is needed. A Run does not hold
    it: open it with ``coterie.Run(path, data=data)``, and resume it with the same data.

    Args:
        train: Anything with a length whose items are pairs of image and label, or mappings such as those of Hugging
            Face's ``datasets``. Images are Pillow's or uint8 arrays or tensors, (H, W) or (H, W, C) of 1, 3 or 4
            channels; labels are class indices from 0 on.
        test: What is measured on; None to hold out ``test_fraction`` of ``train``.
        image: The name of the image in mappings.
        label: The name of the label in mappings.
        image_size: Side, or (height, width), in pixels, from 8 on; None for that of equal small images, else 224.
        channels: 1 for grey, 3 for colour; None for colour where any image has it.
        classes: Names of the classes, by index; None for those that ``train`` knows, else their numbers.
        name: Of the data, for what is printed.
        augment: As of :func:`coterie.data.load`; None for crop-flip up to 64 pixels, and random-resized-crop above.
        flip: Whether half of the training images are mirrored; None for what ``augment`` says.
        validation: Share of the training images that chooses the epoch, in [0, 1), stratified.
        test_fraction: Share that is held out to test on, in (0, 1), stratified; None for a fifth.
        seed: Of these choices.
        mean: Per channel, of pixels scaled to [0, 1]; None for ImageNet's.
        std: Per channel.
        memory_gb: What decoded images may take.
        workers: Processes that read what does not fit.

    Raises:
        UserError: An item is no pair of image and label, an image or label is of another type or out of range.
    """
    classes = known_classes(train, label) if classes is None else classes
    options = _Options(classes, name, augment, flip, validation, test_fraction, seed, mean, std)
    side = check_value("⟨data.image_size⟩", image_size, Side | tuple[Side, Side] | None)
    channels = check_value("⟨data.channels⟩", channels, Literal[1, 3] | None)
    memory_gb = check_value("⟨data.memory_gb⟩", memory_gb, NonNegative)
    workers = check_value("⟨data.workers⟩", workers, NonNegativeInt)
    parts = [Items(train, "train", image, label)]
    parts += [] if test is None else [Items(test, "test", image, label)]
    looks = [part.look() for part in parts]
    sizes = {size for look in looks for size in look.sizes}
    size = (side, side) if isinstance(side, int) else side
    if size is None:
        size = only if len(sizes) == 1 and max(only := next(iter(sizes))) <= SMALL else (224, 224)
    depth = channels or (1 if all(look.grey for look in looks) else 3)
    how = augment or _augment_for(size)
    kept = roomy(size) if how == "random-resized-crop" else size
    counts = [len(look.labels) for look in looks]
    resident = sum(counts) * prod(kept) * depth <= memory_gb * 1e9
    found: list[Images] = []
    for part, look in zip(parts, looks, strict=True):
        decode = partial(part.pixels, size=kept if part.whose == "train" else size, channels=depth)
        names = [str(index) for index in range(len(look.labels))]
        images: Images = Streaming(names, look.labels, decode, workers)
        found.append(Resident(images.pixels(np.arange(len(images))), look.labels) if resident else images)
    return _made(found[0], found[1] if test is not None else None, size, depth, options)


@dataclass(frozen=True)
class _Options:
    """What both functions take, checked."""

    classes: Sequence[str] | None
    name: str
    augment: Augmentation | None
    flip: bool | None
    validation: Annotated[float, Bounds(least=0, below=1)]
    test_fraction: Annotated[float, Bounds(above=0, below=1)] | None
    seed: NonNegativeInt
    mean: tuple[float, ...] | None
    std: tuple[Positive, ...] | None

    def __post_init__(self) -> None:
        check_fields(self, "data")
        if self.flip and self.augment == "none":
            raise UserError("⟨data.flip⟩: ⟨data.augment none⟩ shows the images as they are; leave one of the two out")


def _pixels(images: Any, whose: str) -> Tensor:
    """Arrays as uint8 (N, H, W, channels)."""
    if not isinstance(images, np.ndarray | Tensor):
        raise UserError(
            f"{whose} is {show_value(images)}; give a uint8 array or tensor (N, H, W) or (N, H, W, channels)"
        )
    kind, shape = str(images.dtype).removeprefix("torch."), list(images.shape)
    if kind != "uint8":
        raise UserError(
            f"{whose} are {kind}; give uint8 from 0 to 255, neither scaled nor normalised: coterie does that"
        )
    if len(shape) == 4 and shape[1] in (1, 3) and shape[3] not in (1, 3):
        raise UserError(f"{whose} have the shape {shape}; give (N, H, W, channels), the channels last")
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)) or 0 in shape:
        raise UserError(f"{whose} have the shape {shape}; give (N, H, W) or (N, H, W, channels) of 1 or 3 channels")
    if min(shape[1:3]) < 8:
        raise UserError(f"{whose} are {shape[1]}x{shape[2]} pixels each; give 8x8 or more")
    data = (
        torch.from_numpy(np.require(images, requirements=["C", "W"]))
        if isinstance(images, np.ndarray)
        else images.detach().cpu()
    )
    return (data.unsqueeze(3) if len(shape) == 3 else data).contiguous()


def _augment_for(size: Sequence[int]) -> Augmentation:
    return "crop-flip" if max(size) <= SMALL else "random-resized-crop"


def _made(train: Images, test: Images | None, size: tuple[int, int], channels: int, options: _Options) -> ImageData:
    """The data, with what is not given apart cut from the training images."""
    classes = _class_names(train, test, options.classes)
    if test is None:
        share = _TEST_FRACTION if options.test_fraction is None else options.test_fraction
        train, test = _cut(train, share, "test_fraction", options.seed)
    elif options.test_fraction is not None:
        raise UserError("⟨data.test_fraction⟩: the test images are given; leave it out")
    validation = None
    if options.validation:
        train, validation = _cut(train, options.validation, "validation", options.seed)
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ((0.449,), (0.226,))
    return ImageData(
        name=options.name,
        classes=classes,
        image_size=size,
        channels=channels,
        mean=per_channel("mean", options.mean or mean, channels),
        std=per_channel("std", options.std or std, channels),
        train=train,
        test=test,
        validation=validation,
        augment=options.augment or _augment_for(size),
        options={},
        flip=options.flip,
    )


def _class_names(train: Images, test: Images | None, given: Sequence[str] | None) -> tuple[str, ...]:
    """The classes' names, where the labels are theirs.

    Raises:
        UserError: A label is that of no class, or a class has no training image.
    """
    count = int(train.labels.max()) + 1 if given is None else len(given)
    if count < 2:
        raise UserError("there is one class; a classifier needs two or more")
    names = tuple(map(str, range(count))) if given is None else tuple(given)
    check_class_names(names, "classes: ")
    for images, whose in ((train, "training"), (test, "test")):
        if images is not None and images.labels.max() >= count:
            index = int(np.argmax(images.labels >= count))
            raise UserError(
                f"{whose} image {index} has the label {images.labels[index]}, and there are {count} classes, from 0 to "
                f"{count - 1}; mend the labels, or name all classes with `classes`"
            )
    missing = np.setdiff1d(np.arange(count), train.labels)
    if given is None and len(missing):
        raise UserError(
            f"labels go to {count - 1}, and no image has {list_names([*map(str, missing)], 5)}; number the classes "
            "from 0 on, or name all of them with `classes`"
        )
    return names


def _cut(images: Images, share: float, option: str, seed: int) -> tuple[Images, Images]:
    """Images without a share of each class, and that share."""
    count = round(share * len(images))
    if not 0 < count <= most_held_out(images.labels):
        raise UserError(
            f"⟨data.{option} {share:g}⟩ holds out {count} of {len(images)} images, and none may be empty or leave a "
            "class without training images; use another share, or more images"
        )
    chosen, rest = stratified(images.labels, count, seed, every_class_in="rest")
    return images.subset(rest), images.subset(chosen)
