"""Images in files, once it is known which of them are trained on and which are held out."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from operator import mul
from pathlib import Path
from typing import Literal

import torch

from coterie.data.base import Array, Augmentation, Images, Resident, Source, Streaming
from coterie.data.disk_cache import keep_decoded
from coterie.data.listing import relative
from coterie.data.pixels import Interpolation, Range, decode
from coterie.data.say import escape, list_names, plural, say_once
from coterie.data.sources.folder_survey import decode_all, raise_damage, refuse_damaged, survey
from coterie.data.split import Split
from coterie.data.splits import most_held_out, stratified
from coterie.data.transforms import roomy
from coterie.errors import UserError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALL = 64
_TEST_FRACTION = 0.2
# The parts of the files: those of training, validation (None where there is none) and test, and their labels.
Files = tuple[Sequence[Path], Array]
Parts = tuple[Files, Files | None, Files]


@dataclass(frozen=True)
class Reading:
    """How files become images; the options are those of :func:`coterie.data.load`."""

    image_size: tuple[int, int] | None
    channels: Literal[1, 3] | None
    augment: Augmentation | None
    memory_gb: float
    cache_gb: float
    workers: int | None
    pixel_range: Range | None
    crop_ratio: float | None
    interpolation: Interpolation | None
    default_image_size: tuple[int, int]
    default_crop_ratio: float
    default_interpolation: Interpolation

    def looked_at(self, files: Sequence[Path], root: Path) -> "Reading":
        """The same with what the files themselves say: size, channels and what pixels mean.

        Raises:
            UserError: Images are damaged, or what their pixels mean is unknown.
        """
        seen = survey(files, root, self.pixel_range)
        size = self.image_size
        if size is None and len(seen.sizes) == 1 and max(only := next(iter(seen.sizes))) <= SMALL:
            size = only
        channels: Literal[1, 3] = self.channels or (1 if seen.grey else 3)
        return replace(self, image_size=size, channels=channels, pixel_range=seen.pixel_range or self.pixel_range)


def make_source(
    root: Path,
    classes: Sequence[str],
    parts: Parts,
    reading: Reading,
    *,
    class_folder: Literal[0, 1] | None,
    drawn: bool,
    own_validation: bool,
    scan: bool = True,
) -> Source:
    """The images of these files, in memory where they fit and else streaming.

    Args:
        root: Where the files' names begin.
        classes: Names of the classes, by index.
        parts: The files, and their labels.
        reading: How they are read.
        class_folder: Which part of a name is its class, see :class:`coterie.data.split.Split`.
        drawn: Whether coterie chose the test images.
        own_validation: Whether the validation images are apart, and not cut from training.
        scan: Look at every image first, for sizes, channels, what pixels mean and damage.

    Raises:
        UserError: A file is no image, or is damaged.
    """
    train, validation, test = parts
    every = [*train[0], *(validation or ((), None))[0], *test[0]]
    reading = reading.looked_at(every, root) if scan else reading
    size, channels = reading.image_size or reading.default_image_size, reading.channels or 3
    how = reading.augment or ("crop-flip" if max(size) <= SMALL else "random-resized-crop")
    kept = roomy(size) if how == "random-resized-crop" else size
    ratio = reading.crop_ratio or (reading.default_crop_ratio if how == "random-resized-crop" else 1.0)
    interpolation = reading.interpolation or reading.default_interpolation
    plain = partial(decode, channels=channels, pixel_range=reading.pixel_range, interpolation=interpolation)
    # What is cut from training to validate on is kept at training's size, whether now or by an earlier session.
    sizes = (kept, size if own_validation else kept, size)
    # What is kept to be cropped at random is kept whole, and need not be to the pixel.
    decodes = [
        partial(plain, image_size=each, crop_ratio=ratio if each == size else 1.0, draft=each != size) for each in sizes
    ]
    workers = (os.cpu_count() or 1) if reading.workers is None else reading.workers
    splits = [
        None if part is None else Streaming([str(file) for file in part[0]], part[1], how_decoded, workers)
        for part, how_decoded in zip(parts, decodes, strict=True)
    ]
    counts = [0 if split is None else len(split) for split in splits]
    resident = sum(map(mul, counts, map(prod, sizes))) * channels <= reading.memory_gb * 1e9
    if not resident and scan:
        refuse_damaged(every, root, decodes[0])
    if resident:
        images = _decoded(splits, sizes, channels, root)
    else:
        ways = [(how, (*each, channels), count) for how, each, count in zip(decodes, sizes, counts, strict=True)]
        kept_decodes = keep_decoded(root, ways, 1e9 * reading.cache_gb)
        images = [
            None if split is None else replace(split, decode=how)
            for split, how in zip(splits, kept_decodes, strict=True)
        ]
    assert images[0] is not None
    assert images[2] is not None
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ((0.449,), (0.226,))
    return Source(
        tuple(classes),
        images[0],
        images[2],
        mean,
        std,
        size,
        channels,
        how,
        validation=images[1],
        pixel_range=reading.pixel_range,
        root=root,
        class_folder=class_folder,
        drawn=drawn,
        crop_ratio=ratio,
        interpolation=interpolation,
    )


def divided(
    files: Sequence[Path],
    labels: Array,
    names: Sequence[str] | None,
    root: Path,
    test_fraction: float | None,
    seed: int,
) -> Parts:
    """Files of which a share is held out to test on, each class in proportion.

    Args:
        files: The images.
        labels: (N,), int64.
        names: By which they are chosen; None for their places in the listing, as in 0.1.0.
        root: For messages.
        test_fraction: The share; None for a fifth.
        seed: Of the choice.

    Raises:
        UserError: The share leaves no images, or classes without any to train on.
    """
    fraction = _TEST_FRACTION if test_fraction is None else test_fraction
    count = round(fraction * len(labels))
    if not 0 < count < len(labels):
        raise UserError(
            f"⟨data.test_fraction {fraction}⟩ holds out {count} of {len(labels)} images; give another fraction, or "
            "more images"
        )
    if count > most_held_out(labels):
        raise UserError(
            f"{escape(root)}: {plural(len(labels), 'image')} of {len(set(labels.tolist()))} classes, of which {count} "
            "would be held out to test on, and classes would have none to train on; add images, or give a smaller "
            "⟨data.test_fraction⟩"
        )
    test, train = stratified(labels, count, seed, names, every_class_in=None if names is None else "rest")
    first, second = (([files[index] for index in indices], labels[indices]) for indices in (train, test))
    return first, None, second


def as_drawn(root: Path, parts: Parts, split: Split, whole: bool, label_of: Mapping[str, int] | None = None) -> Parts:
    """The images of a split that was drawn earlier, as far as they are still there.

    Args:
        root: Where the files' names begin.
        parts: All files that are there.
        split: As it was drawn.
        whole: Refuse a split of which files are gone.
        label_of: The label of each name; None where the split's names say it.

    Raises:
        UserError: Files are gone.
    """
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
    files = {role: ([root / name for name in some], split.labels(some, label_of)) for role, some in names.items()}
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
