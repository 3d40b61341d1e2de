"""Data sets by name."""

import inspect
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch

from coterie.bounds import Bounds, NonNegative, NonNegativeInt, Positive, PositiveInt, Share
from coterie.checking import check_arguments
from coterie.data.base import Array, ImageData, Images, Resident, Source
from coterie.data.drawn import record_split
from coterie.data.listing import check_class_names, relative
from coterie.data.noise import NoiseKind, check_noise, noisy
from coterie.data.say import counted, listed, say_once, shown
from coterie.data.sources import cifar, digits, fashion_mnist, folder, glyphs, svhn
from coterie.data.split import Split
from coterie.data.splits import most_held_out, stratified
from coterie.data.transforms import resized
from coterie.errors import UserError, unknown_name
from coterie.files import user_path

_log = logging.getLogger("coterie")

Augmentation = Literal["crop-flip", "crop", "random-resized-crop", "none"]
Side = Annotated[int, Bounds(least=8, most=4096)]  # in pixels; networks need eight


@dataclass(frozen=True)
class Entry:
    """A data set by name.

    Attributes:
        summary: One line for listings.
        augment: How training images are varied by default; None where the reader says.
        read: Makes its :class:`Source`; its parameters are the options that the data set has.
        shape: Its classes, channels and the side of its images in pixels; None where the files say.
    """

    summary: str
    augment: Augmentation | None
    read: Callable[..., Source]
    shape: tuple[int, int, int] | None = None


def _folder(root: Path, options: folder.FolderOptions) -> Source:
    return folder.read(root, options)


def _imagenet(root: Path, options: folder.FolderOptions) -> Source:
    for split in ("train", "val"):
        if not (root / split).is_dir():
            raise UserError(f"{root / split}: missing; ⟨data.root⟩ names the folder with ImageNet's train/ and val/")
    return folder.read(root, options, scan=False)


DATASETS: dict[str, Entry] = {
    "digits": Entry("handwritten digits, 8x8 grey, 1,297 + 500, bundled", "crop", digits.read, (10, 1, 8)),
    "fashion_mnist": Entry("clothes, 28x28 grey, 60,000 + 10,000", "crop-flip", fashion_mnist.read, (10, 1, 28)),
    "glyphs": Entry(
        "240 characters in typefaces never trained on, 32x32 grey, 4,320 + 2,880", "crop", glyphs.read, (240, 1, 32)
    ),
    "cifar10": Entry("10 classes, 32x32 colour, 50,000 + 10,000", "crop-flip", cifar.read10, (10, 3, 32)),
    "cifar100": Entry("100 classes, 32x32 colour, 50,000 + 10,000", "crop-flip", cifar.read100, (100, 3, 32)),
    "svhn": Entry("house numbers, 32x32 colour, 73,257 + 26,032 (+ 531,131 extra)", "none", svhn.read, (10, 3, 32)),
    "imagenet": Entry(
        "ILSVRC 2012 in torchvision's layout: train/ and val/", "random-resized-crop", _imagenet, (1000, 3, 224)
    ),
    "folder": Entry("your images: train/CLASS and val/CLASS, or CLASS alone", None, _folder),
}


def load(
    name: str,
    *,
    root: str | Path | None = None,
    image_size: Side | tuple[Side, Side] | None = None,
    channels: Literal[1, 3] | None = None,
    augment: Augmentation | None = None,
    validation: Annotated[float, Bounds(least=0, below=1)] = 0.0,
    train_samples: PositiveInt | None = None,
    test_samples: PositiveInt | None = None,
    test_fraction: Annotated[float, Bounds(above=0, below=1)] | None = None,
    noise: Share | tuple[Share, ...] = 0.0,
    noise_kind: NoiseKind = "symmetric",
    noise_map: dict[int, int] | None = None,
    seed: NonNegativeInt = 0,
    mean: tuple[float, ...] | None = None,
    std: tuple[Positive, ...] | None = None,
    extra: bool = False,
    download: bool = True,
    memory_gb: NonNegative = 2.0,
    workers: Annotated[int, Bounds(least=0, most=1024)] | None = None,
    pixel_range: tuple[float, float] | None = None,
    default_image_size: tuple[Side, Side] = (224, 224),
) -> ImageData:
    """A data set by name, checked and ready to train on.

    Args:
        name: One of :data:`DATASETS`.
        root: The folder that holds it; None for ``data/``.
        image_size: Side, or (height, width), in pixels, from 8 on; None for its own, for a folder of equal small
            images theirs, else ``default_image_size``.
        channels: 1 for grey, 3 for colour; None for its own.
        augment: ``crop-flip`` and ``crop`` move the image by up to an eighth of its side; ``random-resized-crop`` takes
            8 to 100 % of its area (and mirrors half of them), from training images kept at 8/7 of the size; or
            ``none``. None for the data set's own; a ``folder`` of more than 64 pixels takes random-resized-crop,
            a smaller one crop-flip.
        validation: Share of the training images that chooses the epoch, in [0, 1), stratified.
        train_samples: How many training images to take, stratified; None for all.
        test_samples: How many test images to take, stratified; None for all.
        test_fraction: Share held out of a ``folder`` without val/ (None for a fifth), or of ``digits``.
        noise: Share of each class's training labels that are made wrong, from 0 to 1, or one share for each class; the
            validation split's labels too, each split to the image. Test labels never are, and the right ones are kept:
            ``coterie evaluate --split train`` measures against them.
        noise_kind: ``symmetric`` takes the wrong label from all other classes alike; ``asymmetric`` takes the next
            class (after the last, the first), or that of ``noise_map``.
        noise_map: Class to the class it is taken for, by index, as ``{3: 5, 5: 3}``; other classes keep their labels.
        seed: Of the splits, subsets and noise.
        mean: Per channel, of pixels scaled to [0, 1]; None for the data set's own.
        std: Per channel.
        extra: SVHN's extra images too.
        download: Whether missing files may be fetched.
        memory_gb: What decoded images may take; more is streamed.
        workers: Processes that decode what is streamed; None for the number of cores.
        pixel_range: The values that are black and white in images of more than 8 bits, one range for the whole folder:
            ``(0, 4095)`` for a camera's 12 bits in 16, ``(0, 1)`` for floats. None where their type says it, which it
            does for 16 bits that are used; other such images are refused.
        default_image_size: For folders whose images do not say.

    Raises:
        UserError: The name or an option is wrong, files are missing or damaged.
    """
    return make(dict(locals()))


def make(
    given: Mapping[str, Any],
    *,
    split: Split | None = None,
    whole: bool = False,
    keyed: bool = True,
    classes: Sequence[str] | None = None,
) -> ImageData:
    """What :func:`load` makes of these arguments, or what a Run had.

    Args:
        given: Arguments of :func:`load`.
        split: The images of each part as a Run drew them; None to draw them.
        whole: Refuse a ``split`` of which files are gone.
        keyed: Whether images of folders are drawn by their names; else by their places, as in 0.1.0.
        classes: A Run's, where a folder of class folders is all test images.

    Raises:
        UserError: As for :func:`load`; files of the split are gone.
    """
    given = {**_DEFAULTS, **check_arguments(load, given, "data")}
    name, image_size, seed = given["name"], given["image_size"], given["seed"]
    if name not in DATASETS:
        raise unknown_name("dataset", name, DATASETS)
    entry = DATASETS[name]
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    _check(name, entry, given)
    place = user_path(given["root"]) if given["root"] is not None else Path("data")
    source = _read(entry, place, size, given, {"split": split, "whole": whole, "keyed": keyed, "classes": classes})
    check_class_names(source.classes, f"data '{name}': ")
    train, held_out, test = source.train, source.validation, source.test
    if split is None:
        train, held_out, test = _drawn(source, given, keyed)
    _say_missing(source, train, test, given["train_samples"])
    noise = given["noise"]
    check_noise(noise, given["noise_kind"], given["noise_map"], len(source.classes))
    if np.any(noise):
        # After the splits: each has the same images whatever the noise.
        how_noisy = (noise, given["noise_kind"], given["noise_map"], len(source.classes), seed)
        train = noisy(train, *how_noisy)
        held_out = None if held_out is None else noisy(held_out, *how_noisy)
    size, depth = size or source.image_size, given["channels"] or source.channels
    how = given["augment"] or entry.augment or source.augment
    assert how is not None
    return ImageData(
        name=name,
        classes=source.classes,
        image_size=size,
        channels=depth,
        mean=_per_channel("mean", given["mean"] or source.mean, depth),
        std=_per_channel("std", given["std"] or source.std, depth),
        train=_fitted(train, None if how == "random-resized-crop" else size, depth),
        test=_fitted(test, size, depth),
        validation=None if held_out is None else _fitted(held_out, size, depth),
        augment=how,
        options=_repeatable(given, size, depth, how),
        pixel_range=source.pixel_range,
        drawn=split or _record(source, given, train, held_out, test),
    )


def _drawn(source: Source, given: Mapping[str, Any], keyed: bool) -> tuple[Images, Images | None, Images]:
    """Training, validation and test images, as many as were asked for."""

    def names(images: Images) -> list[str] | None:
        if source.root is None or images.names is None or not keyed:
            return None
        root = source.root
        return [relative(name, root) for name in images.names]

    def limited(images: Images, option: str, every: Literal["first"] | None) -> Images:
        count = given[option]
        if count is None:
            return images
        if not 1 <= count <= len(images):
            raise UserError(f"⟨data.{option}⟩ is {count}, and there are {len(images)} images; use 1 to {len(images)}")
        return images.subset(stratified(images.labels, count, given["seed"], names(images), every)[0])

    train = limited(source.train, "train_samples", "first" if keyed else None)
    test = limited(source.test, "test_samples", None)
    share = given["validation"]
    if share == 0:
        return train, source.validation, test
    if source.validation is not None:
        raise UserError("⟨data.validation⟩: this folder has a validation set of its own, beside test/; leave it out")
    count = round(share * len(train))
    if not 0 < count < len(train):
        raise UserError(f"⟨data.validation {share}⟩ holds out {count} of {len(train)} images; use another share")
    if keyed and count > most_held_out(train.labels):
        raise UserError(
            f"⟨data.validation {share}⟩ holds out {count} of {len(train)} images and leaves classes without any to "
            "train on; use a smaller share, or more images"
        )
    every: Literal["rest"] | None = "rest" if keyed else None
    chosen, rest = stratified(train.labels, count, given["seed"], names(train), every)
    return train.subset(rest), train.subset(chosen), test


def _record(
    source: Source, given: Mapping[str, Any], train: Images, held_out: Images | None, test: Images
) -> Split | None:
    """Which images of a folder are what, where coterie drew it."""
    limited = given["train_samples"] is not None or given["test_samples"] is not None
    cut = held_out is not None and source.validation is None
    if source.root is None or not (source.drawn or limited or cut):
        return None
    total = len(source.train) + len(source.test) + (0 if source.validation is None else len(source.validation))
    return record_split(source.classes, (train, held_out, test), source.root, source.class_folder, total)


def _say_missing(source: Source, train: Images, test: Images, train_samples: int | None) -> None:
    """Name classes that are not learned, and those of a folder that are not measured."""
    for images, what, asked in (
        (train, "training", train_samples is not None),
        (test, "test", source.root is not None),
    ):
        missing = np.setdiff1d(np.arange(len(source.classes)), images.labels)
        if asked and len(images) and len(missing):
            where = "" if source.root is None else f"{shown(source.root)}: "
            names = listed([source.classes[index] for index in missing], 10)
            say_once(f"{where}no {what} image of {counted(len(missing), 'class', 'classes')}: {names}")


def _repeatable(given: Mapping[str, Any], size: tuple[int, int], channels: int, augment: str) -> dict[str, Any]:
    """The arguments that make the same data again, what was found in them written down, in plain types."""
    found = {**given, "image_size": size, "channels": channels, "augment": augment, "default_image_size": (224, 224)}
    kept = {key: value for key, value in found.items() if value != _DEFAULTS[key]}
    return {key: _plain(value) for key, value in kept.items()}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value


_DEFAULTS = {key: parameter.default for key, parameter in inspect.signature(load).parameters.items()}


def _check(name: str, entry: Entry, given: Mapping[str, Any]) -> None:
    """Refuse options that the data set does not have."""
    span = given["pixel_range"]
    if span is not None and not span[0] < span[1]:
        raise UserError(
            f"⟨data.pixel_range⟩ is {list(span)}; give the values that are black and white, the lower first, as "
            "'[0, 4095]'"
        )
    has = inspect.signature(entry.read).parameters
    if given["root"] == "":  # a shell's variable that is not set; as a path it would be the current folder
        raise UserError("⟨data.root⟩ is empty; name a folder, '.' for this one")
    if given["root"] is not None and not {"root", "options"} & set(has):
        raise UserError(f"⟨data.root⟩: data '{name}' comes with the package and reads no folder; leave it out")
    for option in ("memory_gb", "workers"):
        if given[option] != _DEFAULTS[option] and "options" not in has:
            raise UserError(f"⟨data.{option}⟩: data '{name}' is always held in memory; leave it out")
    if span is not None and "options" not in has:
        raise UserError(f"⟨data.pixel_range⟩: data '{name}' has pixels of 8 bits; leave it out")
    if given["test_fraction"] is not None and not {"test_fraction", "options"} & set(has):
        raise UserError(f"⟨data.test_fraction⟩: data '{name}' has its own test images; split folder or digits")
    if given["extra"] and "extra" not in has:
        raise UserError(f"⟨data.extra⟩: data '{name}' has no extra images; only svhn does")
    if "options" in has and given["root"] is None:
        raise UserError(f"data '{name}' needs ⟨data.root⟩, the folder that holds it")


def _read(
    entry: Entry, root: Path, size: tuple[int, int] | None, given: Mapping[str, Any], kept: Mapping[str, Any]
) -> Source:
    has = inspect.signature(entry.read).parameters
    options: dict[str, Any] = {"root": root} if "root" in has else {}
    options |= {key: given[key] for key in ("download", "extra", "test_fraction", "seed") if key in has}
    if "options" in has:
        workers = given["workers"]
        options["options"] = folder.FolderOptions(
            image_size=size,
            default_image_size=given["default_image_size"],
            channels=given["channels"],
            memory=given["memory_gb"] * 1e9,
            workers=(os.cpu_count() or 1) if workers is None else workers,
            test_fraction=given["test_fraction"],
            seed=given["seed"],
            augment=given["augment"] or entry.augment,
            pixel_range=None if given["pixel_range"] is None else tuple(given["pixel_range"]),
            **kept,
        )
    return entry.read(**options)


def _fitted(images: Images, size: tuple[int, int] | None, channels: int) -> Images:
    """A resident split in another size (None: its own) or depth, where it was asked for."""
    if not isinstance(images, Resident):
        return images
    data = images.data
    if data.shape[3] != channels:
        grey = torch.tensor([0.299, 0.587, 0.114])
        data = data.expand(-1, -1, -1, 3) if channels == 3 else (data.float() @ grey).round().byte().unsqueeze(3)
    if size is not None:
        data = resized(data, size)
    return replace(images, data=data.contiguous())


def _per_channel(option: str, values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if len(values) == channels:
        return tuple(values)
    if len(values) == 1:
        return tuple(values) * channels
    if channels == 1 and len(values) == 3:
        average = sum(values) / len(values)
        if len(set(values)) > 1:
            _log.info("%s has 3 values and the images are grey: their mean, %.4g, is taken", option, average)
        return (average,)
    raise UserError(f"⟨data.{option}⟩ has {len(values)} values, and the images have {channels} channels; give one each")


__all__ = ["DATASETS", "Array", "Augmentation", "Entry", "load", "make"]
