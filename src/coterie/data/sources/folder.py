"""Folders of images, one folder a class: ``train/``, ``val/`` and ``test/``, or one folder that is split by a seed.

``test/`` is the test set and ``val/`` the validation set where both are there; either alone beside ``train/`` is the
test set.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import prod
from operator import mul
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from coterie.data.base import Array, Augmentation, DataEntry, Images, Resident, Source, Streaming
from coterie.data.disk_cache import keep_decoded
from coterie.data.listing import LeftOut, Part, class_images, relative, split_folders
from coterie.data.pixels import Interpolation, Range, decode
from coterie.data.say import escape, list_names, plural, say_once
from coterie.data.sources.folder_survey import decode_all, raise_damage, refuse_damaged, survey
from coterie.data.split import Split
from coterie.data.splits import most_held_out, stratified
from coterie.data.transforms import roomy
from coterie.errors import UserError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SMALL = 64
_TEST_FRACTION = 0.2
# The parts of a folder: files and their labels; None for validation where there is none.
_Files = tuple[Sequence[Path], Array]
_Parts = tuple[_Files, _Files | None, _Files]


def read_folder(
    root: Path,
    image_size: tuple[int, int] | None = None,
    channels: Literal[1, 3] | None = None,
    augment: Augmentation | None = None,
    test_fraction: float | None = None,
    seed: int = 0,
    memory_gb: float = 2.0,
    cache_gb: float = 10.0,
    workers: int | None = None,
    pixel_range: Range | None = None,
    crop_ratio: float | None = None,
    interpolation: Interpolation | None = None,
    default_image_size: tuple[int, int] = (224, 224),
    default_crop_ratio: float = 1.0,
    default_interpolation: Interpolation = "bicubic",
    split: Split | None = None,
    whole: bool = False,
    keyed: bool = True,
    classes: Sequence[str] | None = None,
    scan: bool = True,
) -> Source:
    """The classes, splits and shape of a folder of images.

    Args:
        root: The folder.
        image_size: (height, width); None to find it.
        channels: 1 or 3; None to find it.
        augment: How training images will be varied; None to choose by their size.
        test_fraction: Held out of a folder without a ``val/``; None for a fifth.
        seed: Of that choice.
        memory_gb: What decoded images may take; more is decoded when it is needed.
        cache_gb: What all that is decoded then may take on disk.
        workers: Processes that decode then; None for the number of cores.
        pixel_range: The values that are black and white, of pixels of more than 8 bits; None where their type says.
        crop_ratio: The share of an image's shorter side that is taken; None to choose by ``augment``.
        interpolation: By which files are resized; None for the default.
        default_image_size: What is taken where the images do not say.
        default_crop_ratio: What is taken where training takes random resized crops, which show objects larger.
        default_interpolation: By which files are resized.
        split: The images of each part, as a Run drew them; None to draw them.
        whole: Refuse a ``split`` of which files are gone.
        keyed: Whether the test images are chosen by the images' names; else by their places in the listing, as in
            0.1.0.
        classes: Names of a Run's classes: a folder of class folders is then all test images.
        scan: Look at every image first, for sizes, channels, what pixels mean and damage; False, for ImageNet, takes
            colour, the default size, and ``val/`` as the test set whatever else is there.

    Raises:
        UserError: There is no such folder, a class has no images, the splits' classes differ, a file is no image.
    """
    if not root.is_dir():
        raise UserError(
            f"{escape(root)}: no such folder; ⟨data.root⟩ names the folder that holds train/ and val/, or the classes"
        )
    left_out = LeftOut(root)
    folders = split_folders(root) if scan else {"train": root / "train", "test": root / "val"}
    if folders:
        names, parts = _given(root, folders, test_fraction, classes, left_out)
    elif classes is not None or split is not None:
        names, parts = _undivided(root, classes, left_out)
    else:
        names, parts = _divided(root, test_fraction, seed, keyed, left_out)
    if split is not None:
        names, parts = list(split.classes), _as_drawn(root, parts, split, whole)
    left_out.say()
    train, validation, test = parts
    every = [*train[0], *(validation or ((), None))[0], *test[0]]
    size = image_size or default_image_size
    if scan:
        seen = survey(every, root, pixel_range)
        pixel_range = seen.pixel_range or pixel_range
        if image_size is None and len(seen.sizes) == 1 and max(only := next(iter(seen.sizes))) <= _SMALL:
            size = only
        channels = channels or (1 if seen.grey else 3)
    channels = channels or 3
    how = augment or ("crop-flip" if max(size) <= _SMALL else "random-resized-crop")
    kept = roomy(size) if how == "random-resized-crop" else size
    ratio = crop_ratio or (default_crop_ratio if how == "random-resized-crop" else 1.0)
    plain = partial(
        decode, channels=channels, pixel_range=pixel_range, interpolation=interpolation or default_interpolation
    )
    # What is cut from training to validate on is kept at training's size, whether now or by an earlier session.
    sizes = (kept, size if {"validation", "test"} <= set(folders) else kept, size)
    # What is kept to be cropped at random is kept whole, and need not be to the pixel.
    decodes = [
        partial(plain, image_size=each, crop_ratio=ratio if each == size else 1.0, draft=each != size) for each in sizes
    ]
    workers = (os.cpu_count() or 1) if workers is None else workers
    splits = [
        None if part is None else Streaming([str(file) for file in part[0]], part[1], how_decoded, workers)
        for part, how_decoded in zip(parts, decodes, strict=True)
    ]
    counts = [0 if split is None else len(split) for split in splits]
    resident = sum(map(mul, counts, map(prod, sizes))) * channels <= memory_gb * 1e9
    if not resident and scan:
        refuse_damaged(every, root, decodes[0])
    if resident:
        images = _decoded(splits, sizes, channels, root)
    else:
        ways = [(how, (*each, channels), count) for how, each, count in zip(decodes, sizes, counts, strict=True)]
        kept_decodes = keep_decoded(root, ways, 1e9 * cache_gb)
        images = [
            None if split is None else replace(split, decode=how)
            for split, how in zip(splits, kept_decodes, strict=True)
        ]
    assert images[0] is not None
    assert images[2] is not None
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ((0.449,), (0.226,))
    return Source(
        tuple(names),
        images[0],
        images[2],
        mean,
        std,
        size,
        channels,
        how,
        validation=images[1],
        pixel_range=pixel_range,
        root=root,
        class_folder=1 if folders else 0,
        drawn=not folders,
        crop_ratio=ratio,
        interpolation=interpolation or default_interpolation,
    )


def _given(
    root: Path,
    folders: dict[str, Path],
    test_fraction: float | None,
    names: Sequence[str] | None,
    left_out: LeftOut,
) -> tuple[list[str], _Parts]:
    """Classes and parts of a folder that holds them apart."""
    if test_fraction is not None:
        raise UserError(
            f"⟨data.test_fraction⟩: {escape(root)} has its own held-out images; only one folder of classes is split"
        )
    train = class_images(folders["train"], left_out)
    classes = list(names or train.classes)
    train = train.labelled(classes, folders["train"], "the run")
    # One set of held-out images is the test set, whatever it is called: figures are then of images never chosen by.
    test_at = folders.get("test") or folders["validation"]
    held_out = {"test": test_at}
    if "test" in folders and "validation" in folders:
        held_out["validation"] = folders["validation"]
    parts = {
        role: class_images(path, left_out, fewest=1).labelled(classes, path, "train/")
        for role, path in held_out.items()
    }
    for path in sorted(root.iterdir()):
        if path.is_dir() and path not in (folders["train"], *held_out.values()) and not path.name.startswith("."):
            left_out.add("folders beside those of the splits", path)
    validation = parts.get("validation")
    return classes, (_files(train), None if validation is None else _files(validation), _files(parts["test"]))


def _files(part: Part) -> _Files:
    return part.files, part.labels


def _undivided(root: Path, names: Sequence[str] | None, left_out: LeftOut) -> tuple[list[str], _Parts]:
    """One folder of class folders, which an earlier session of a Run divided: all of it, as test images."""
    part = class_images(root, left_out, fewest=2 if names is None else 1)
    part = part if names is None else part.labelled(names, root, "the run")
    return list(names or part.classes), (([], np.zeros(0, np.int64)), None, _files(part))


def _divided(
    root: Path, test_fraction: float | None, seed: int, keyed: bool, left_out: LeftOut
) -> tuple[list[str], _Parts]:
    """Classes and parts of one folder of class folders."""
    part = class_images(root, left_out)
    labels = part.labels
    fraction = _TEST_FRACTION if test_fraction is None else test_fraction
    count = round(fraction * len(labels))
    if not 0 < count < len(labels):
        raise UserError(
            f"⟨data.test_fraction {fraction}⟩ holds out {count} of {len(labels)} images; give another fraction, or "
            "more images"
        )
    if count > most_held_out(labels):
        raise UserError(
            f"{escape(root)}: {plural(len(labels), 'image')} of {len(part.classes)} classes, of which {count} would be "
            "held out to test on, and classes would have none to train on; add images, or give a smaller "
            "⟨data.test_fraction⟩"
        )
    names = [relative(file, root) for file in part.files] if keyed else None
    test, train = stratified(labels, count, seed, names, every_class_in="rest" if keyed else None)
    first, second = (([part.files[index] for index in indices], labels[indices]) for indices in (train, test))
    return part.classes, (first, None, second)


def _as_drawn(root: Path, parts: _Parts, split: Split, whole: bool) -> _Parts:
    """The images of a split that was drawn earlier, as far as they are still there."""
    here = {relative(file, root) for part in parts if part is not None for file in part[0]}
    names = {role: [name for name in given if name in here] for role, given in split.parts().items()}
    gone = [name for given in split.parts().values() for name in given if name not in here]
    if gone:
        are = "is" if len(gone) == 1 else "are"
        line = f"{escape(root)}: {plural(len(gone), 'image')} of the run {are} gone: {list_names(gone, 10)}"
        if whole:
            raise UserError(f"{line}; put back what is gone to go on, or choose another ⟨out⟩")
        say_once(line)
    new = sorted(here - {name for given in split.parts().values() for name in given})
    if len(new) > split.others:
        examples = "" if split.others else f" ({list_names(new)})"
        say_once(
            f"{escape(root)}: {plural(len(new) - split.others, 'image')} more than when the run drew its split; they "
            f"are not used{examples}"
        )
    for role in ("train", "test"):
        if not names[role]:
            raise UserError(f"{escape(root)}: no {role} image of the run is there; put them back, or name their folder")
    files = {role: ([root / name for name in some], split.labels(some)) for role, some in names.items()}
    return files["train"], files["validation"] if split.validation else None, files["test"]


def _decoded(
    splits: Sequence[Streaming | None], sizes: Sequence[tuple[int, int]], channels: int, root: Path
) -> list[Images | None]:
    """The splits in memory."""
    images: list[Images | None] = []
    damage = []
    for split, size in zip(splits, sizes, strict=True):
        if split is None:
            images.append(None)
            continue
        data = torch.empty(len(split), *size, channels, dtype=torch.uint8)

        def keep(index: int, image: Array, data: torch.Tensor = data) -> None:
            data[index] = torch.from_numpy(image.copy())

        damage += decode_all(split.decode, [Path(name) for name in split.names], keep)
        images.append(Resident(data, split.labels, split.names))
    raise_damage(damage, sum(len(split) for split in splits if split is not None), root)
    return images


FOLDER = DataEntry("your images: train/CLASS and val/CLASS, or CLASS alone", read_folder, files=True)
