"""Folders of images, one folder a class: ``train/`` and ``val/``, or one folder that is split by a seed."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from rich.progress import track

from coterie.data.base import Array, Images, Resident, Source, Streaming
from coterie.data.splits import stratified
from coterie.data.transforms import roomy
from coterie.errors import UserError

T = TypeVar("T")

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HELD_OUT = ("val", "test", "valid")
_GREY = ("1", "L", "LA", "I", "F", "I;16", "I;16B", "I;16L")
_SMALL = 64
_TEST_FRACTION = 0.2
_ORIENTATION = 0x0112  # EXIF
_MANY = 2000  # from so many files on, a bar is shown


@dataclass(frozen=True)
class FolderOptions:
    """How a folder is read.

    Attributes:
        image_size: (height, width); None to find it.
        default_image_size: What is taken where the images do not say.
        channels: 1 or 3; None to find it.
        memory: Bytes that may stay resident.
        workers: Processes that decode what does not.
        test_fraction: Held out of a folder without a ``val/``; None for a fifth.
        seed: Of that choice.
        augment: How training images will be varied; None to choose by their size.
    """

    image_size: tuple[int, int] | None
    default_image_size: tuple[int, int]
    channels: int | None
    memory: float
    workers: int
    test_fraction: float | None
    seed: int
    augment: str | None = None


def read(root: Path, options: FolderOptions, scan: bool = True) -> Source:
    """The classes, splits and shape of a folder of images.

    Args:
        root: The folder.
        options: See :class:`FolderOptions`.
        scan: Look at every image's header first, for sizes, channels and damage; False takes colour and the default.

    Raises:
        UserError: There is no such folder, a class has no images, the splits' classes differ, a file is no image.
    """
    if not root.is_dir():
        raise UserError(
            f"{root}: no such folder; --data.root names the folder that holds train/ and val/, or the classes"
        )
    held_out = [name for name in _HELD_OUT if (root / name).is_dir()]
    if (root / "train").is_dir():
        if options.test_fraction is not None:
            raise UserError(
                f"--data.test_fraction: {root} has its own held-out images; only one folder of classes is split"
            )
        if len(held_out) != 1:
            have = "all of " + ", ".join(f"{name}/" for name in held_out) if held_out else "none of val/, test/, valid/"
            raise UserError(f"{root}: has train/ and {have}; keep one of them, the held-out images")
        classes, names, labels = _listing(root / "train")
        test_classes, test_names, test_labels = _listing(root / held_out[0])
        unknown = sorted(set(test_classes) - set(classes))
        if unknown:
            raise UserError(f"{root / held_out[0] / unknown[0]}: no class of train/; every class needs training images")
        place = np.array([classes.index(name) for name in test_classes])
        test_labels = place[test_labels]
    else:
        classes, (names, labels), (test_names, test_labels) = _divided(root, options)
    size, channels = _shape([*names, *test_names], options, scan)
    how = options.augment or ("crop-flip" if max(size) <= _SMALL else "random-resized-crop")
    kept = roomy(size) if how == "random-resized-crop" else size
    splits: list[Images] = []
    resident = (len(names) * prod(kept) + len(test_names) * prod(size)) * channels <= options.memory
    for files, targets, each in ((names, labels, kept), (test_names, test_labels, size)):
        decode = partial(decode_file, image_size=each, channels=channels)
        split = Streaming([str(file) for file in files], targets, decode, options.workers)
        splits.append(_decoded(split, each, channels) if resident else split)
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ((0.449,), (0.226,))
    return Source(tuple(classes), splits[0], splits[1], mean, std, size, channels, how)


def _divided(
    root: Path, options: FolderOptions
) -> tuple[list[str], tuple[list[Path], Array], tuple[list[Path], Array]]:
    """Classes, training and test images of one folder of class folders."""
    classes, files, labels = _listing(root)
    if set(classes) <= set(_HELD_OUT):
        raise UserError(
            f"{root}: has {', '.join(f'{name}/' for name in classes)} but no train/; add the training images"
        )
    fraction = _TEST_FRACTION if options.test_fraction is None else options.test_fraction
    count = round(fraction * len(files))
    if not 0 < count < len(files):
        raise UserError(
            f"--data.test_fraction {fraction} holds out {count} of {len(files)} images; give another fraction, or more "
            "images"
        )
    test, train = stratified(labels, count, options.seed)
    first, second = (([files[index] for index in part], labels[part]) for part in (train, test))
    return classes, first, second


def decode_file(path: Path, image_size: tuple[int, int] | None, channels: int) -> Array:
    """An image file as uint8 (H, W, channels): turned upright, on white, its shorter side resized, centre-cropped.

    Args:
        path: Any format that Pillow reads; grey, palette, 16 bits and transparency included.
        image_size: (height, width); None for its own.
        channels: 1 for grey, 3 for colour.

    Raises:
        UserError: It does not decode.
    """
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            image = _plain(image, "L" if channels == 1 else "RGB")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except Exception as error:  # a damaged file raises whatever its bytes spell
        raise UserError(f"{path}: cannot be decoded as an image ({error}); mend or remove it") from error
    if image_size is not None and (image.height, image.width) != image_size:
        image = ImageOps.fit(image, (image_size[1], image_size[0]), Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(image.height, image.width, channels)


def _plain(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits, which a plain conversion would clip at 255
        values = np.asarray(image).astype(np.float64)
        # Pillow's "I" holds 8 or 16 bits; "I;16" always 16, however dark the image is.
        deepest = 65535 if image.mode != "I" or values.max(initial=0) > 255 else 255
        image = Image.fromarray(np.clip(values * (255 / deepest), 0, 255).round().astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def _listing(folder: Path) -> tuple[list[str], list[Path], Array]:
    """Classes, files and labels below a folder of class folders."""
    # Some formats can only be written (PDF): a file of theirs among the images is no image.
    known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(folders) < 2:
        raise UserError(f"{folder}: {len(folders)} class folders; a classifier needs two or more, one folder a class")
    files: list[Path] = []
    labels: list[int] = []
    for label, each in enumerate(folders):
        found = sorted(path for path in each.rglob("*") if path.suffix.lower() in known and _visible(path, each))
        if not found:
            raise UserError(f"{each}: a class folder without images; add some, or remove the folder")
        files += found
        labels += [label] * len(found)
    return [each.name for each in folders], files, np.array(labels, np.int64)


def _visible(path: Path, folder: Path) -> bool:
    return path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)


def _header(path: Path) -> tuple[tuple[int, int], bool]:
    try:
        with Image.open(path) as image:
            upright = (image.height, image.width)
            # Pillow decodes a whole PNG to look for EXIF behind its pixels: here only what stands before them counts.
            turned = image.getexif().get(_ORIENTATION, 1) if image.format != "PNG" or "exif" in image.info else 1
            if turned >= 5:  # 5 to 8 lie on their side; they are turned when decoded
                upright = (image.width, image.height)
            return upright, image.mode in _GREY
    except Exception as error:  # a damaged file raises whatever its bytes spell
        raise UserError(f"{path}: cannot be decoded as an image ({error}); mend or remove it") from error


def _shape(files: Sequence[Path], options: FolderOptions, scan: bool) -> tuple[tuple[int, int], int]:
    if not scan:
        return options.image_size or options.default_image_size, options.channels or 3
    with ThreadPoolExecutor() as pool:
        headers = list(_bar(pool.map(_header, files), len(files), "looking at images"))
    sizes = {size for size, _ in headers}
    size = options.image_size
    if size is None:
        only = next(iter(sizes))
        size = only if len(sizes) == 1 and max(only) <= _SMALL else options.default_image_size
    return size, options.channels or (1 if all(grey for _, grey in headers) else 3)


def _decoded(split: Streaming, size: tuple[int, int], channels: int) -> Resident:
    data = torch.empty(len(split), *size, channels, dtype=torch.uint8)
    with ThreadPoolExecutor() as pool:
        images = pool.map(split.decode, map(Path, split.names))
        for index, image in enumerate(_bar(images, len(split), "decoding images")):
            data[index] = torch.from_numpy(image.copy())
    return Resident(data, split.labels, split.names)


def _bar(items: Iterable[T], total: int, title: str) -> Iterable[T]:
    return track(items, title, total, transient=True) if total >= _MANY else items
