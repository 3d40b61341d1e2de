"""Which files of a folder are images of which class, and what is left out."""

import os
import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from coterie.data.base import Array
from coterie.data.say import escape, is_printable, list_names, plural, say_once
from coterie.errors import UserError

# The words for a split, in any capitals. `val/` alone is the test set: see coterie.data.sources.folder.
SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}

# Folders that hold splits under longer names: training_set, val-images, seg_test, TestData.
_LONGER = re.compile(r"(?:^|[^a-z])(train|training|val|valid|validation|test|testing)(?:set|data|images?)?(?:$|[^a-z])")

_NO_IMAGE = "no images that Pillow reads, by their names"
_HIDDEN = "hidden by a dot before their names"
_BROKEN = "links that lead nowhere"
_IRREGULAR = "no regular files (pipes, sockets, devices)"
_SEEN = "links to folders that are read anyway"
_OUTSIDE = "outside of the class folders"


@dataclass
class LeftOut:
    """Files and folders below ``root`` that are not used, by the reason."""

    root: Path
    reasons: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, path: Path) -> None:
        """Count one."""
        self.reasons.setdefault(reason, []).append(relative(path, self.root))

    def say(self) -> None:
        """One line, where anything was left out."""
        parts = [f"{reason}: {len(names)} ({list_names(names)})" for reason, names in self.reasons.items()]
        if parts:
            say_once(f"{escape(self.root)}: left out {'; '.join(parts)}")


@dataclass(frozen=True)
class Part:
    """The images of one folder of class folders.

    Attributes:
        classes: Names of the class folders, sorted.
        files: Their images.
        labels: (N,), int64: indices into ``classes``.
    """

    classes: list[str]
    files: list[Path]
    labels: Array

    def labelled(self, classes: Sequence[str], folder: Path, whose: str) -> "Part":
        """The same images, the labels being indices into other class names.

        Raises:
            UserError: A class of the folder is not among them, who has them being named.
        """
        unknown = [name for name in self.classes if name not in classes]
        if unknown:
            raise UserError(
                f"{escape(folder / unknown[0])}: no class of {whose}, which has {list_names(classes, 10)}; every class "
                "needs training images"
            )
        place = np.array([classes.index(name) for name in self.classes], np.int64)
        return Part(list(classes), self.files, place[self.labels])


def relative(path: str | Path, root: Path) -> str:
    """A file's name relative to the folder, with ``/``; its whole path where it lies elsewhere."""
    path = Path(path)
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def split_folders(root: Path) -> dict[str, Path]:
    """The folders that hold ``train``, ``validation`` and ``test``; none where the folders are classes.

    A class may be called "train" (the vehicle): a folder of that name with images right in it, and nothing held out
    beside it, is one.

    Raises:
        UserError: Two folders have the same meaning, images are held out of nothing, or folders seem to be splits
            under names that are not known.
    """
    role_of = {word: role for role, words in SPLIT_WORDS.items() for word in words}
    roles: dict[str, Path] = {}
    others: list[str] = []
    for path in _folders(root):
        role = role_of.get(path.name.lower())
        if role is None:
            others.append(path.name)
        elif role in roles:
            raise UserError(f"{escape(root)}: has {roles[role].name}/ and {path.name}/, of the same meaning; keep one")
        else:
            roles[role] = path
    if "train" not in roles:
        if roles and not others:
            have = ", ".join(f"{path.name}/" for path in roles.values())
            raise UserError(f"{escape(root)}: has {have} but no train/; add the training images")
        _refuse_longer_names(root)
        return {}
    if len(roles) == 1:
        if not _folders(roles["train"]):
            return {}
        name = roles["train"].name
        raise UserError(f"{escape(root)}: has {name}/ and none of val/, test/, valid/; add the held-out images")
    return roles


def _refuse_longer_names(root: Path) -> None:
    """Refuse a training and a held-out folder under longer names, which would be taken for two classes.

    Raises:
        UserError: Both hold class folders and no images right in them.
    """
    alike: dict[str, Path] = {}
    for path in _folders(root):
        word = _LONGER.search(path.name.lower())
        if word and _folders(path) and not any(_readable(entry.name) for entry in _entries(path)):
            alike.setdefault("train" if word[1].startswith("train") else "held out", path)
    if len(alike) == 2:
        train, held_out = escape(alike["train"].name), escape(alike["held out"].name)
        raise UserError(
            f"{escape(root)}: {train}/ and {held_out}/ seem to be splits and would be taken for classes; rename them "
            "train/ and val/ or test/ (if they are classes, take their folders out of them)"
        )


def class_images(folder: Path, left_out: LeftOut, fewest: int = 2) -> Part:
    """The images below a folder of class folders.

    Args:
        folder: Holds one folder a class.
        left_out: Is told what is not used.
        fewest: How many classes there must be.

    Raises:
        UserError: There are too few classes, a class has no images, its name cannot be printed.
    """
    folders = _class_folders(folder, left_out)
    if len(folders) < fewest:
        wanted = "two or more" if fewest > 1 else "one or more"
        have = plural(len(folders), "class folder")
        raise UserError(f"{escape(folder)}: {have}; a classifier needs {wanted}, one folder a class")
    check_class_names([path.name for path in folders], f"{escape(folder)}: ")
    for path in _entries(folder):
        if path not in folders and _readable(path.name) and not path.name.startswith("."):
            left_out.add(_OUTSIDE, path)
    files: list[Path] = []
    labels: list[int] = []
    for label, path in enumerate(folders):
        before = dict.fromkeys(left_out.reasons, 0) | {key: len(names) for key, names in left_out.reasons.items()}
        images = images_below(path, left_out)
        if not images:
            unused = [name for key, names in left_out.reasons.items() for name in names[before.get(key, 0) :]]
            holds = f" (it holds {list_names(unused)})" if unused else ""
            raise UserError(f"{escape(path)}: a class folder without images{holds}; add some, or remove the folder")
        files += images
        labels += [label] * len(images)
    return Part([path.name for path in folders], files, np.array(labels, np.int64))


def _class_folders(folder: Path, left_out: LeftOut) -> list[Path]:
    """The folders of classes; links to what holds them, or to a class that is there anyway, are left out."""
    folders = _folders(folder)
    whole, own = folder.resolve(), {_identity(path) for path in folders if not path.is_symlink()}
    classes = []
    for path in folders:
        if path.is_symlink():
            identity = _identity(path)
            if identity in own or whole.is_relative_to(path.resolve()):
                left_out.add(_SEEN, path)
                continue
            own.add(identity)
        classes.append(path)
    return classes


def check_class_names(names: Iterable[str], where: str) -> None:
    """Refuse names of classes that cannot be written to files and terminals as they are.

    Raises:
        UserError: Names the first, with escapes.
    """
    for name in names:
        if not is_printable(name):
            raise UserError(
                f"{where}the class name '{escape(name)}' holds control characters or bytes that are no UTF-8; rename it"
            )


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"{escape(folder)}: cannot be read ({error.strerror}); mend its permissions") from error


def _folders(folder: Path) -> list[Path]:
    return [path for path in _entries(folder) if path.is_dir() and not path.name.startswith(".")]


def images_below(folder: Path, left_out: LeftOut) -> list[Path]:
    """All images below a folder, sorted; linked folders are followed, each folder being read once.

    A link to the data themselves is not: it would give images the class of another folder, or test on trained ones.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"{escape(error.filename)}: cannot be read ({error.strerror}); mend its permissions")

    files: list[Path] = []
    seen, whole = {_identity(folder)}, left_out.root.resolve()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        inner = []
        for name in sorted(folders):
            path = Path(place, name)
            identity = _identity(path)
            if name.startswith("."):
                left_out.add(_HIDDEN, path)
            elif identity in seen or (path.is_symlink() and _overlap(path.resolve(), whole)):
                left_out.add(_SEEN, path)
            else:
                seen.add(identity)
                inner.append(name)
        folders[:] = inner
        for name in sorted(names):
            path = Path(place, name)
            reason = _why_not(path)
            if reason is None:
                files.append(path)
            elif not (reason is _HIDDEN and (name.startswith("._") or not _readable(name))):
                left_out.add(reason, path)  # but for what file managers leave: .DS_Store, ._photo.jpg
    return sorted(files)


def _why_not(path: Path) -> str | None:
    """Why a file is not used; None where it is."""
    if path.name.startswith("."):
        return _HIDDEN
    try:
        mode = path.stat().st_mode
    except OSError:
        return _BROKEN
    if not stat.S_ISREG(mode):
        return _IRREGULAR
    return None if _readable(path.name) else _NO_IMAGE


def _overlap(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _readable(name: str) -> bool:
    return Path(name).suffix.lower() in _suffixes()


@cache
def _suffixes() -> frozenset[str]:
    # Some formats can only be written (PDF): a file of theirs among the images is no image.
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN)
