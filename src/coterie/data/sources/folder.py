"""Folders of images, one folder a class: ``train/``, ``val/`` and ``test/``, or one folder that is split by a seed.

``test/`` is the test set and ``val/`` the validation set where both are there; either alone beside ``train/`` is the
test set.
"""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Literal

import numpy as np

from coterie.data.base import Augmentation, DataEntry, Source
from coterie.data.listing import LeftOut, Part, class_images, relative, split_folders
from coterie.data.pixels import Interpolation, Range
from coterie.data.say import escape
from coterie.data.sources.files import Files, Parts, Reading, as_drawn, divided, make_source
from coterie.data.split import Split
from coterie.errors import UserError


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
    given = dict(locals())
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
        names, parts = list(split.classes), as_drawn(root, parts, split, whole)
    left_out.say()
    given["channels"] = channels if scan else channels or 3
    return make_source(
        root,
        names,
        parts,
        Reading(**{each.name: given[each.name] for each in fields(Reading)}),
        class_folder=1 if folders else 0,
        drawn=not folders,
        own_validation={"validation", "test"} <= set(folders),
        scan=scan,
    )


def _given(
    root: Path,
    folders: dict[str, Path],
    test_fraction: float | None,
    names: Sequence[str] | None,
    left_out: LeftOut,
) -> tuple[list[str], Parts]:
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


def _files(part: Part) -> Files:
    return part.files, part.labels


def _undivided(root: Path, names: Sequence[str] | None, left_out: LeftOut) -> tuple[list[str], Parts]:
    """One folder of class folders, which an earlier session of a Run divided: all of it, as test images."""
    part = class_images(root, left_out, fewest=2 if names is None else 1)
    part = part if names is None else part.labelled(names, root, "the run")
    return list(names or part.classes), (([], np.zeros(0, np.int64)), None, _files(part))


def _divided(
    root: Path, test_fraction: float | None, seed: int, keyed: bool, left_out: LeftOut
) -> tuple[list[str], Parts]:
    """Classes and parts of one folder of class folders."""
    part = class_images(root, left_out)
    names = [relative(file, root) for file in part.files] if keyed else None
    return part.classes, divided(part.files, part.labels, names, root, test_fraction, seed)


FOLDER = DataEntry("your images: train/CLASS and val/CLASS, or CLASS alone", read_folder, files=True)
