"""The images that are to be classified: files by name, folder or pattern, Pillow's images, arrays."""

import glob
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from coterie.data.items import image_of
from coterie.data.listing import LeftOut, images_below
from coterie.data.say import escape
from coterie.errors import UserError, show_value
from coterie.files import user_path

OneImage = str | Path | Image.Image | np.ndarray[Any, Any]


@dataclass(frozen=True)
class Item:
    """One image that was given.

    Attributes:
        image: A file's path, or the image itself.
        path: The file; None of an image that is none.
        name: For lines about it.
        folder: The one that was given and which it lies below; None where the image itself was given.
    """

    image: Path | Image.Image
    path: Path | None
    name: str
    folder: Path | None = None

    def label(self, classes: Iterable[str]) -> str | None:
        """The class as whose folder the image's folder is named, or one between it and the folder that was given."""
        if self.path is None:
            return None
        names = [self.path.parent.name]
        if self.folder is not None:
            below = self.path.relative_to(self.folder).parts[:-1]
            names = [*reversed(below), self.folder.name]
        return next((name for name in names if name in classes), None)


def items_of(images: OneImage | Iterable[OneImage]) -> Iterator[Item]:
    """The images, in the order in which they are given; an iterator is read no further than is asked for.

    Args:
        images: Files, folders (all images below them, sorted), patterns such as ``photos/*.jpg`` (sorted, ``**`` for
            any folders), Pillow's images, uint8 arrays (H, W) or (H, W, C) of 1, 3 or 4 channels; one of these, or any
            iterable of them.

    Raises:
        UserError: A name is empty, a folder has no images, a pattern matches nothing, an object is no image.
    """
    if isinstance(images, str | Path | Image.Image | np.ndarray):
        images = [images]
    elif not isinstance(images, Iterable):
        raise _no_image(images)
    for place, image in enumerate(images):
        name = f"image {place}"
        if isinstance(image, str | PathLike):
            yield from _files(image)
        elif isinstance(image, np.ndarray):
            yield Item(image_of(image, name), None, name)
        elif isinstance(image, Image.Image):
            path = getattr(image, "filename", None)
            yield Item(image, Path(path) if isinstance(path, str) and path else None, str(path or name))
        else:
            raise _no_image(image)


def _files(name: str | Path) -> Iterator[Item]:
    """The files that a name stands for: itself, those below a folder, those that match a pattern."""
    if str(name) == "":
        raise UserError("the name of an image is empty; name image files")
    path = user_path(name)
    if path.is_dir():
        left_out = LeftOut(path)
        files = images_below(path, left_out)
        left_out.say()
        if not files:
            raise UserError(f"{escape(path)}: a folder without images; name image files, or a folder that holds some")
        yield from (Item(file, file, str(file), path) for file in files)
    elif isinstance(name, str) and glob.has_magic(name) and not path.exists():
        matches = sorted(glob.glob(str(path), recursive=True))
        if not matches:
            raise UserError(f"{escape(name)}: no such file, and none that it matches as a pattern; name image files")
        for match in matches:
            # Of a folder that a shell's pattern matched, all images are taken too.
            yield from _files(Path(match))
    else:
        yield Item(path, path, str(path))


def _no_image(value: Any) -> UserError:
    return UserError(
        f"images is {show_value(value)}; give files, folders, Pillow's images, uint8 arrays, or an iterable of these"
    )
