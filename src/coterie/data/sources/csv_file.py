"""Images that a CSV file lists, one in a row: a column names the image file, another its label."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np

from coterie.data.base import Augmentation, DataEntry, Source
from coterie.data.listing import SPLIT_WORDS, check_class_names, relative
from coterie.data.pixels import Interpolation, Range
from coterie.data.say import escape, list_names, plural, say_once
from coterie.data.sources.files import Files, Parts, Reading, as_drawn, divided, make_source
from coterie.data.sources.folder_survey import Damage
from coterie.data.split import Split
from coterie.errors import UserError
from coterie.files import user_path

_DELIMITERS = ",;\t"
_ROLE_OF = {word: role for role, words in SPLIT_WORDS.items() for word in words}


@dataclass(frozen=True)
class Row:
    """One image of the list.

    Attributes:
        number: As a spreadsheet counts: the line of column names is row 1.
        path: The image file.
        label: The name of its class.
        role: ``train``, ``validation`` or ``test``; empty without a column that says it.
    """

    number: int
    path: Path
    label: str
    role: str


def read_csv(
    root: Path | None = None,
    file: str | Path | None = None,
    image_column: str = "image",
    label_column: str = "label",
    split_column: str | None = None,
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
    classes: Sequence[str] | None = None,
) -> Source:
    """The classes, splits and shape of the images that a CSV file lists.

    Args:
        root: The folder that the images' names are relative to; None for the folder of ``file``.
        file: The CSV file: a line of column names, then an image in each row. It is separated by commas, semicolons or
            tabs. Where it is not there, one of its name in ``root`` is taken.
        image_column: The column that names the image files.
        label_column: The column of the classes' names, or their numbers.
        split_column: The column that says ``train``, ``val`` or ``test``; None to hold out ``test_fraction``.
        image_size: (height, width); None to find it.
        channels: 1 or 3; None to find it.
        augment: How training images will be varied; None to choose by their size.
        test_fraction: Held out of a file without ``split_column``; None for a fifth.
        seed: Of that choice.
        memory_gb: What decoded images may take; more is decoded when it is needed.
        cache_gb: What all that is decoded then may take on disk.
        workers: Processes that decode then; None for the number of cores.
        pixel_range: The values that are black and white, of pixels of more than 8 bits; None where their type says.
        crop_ratio: The share of an image's shorter side that is taken; None to choose by ``augment``.
        interpolation: By which files are resized; None for the default.
        default_image_size: What is taken where the images do not say.
        default_crop_ratio: What is taken where training takes random resized crops.
        default_interpolation: By which files are resized.
        split: The images of each part, as a Run drew them; None to draw them.
        whole: Refuse a ``split`` of which files are gone.
        classes: Names of a Run's classes: without ``split_column`` all rows are then test images.

    Raises:
        UserError: The file, a column, an image or a label is missing or wrong; it names the row.
    """
    given = dict(locals())
    if not file:
        raise UserError("data 'csv' needs ⟨data.file⟩, the CSV file that lists the images and their labels")
    path = user_path(file)
    if not path.is_file() and root is not None and (root / path.name).is_file():
        path = root / path.name
    root = path.parent if root is None else root
    rows = _read(path, root, image_column, label_column, split_column)
    names = list(split.classes) if split is not None else list(classes) if classes is not None else _classes(rows, path)
    apart = split_column is not None
    if apart:
        parts = _given(rows, names, path, test_fraction, classes is not None)
    elif classes is not None or split is not None:
        parts = ([], np.zeros(0, np.int64)), None, _labelled(rows, names, path, "the run", split is not None)
    else:
        files, labels = _labelled(rows, names, path, "the file")
        parts = divided(files, labels, [relative(each, root) for each in files], path, test_fraction, seed)
    own_validation = parts[1] is not None
    if split is not None:
        label_of = {relative(row.path, root): names.index(row.label) for row in rows if row.label in names}
        parts = as_drawn(root, parts, split, whole, label_of)
    reading = Reading(**{each.name: given[each.name] for each in fields(Reading)})
    try:
        return make_source(
            root, names, parts, reading, class_folder=None, drawn=not apart, own_validation=own_validation
        )
    except Damage as error:
        number_of = {row.path: row.number for row in rows}
        numbers = [str(number_of[each]) for each in error.paths]
        where = f"row {numbers[0]}" if len(numbers) == 1 else f"rows {list_names(numbers, 10)}"
        raise UserError(f"{escape(path)}, {where}: {error.args[0]}") from error


def _read(path: Path, root: Path, image: str, label: str, split: str | None) -> list[Row]:
    """All rows of a file, each checked.

    Raises:
        UserError: The file or a column is missing, a row is wrong, or an image is not there.
    """
    if not path.is_file():
        raise UserError(
            f"{escape(path)}: no such file; ⟨data.file⟩ names the CSV file that lists the images, or "
            "⟨data.root⟩ the folder that it was moved to with them"
        )
    lines = _lines(path)
    _, header = next(lines, (1, []))
    header = [name.strip() for name in header]
    where = {}
    for option, name in (("image_column", image), ("label_column", label), ("split_column", split)):
        if name is None:
            continue
        if header.count(name) != 1:
            has = "has no" if name not in header else "has several"
            raise UserError(
                f"{escape(path)}: {has} column '{escape(name)}'; its columns are {list_names(header, 10)}; say which "
                f"with ⟨data.{option}⟩"
            )
        where[option] = header.index(name)
    if split is None and "split" in header:
        say_once(f"{escape(path)}: its column 'split' is not used; ⟨data.split_column split⟩ takes it")
    rows: list[Row] = []
    for number, cells in lines:
        at = f"{escape(path)}, row {number}: "
        if len(cells) != len(header):
            raise UserError(
                f"{at}has {plural(len(cells), 'field')}, and the row of column names {len(header)}; put quotes around "
                "what holds a separator, or mend the row"
            )
        values = {option: cells[index].strip() for option, index in where.items()}
        for option, value in values.items():
            if not value:
                column = escape(header[where[option]])
                raise UserError(f"{at}nothing stands in column '{column}'; fill it in, or remove the row")
        role = values.get("split_column", "").lower()
        if role and role not in _ROLE_OF:
            raise UserError(f"{at}'{escape(role)}' is no split; write train, val or test into column '{split}'")
        rows.append(Row(number, root / values["image_column"], values["label_column"], _ROLE_OF.get(role, "")))
    _check_images(rows, path, root)
    return rows


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not empty, with their numbers.

    Raises:
        UserError: The file cannot be read, or is no text.
    """
    number = 0
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            delimiter = max(_DELIMITERS, key=first.count)
            for number, cells in enumerate(csv.reader(file, delimiter=delimiter, strict=True), 1):
                if any(map(str.strip, cells)):
                    yield number, cells
    except OSError as error:
        raise UserError(f"{escape(path)}: cannot be read ({error.strerror}); mend its permissions") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{escape(path)}: is no UTF-8 text; save it as CSV in UTF-8") from error
    except csv.Error as error:
        raise UserError(f"{escape(path)}, row {number + 1}: is no CSV ({error}); mend its quotes") from error


def _check_images(rows: Sequence[Row], path: Path, root: Path) -> None:
    """Refuse a list without images, with images that are not there, or one that is listed twice.

    Raises:
        UserError: Names the first row.
    """
    if not rows:
        raise UserError(f"{escape(path)}: lists no image below its column names; add rows")
    gone = [row for row in rows if not row.path.is_file()]
    if gone:
        more = f" (and {plural(len(gone) - 1, 'other row')})" if len(gone) > 1 else ""
        raise UserError(
            f"{escape(path)}, row {gone[0].number}{more}: no file {escape(gone[0].path)}; put it there, or name the "
            "folder that the images lie in with ⟨data.root⟩"
        )
    seen: dict[str, Row] = {}
    for row in rows:
        first = seen.setdefault(relative(row.path, root), row)
        if first is not row:
            raise UserError(
                f"{escape(path)}, row {row.number}: {escape(row.path)} stands in row {first.number} too; keep one"
            )


def _classes(rows: Sequence[Row], path: Path) -> list[str]:
    """The names of the classes: sorted, by value where all are whole numbers.

    Raises:
        UserError: There are fewer than two, or one cannot be printed.
    """
    names = {row.label for row in rows}
    check_class_names(names, f"{escape(path)}: ")
    if len(names) < 2:
        only = list_names(list(names))
        raise UserError(f"{escape(path)}: all {plural(len(rows), 'row')} are of class '{only}'; a classifier needs two")
    numbers = all(name.isascii() and name.isdigit() for name in names)
    return sorted(names, key=lambda name: (int(name) if numbers else 0, name))


def _labelled(rows: Sequence[Row], classes: Sequence[str], path: Path, whose: str, some: bool = False) -> Files:
    """Files and labels of rows; with ``some``, the rows of other classes are left out.

    Raises:
        UserError: Names the first row of a class that is not among those given.
    """
    place = {name: index for index, name in enumerate(classes)}
    rows = [row for row in rows if row.label in place] if some else rows
    for row in rows:
        if row.label not in place:
            raise UserError(
                f"{escape(path)}, row {row.number}: '{escape(row.label)}' is no class of {whose}, which has "
                f"{list_names(classes, 10)}; every class needs training images"
            )
    return [row.path for row in rows], np.array([place[row.label] for row in rows], np.int64)


def _given(
    rows: Sequence[Row], classes: Sequence[str], path: Path, test_fraction: float | None, of_a_run: bool
) -> Parts:
    """The parts that a column says. One set of held-out images is the test set, as in a folder."""
    if test_fraction is not None:
        raise UserError(f"⟨data.test_fraction⟩: {escape(path)} says which images are held out; leave it out")
    roles = {role: [row for row in rows if row.role == role] for role in SPLIT_WORDS}
    if not roles["train"]:
        raise UserError(f"{escape(path)}: no row is marked train; mark the rows to train on")
    held_out = roles["test"] or roles["validation"]
    if not held_out:
        raise UserError(
            f"{escape(path)}: all rows are marked train; mark some test, or leave out ⟨data.split_column⟩ to have a "
            "fifth held out"
        )
    taught = {row.label for row in roles["train"]}
    learned = [name for name in classes if name in taught]
    if not of_a_run:
        _labelled(rows, learned, path, "the rows marked train")
    train, test = (_labelled(each, classes, path, "the run") for each in (roles["train"], held_out))
    validation = roles["validation"] if roles["test"] and roles["validation"] else None
    return train, None if validation is None else _labelled(validation, classes, path, "the run"), test


CSV = DataEntry("your images, listed in a CSV file: columns image and label", read_csv, files=True)
