"""A Run's own images: drawn once, and the same ones whenever the Run is opened, measured or gone on with."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from coterie.checking import check_value
from coterie.data.base import ImageData
from coterie.data.drawn import FILE, is_at, read_split
from coterie.data.loading import make
from coterie.data.registry import DATASETS
from coterie.data.say import escape, plural, say_once
from coterie.files import user_path

# Options that say which images are taken: giving one draws anew.
_DRAWING = ("seed", "validation", "train_samples", "test_samples", "test_fraction")
_OF_FILES = ("crop_ratio", "interpolation")
_OF_A_FILE = ("root", "split_column")  # of the Run's list of images, and not of another one


def keep_split(data: ImageData, folder: Path, resume: bool) -> ImageData:
    """The data with the images that the Run to go on with has.

    Args:
        data: As they were just loaded.
        folder: The Run's.
        resume: Whether the Run is to be gone on with, if it is there.

    Raises:
        UserError: Images of the Run are gone, or its ``split.json`` is damaged.
    """
    if not resume or data.drawn is None or not (folder / "config.yaml").is_file():
        return data
    if not (folder / FILE).is_file():
        return make(data.options, keyed=False)  # a Run of 0.1.0
    written = read_split(folder / FILE)
    if replace(written, digest="", others=0) == replace(data.drawn, others=0):
        return data
    return make(data.options, split=written, whole=True)


def load_run(
    folder: Path,
    options: Mapping[str, Any],
    overrides: Mapping[str, Any],
    classes: Sequence[str] | None,
    pixel_range: Sequence[float] | None,
) -> ImageData:
    """The data that a Run was trained on, or the same with other options.

    Args:
        folder: The Run's.
        options: Of :func:`coterie.data.load`, as the Run had them.
        overrides: Options in place of the Run's. With another ``root`` that does not hold the Run's own images, one
            folder of classes is all test images; so is another ``file`` of a ``csv``.
        classes: The Run's, where they are known.
        pixel_range: What is black and white to the Run's network, where images of more than 8 bits taught it.

    Raises:
        UserError: An option is wrong, files are missing or damaged.
    """
    name = check_value("⟨data⟩", {**options, **overrides}["name"], str)
    taken = DATASETS.find(name).parameters()
    # Other data than the Run's may not be decoded from files: what was chosen for the Run's files is not theirs.
    merged = {key: value for key, value in options.items() if key not in _OF_FILES or key in taken} | dict(overrides)
    if _is_other_file(options, overrides):
        merged = {
            key: value for key, value in merged.items() if key in overrides or key not in (*_OF_A_FILE, *_DRAWING)
        }
        data = make(merged, classes=classes)
        if len(data.train) == 0:
            _say_all_test(overrides["file"], data)
        return data
    of_files = merged.get("root") is not None and DATASETS.find(merged["name"]).files
    if not of_files or merged["name"] != options.get("name") or any(option in overrides for option in _DRAWING):
        return make(merged)
    if pixel_range is not None:
        merged.setdefault("pixel_range", tuple(pixel_range))
    split = read_split(folder / FILE) if (folder / FILE).is_file() else None
    root = user_path(str(merged["root"]))
    if "root" not in overrides or root.resolve() == user_path(str(options.get("root"))).resolve():
        if split is not None:
            return make(merged, split=split)
        data = make(merged, keyed=False)
        if data.drawn is not None:
            say_once(
                f"{escape(folder)}: has no {FILE}, as Runs of coterie 0.1.0; its split is drawn again, and is the "
                "Run's only where no image was added or removed"
            )
        return data
    if split is not None and is_at(split, root):
        say_once(f"{escape(root)}: holds the run's own images, of which the test images are measured")
        return make(merged, split=split)
    elsewhere = {key: value for key, value in merged.items() if key not in _DRAWING or key == "seed"}
    data = make(elsewhere, classes=classes)
    if len(data.train) == 0:
        _say_all_test(root, data, unsure=split is None)
    return data


def _is_other_file(options: Mapping[str, Any], overrides: Mapping[str, Any]) -> bool:
    """Whether a list of images is named, and it is not the Run's."""
    now, before = overrides.get("file"), options.get("file")
    return now is not None and (before is None or user_path(str(now)).resolve() != user_path(str(before)).resolve())


def _say_all_test(where: Path | str, data: ImageData, unsure: bool = True) -> None:
    doubt = "; if the run was trained on some of them, its error is no test error" if unsure else ""
    say_once(f"{escape(where)}: all {plural(len(data.test), 'image')} are test images{doubt}")
