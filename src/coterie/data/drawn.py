"""Which images of a folder coterie drew for what, as a fact of the Run: ``split.json``."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from coterie.checking import make_checked
from coterie.data.base import ImageData, Images
from coterie.data.listing import check_class_names, relative
from coterie.data.say import escape
from coterie.data.split import Split
from coterie.errors import UserError
from coterie.files import read_json, user_path, write_text

FILE = "split.json"
_COMPARED = 100  # so many test files tell whether a folder is the same one


def record_split(
    classes: Sequence[str], parts: Sequence[Images | None], root: Path, class_folder: Literal[0, 1] | None, total: int
) -> Split:
    """The split into these training, validation and test images, of so many in all."""
    names = [() if part is None else tuple(relative(name, root) for name in part.names or ()) for part in parts]
    return Split(tuple(classes), names[0], names[1], names[2], class_folder, total - sum(map(len, names)), "")


def is_at(split: Split, root: Path) -> bool:
    """Whether a folder holds all of a split's images, its test images with the same content."""
    there = all((root / name).is_file() for names in split.parts().values() for name in names)
    return there and digest(root, split.test) == split.digest


def digest(root: Path, names: Sequence[str]) -> str:
    """Of the content of the first files.

    Raises:
        UserError: One cannot be read.
    """
    whole = hashlib.blake2b(digest_size=16)
    for name in names[:_COMPARED]:
        try:
            whole.update(hashlib.blake2b((root / name).read_bytes()).digest())
        except OSError as error:
            raise UserError(f"{escape(root / name)}: cannot be read ({error.strerror}); put it back") from error
    return whole.hexdigest()


def write_split(folder: Path, data: ImageData) -> None:
    """Write ``split.json`` into a Run's folder where coterie drew its images from a folder.

    It comes before ``config.yaml``: where both are there, it is the Run's and stays.
    """
    if data.drawn is None or all((folder / name).is_file() for name in (FILE, "config.yaml")):
        return
    digested = replace(data.drawn, digest=digest(user_path(str(data.options["root"])), data.drawn.test))
    # Names that are no UTF-8 are carried through as escapes.
    write_text(folder / FILE, json.dumps({"format": 1, **vars(digested)}, indent=0, ensure_ascii=True) + "\n")


def read_split(path: Path) -> Split:
    """The split that a Run's ``split.json`` holds.

    Raises:
        UserError: It is damaged.
    """
    mend = "train the run again"
    content = read_json(path, mend)
    if isinstance(content, dict) and content.get("format") != 1:
        raise UserError(f"{path}: format is no 1, which is what this version of coterie knows; {mend}")
    split = make_checked(Split, str(path), content, others=True)
    check_class_names(split.classes, f"{path}: ")
    for names in split.parts().values():
        for name in names:
            if not split.known(name):
                raise UserError(f"{path}: '{escape(name)}' lies in no class folder; {mend}")
    return split
