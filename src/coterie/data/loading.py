"""Data by name, checked and ready to train on."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch

from coterie.bounds import Bounds, NonNegative, NonNegativeInt, Positive, PositiveInt, PositiveShare, Share
from coterie.checking import check_arguments, check_names
from coterie.data.base import Augmentation, DataEntry, ImageData, Images, Resident, Source
from coterie.data.listing import check_class_names
from coterie.data.noise import NoiseKind, check_noise, noisy
from coterie.data.parts import draw_parts, record_parts, say_missing
from coterie.data.pixels import Interpolation
from coterie.data.registry import DATASETS
from coterie.data.split import Split
from coterie.data.transforms import framed
from coterie.errors import UserError, unknown_name
from coterie.files import user_path

_log = logging.getLogger("coterie")

Side = Annotated[int, Bounds(least=8, most=4096)]  # in pixels; networks need eight


def load(
    name: str,
    *,
    root: str | Path | None = None,
    image_size: Side | tuple[Side, Side] | None = None,
    channels: Literal[1, 3] | None = None,
    augment: Augmentation | None = None,
    flip: bool | None = None,
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
    download: bool = True,
    memory_gb: NonNegative = 2.0,
    cache_gb: NonNegative = 10.0,
    workers: Annotated[int, Bounds(least=0, most=1024)] | None = None,
    pixel_range: tuple[float, float] | None = None,
    crop_ratio: PositiveShare | None = None,
    interpolation: Interpolation | None = None,
    default_image_size: tuple[Side, Side] = (224, 224),
    default_crop_ratio: PositiveShare = 1.0,
    default_interpolation: Interpolation = "bicubic",
    **options: Any,
) -> ImageData:
    """A data set by name, checked and ready to train on.

    Args:
        name: One of :data:`DATASETS`.
        root: The folder that holds it; None for ``data/``, for a ``csv`` the folder of its file.
        image_size: Side, or (height, width), in pixels, from 8 on; None for its own, for a folder of equal small
            images theirs, else ``default_image_size``.
        channels: 1 for grey, 3 for colour; None for its own.
        augment: ``crop-flip`` and ``crop`` move the image by up to an eighth of its side; ``random-resized-crop`` takes
            8 to 100 % of its area (and mirrors half of them), from training images kept at 8/7 of the size; or
            ``none``, which shows the same views in every epoch and switches off the recipe's policy, jitter and erasing
            too. None for the data set's own; a ``folder`` of more than 64 pixels takes random-resized-crop, a smaller
            one crop-flip.
        flip: Whether half of the training images are mirrored; False where left and right are different classes, as of
            letters. None for what ``augment`` says.
        validation: Share of the training images that chooses the epoch, in [0, 1), stratified.
        train_samples: How many training images to take, stratified; None for all.
        test_samples: How many test images to take, stratified; None for all.
        test_fraction: Share held out of a ``folder`` without val/ or a ``csv`` (None for a fifth), or of ``digits``.
        noise: Share of each class's training labels that are made wrong, from 0 to 1, or one share for each class; the
            validation split's labels too, each split to the image. Test labels never are, and the right ones are kept:
            ``coterie evaluate --split train`` measures against them.
        noise_kind: ``symmetric`` takes the wrong label from all other classes alike; ``asymmetric`` takes the next
            class (after the last, the first), or that of ``noise_map``.
        noise_map: Class to the class it is taken for, by index, as ``{3: 5, 5: 3}``; other classes keep their labels.
        seed: Of the splits, subsets and noise.
        mean: Per channel, of pixels scaled to [0, 1]; None for the data set's own.
        std: Per channel.
        download: Whether missing files may be fetched.
        memory_gb: What decoded images may take; more is streamed.
        cache_gb: What decoded images that are streamed may take on disk, those of all data sets together, below
            ``~/.cache/coterie`` (or ``$COTERIE_CACHE``); 0 for none. What was not used for longest makes room.
        workers: Processes that decode what is streamed; None for the number of cores.
        pixel_range: The values that are black and white in images of more than 8 bits, one range for the whole folder:
            ``(0, 4095)`` for a camera's 12 bits in 16, ``(0, 1)`` for floats. None where their type says it, which it
            does for 16 bits that are used; other such images are refused.
        crop_ratio: The share of an image file's shorter side that is measured: the side is resized to the size divided
            by it, rounded down, and the middle is taken. Training images too, unless they are cropped and resized at
            random. None for 1, or, with random resized crops, that of published weights.
        interpolation: By which image files are resized, ``bicubic`` or ``bilinear``; None for bicubic, or that of
            published weights.
        default_image_size: For folders whose images do not say.
        default_crop_ratio: For folders that are trained on random resized crops.
        default_interpolation: For folders.
        **options: Those that only this data set has, such as ``extra`` of ``svhn``.

    Raises:
        UserError: The name or an option is wrong, files are missing or damaged.
    """
    given = dict(locals())
    return make({**given.pop("options"), **given})


_DEFAULTS = {
    name: parameter.default
    for name, parameter in signature(load).parameters.items()
    if parameter.kind is not Parameter.VAR_KEYWORD
}
# Options that only some data sets take: those whose readers name them.
_OF_SOME = ("root", "memory_gb", "cache_gb", "workers", "pixel_range", "test_fraction", "crop_ratio", "interpolation")
# What other options leave open where they are None; these are resolved, and not repeated.
RESOLVED = ("default_image_size", "default_crop_ratio", "default_interpolation")
# What a folder's reader is told of a Run, see :func:`make`.
_OF_A_RUN = ("split", "whole", "keyed", "classes")


def own_options(entry: DataEntry) -> dict[str, Parameter]:
    """The options that no other data set has."""
    return {name: of for name, of in entry.parameters().items() if name not in (*_DEFAULTS, *_OF_A_RUN)}


def check_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of :func:`load`, checked without reading any file.

    Returns:
        All arguments but the data set's own, which stand there if they were given.

    Raises:
        UserError: The name or an option is wrong, or the data set has no such option.
    """
    check_names("data", given, needed=("name",))
    name = check_arguments(load, {"name": given["name"]}, "data")["name"]
    entry = DATASETS.find(name)
    own = own_options(entry)
    for option in given:
        if option not in _DEFAULTS and option not in own:
            raise unknown_name(f"option of data '{name}'", str(option), [*_known_options(entry), *own])
    checked = check_arguments(load, {key: value for key, value in given.items() if key not in own}, "data")
    checked |= check_arguments(entry.read, {key: value for key, value in given.items() if key in own}, "data")
    checked = {**_DEFAULTS, **checked}
    _check_together(name, entry, checked)
    return checked


def _known_options(entry: DataEntry) -> list[str]:
    taken = entry.parameters()
    return [option for option in _DEFAULTS if option not in _OF_SOME or option in taken]


def _check_together(name: str, entry: DataEntry, given: Mapping[str, Any]) -> None:
    """Refuse options that the data set does not take, and a range that is none."""
    if given["root"] == "":  # a shell's variable that is not set; as a path it would be the current folder
        raise UserError("⟨data.root⟩ is empty; name a folder, '.' for this one")
    for option in _OF_SOME:
        if given[option] != _DEFAULTS[option] and option not in entry.parameters():
            raise UserError(f"⟨data.{option}⟩: data '{name}' has no such option; leave it out")
    if given["flip"] and given["augment"] == "none":
        raise UserError("⟨data.flip⟩: ⟨data.augment none⟩ shows the images as they are; leave one of the two out")
    span = given["pixel_range"]
    if span is not None and not span[0] < span[1]:
        raise UserError(
            f"⟨data.pixel_range⟩ is {list(span)}; give the values that are black and white, the lower first, as "
            "'[0, 4095]'"
        )


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
    given = check_options(given)
    name, image_size, seed = given["name"], given["image_size"], given["seed"]
    entry = DATASETS[name]
    if entry.files and given["root"] is None and entry.parameters()["root"].default is Parameter.empty:
        raise UserError(f"data '{name}' needs ⟨data.root⟩, the folder that holds it")
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    options = {
        **given,
        "root": user_path(given["root"]) if given["root"] is not None else None if entry.files else Path("data"),
        "image_size": size,
        "augment": given["augment"] or entry.augment,
        **{"split": split, "whole": whole, "keyed": keyed, "classes": classes},
    }
    source = entry.read(**{key: value for key, value in options.items() if key in entry.parameters()})
    check_class_names(source.classes, f"data '{name}': ")
    train, held_out, test = source.train, source.validation, source.test
    if split is None:
        train, held_out, test = draw_parts(source, given, keyed)
    say_missing(source, train, test, given["train_samples"])
    noise = given["noise"]
    check_noise(noise, given["noise_kind"], given["noise_map"], len(source.classes))
    if np.any(noise):
        # After the splits: each has the same images whatever the noise.
        how_noisy = (noise, given["noise_kind"], given["noise_map"], len(source.classes), seed)
        train = noisy(train, *how_noisy)
        held_out = None if held_out is None else noisy(held_out, *how_noisy)
    root = given["root"] if given["root"] is not None or not entry.files else source.root
    resolved = {"root": root, **_framing(given, source)}
    size, depth = size or source.image_size, given["channels"] or source.channels
    how = given["augment"] or entry.augment or source.augment
    assert how is not None
    return ImageData(
        name=name,
        classes=source.classes,
        image_size=size,
        channels=depth,
        mean=per_channel("mean", given["mean"] or source.mean, depth),
        std=per_channel("std", given["std"] or source.std, depth),
        train=_fitted(train, None if how == "random-resized-crop" else size, depth, source),
        test=_fitted(test, size, depth, source),
        validation=None if held_out is None else _fitted(held_out, size, depth, source),
        augment=how,
        options=_repeatable(entry, given, image_size=size, channels=depth, augment=how, **resolved),
        pixel_range=source.pixel_range,
        drawn=split or record_parts(source, given, train, held_out, test),
        flip=given["flip"],
        crop_ratio=source.crop_ratio,
        interpolation=source.interpolation,
    )


def _framing(given: Mapping[str, Any], source: Source) -> dict[str, Any]:
    """How files were cropped and resized, as options: None where it was left open and is as it is without weights."""
    resolved = {"crop_ratio": source.crop_ratio, "interpolation": source.interpolation}
    left_open = {name for name in resolved if given[name] is None and resolved[name] == _DEFAULTS[f"default_{name}"]}
    return {name: None if name in left_open else value for name, value in resolved.items()}


def _repeatable(entry: DataEntry, given: Mapping[str, Any], **resolved: Any) -> dict[str, Any]:
    """The arguments that make the same data again, what was left open in them resolved, in plain types."""
    defaults = _DEFAULTS | {name: parameter.default for name, parameter in own_options(entry).items()}
    options = {**given, **resolved, **{name: value for name, value in _DEFAULTS.items() if name in RESOLVED}}
    return {key: _plain(value) for key, value in options.items() if value != defaults[key]}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value


def _fitted(images: Images, size: tuple[int, int] | None, channels: int, source: Source) -> Images:
    """A resident split in another size (None: its own) or depth, where it was asked for."""
    if not isinstance(images, Resident):
        return images
    data = images.data
    if data.shape[3] != channels:
        grey = torch.tensor([0.299, 0.587, 0.114])
        data = data.expand(-1, -1, -1, 3) if channels == 3 else (data.float() @ grey).round().byte().unsqueeze(3)
    if size is not None:
        data = framed(data, size, source.crop_ratio, source.interpolation)
    return replace(images, data=data.contiguous())


def per_channel(option: str, values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """A mean or standard deviation of so many channels.

    Raises:
        UserError: There are more or fewer values.
    """
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
