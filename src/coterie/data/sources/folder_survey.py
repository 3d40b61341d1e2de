"""A look at every image before any training: sizes, colours, what pixels mean, and damage, named all at once."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from rich.progress import track

from coterie.data.listing import relative
from coterie.data.pixels import (
    DIM,
    EIGHT,
    FULL,
    SIXTEEN,
    SIXTEEN_COLOUR,
    Range,
    extent,
    opened,
    pixel_type,
    unknown_range,
)
from coterie.data.say import escape, list_names, plural, say_once
from coterie.errors import UserError

T = TypeVar("T")


class Damage(UserError):
    """Images that cannot be used.

    Attributes:
        paths: Their files.
    """

    def __init__(self, line: str, paths: Sequence[Path]) -> None:
        super().__init__(line)
        self.paths = paths


_GREY = ("1", "L", "LA", "La", "I", "F")
_ORIENTATION = 0x0112  # EXIF
_MANY = 2000  # from so many files on, a bar is shown
_NAMED = 10  # so many damaged files are named


@dataclass(frozen=True)
class Header:
    """What a file says before its pixels.

    Attributes:
        size: (height, width), upright.
        grey: Whether it has no colour.
        kind: One of the pixel types' names in :mod:`coterie.data.pixels`.
        frames: Whether it holds several pictures.
    """

    size: tuple[int, int]
    grey: bool
    kind: str
    frames: bool


@dataclass(frozen=True)
class Survey:
    """What all images have in common.

    Attributes:
        sizes: All that occur.
        grey: Whether none has colour.
        pixel_range: What is black and white in pixels of more than 8 bits; None where there are none, or where it was
            not looked.
    """

    sizes: set[tuple[int, int]]
    grey: bool
    pixel_range: Range | None


def survey(files: Sequence[Path], root: Path, pixel_range: Range | None) -> Survey:
    """Look at the header of every image, and at the values of those of more than 8 bits.

    Args:
        files: The images.
        root: Their folder, for messages.
        pixel_range: As the user gave it.

    Raises:
        UserError: Images are damaged, or what their pixels mean is unknown.
    """
    headers, damage = _tried(read_header, files, "looking at images")
    if damage:  # then the pixels of the others too, so that all that is damaged is named at once
        refuse_damaged(files, root)
    several = [relative(file, root) for file, header in zip(files, headers, strict=True) if header.frames]
    if several:
        say_once(
            f"{escape(root)}: {plural(len(several), 'file holds', 'files hold')} several pictures, of which the first "
            f"is used ({list_names(several)})"
        )
    deep = [file for file, header in zip(files, headers, strict=True) if header.kind != EIGHT]
    resolved = _pixel_range(deep, root, pixel_range) if deep else pixel_range
    if pixel_range is not None and not deep:
        say_once(f"{escape(root)}: pixel_range is not used: no image has more than 8 bits, and 8 bits are 0 to 255")
    return Survey({header.size for header in headers}, all(header.grey for header in headers), resolved)


def read_header(path: Path) -> Header:
    """What a file says before its pixels; they are not decoded.

    Raises:
        UserError: It is no image.
    """
    with opened(path) as image:
        upright = (image.height, image.width)
        # Pillow decodes a whole PNG to look for EXIF behind its pixels: here only what stands before them counts.
        turned = image.getexif().get(_ORIENTATION, 1) if image.format != "PNG" or "exif" in image.info else 1
        if turned >= 5:  # 5 to 8 lie on their side; they are turned when decoded
            upright = (image.width, image.height)
        # A camera's MPO holds a preview beside its picture.
        frames = image.format != "MPO" and getattr(image, "is_animated", False)
        return Header(upright, image.mode in _GREY or image.mode.startswith("I;16"), pixel_type(image).name, frames)


def refuse_damaged(files: Sequence[Path], root: Path, decode: Callable[[Path], object] | None = None) -> None:
    """Decode every image once, to find the damaged ones before they are needed.

    Args:
        files: The images.
        root: Their folder, for messages.
        decode: As they will be decoded; None where they are not.

    Raises:
        UserError: Names those that do not decode.
    """
    _, damage = _tried(lambda path: _load(path, decode), files, "checking images")
    raise_damage(damage, len(files), root)


def raise_damage(damage: Sequence[tuple[Path, UserError]], total: int, root: Path) -> None:
    """One error for all damaged images, where there are any.

    Raises:
        Damage: Names them.
    """
    paths = [path for path, _ in damage]
    if len(damage) == 1:
        raise Damage(damage[0][1].args[0], paths) from damage[0][1]
    if damage:
        names = [relative(path, root) for path, _ in damage]
        reason = str(damage[0][1]).partition(": ")[2].partition("; mend")[0]
        raise Damage(
            f"{escape(root)}: {len(damage)} of {total} images cannot be used: {list_names(names, _NAMED)}; mend or "
            f"remove them (the first {reason})",
            paths,
        )


def decode_all(
    decode: Callable[[Path], T], files: Sequence[Path], keep: Callable[[int, T], None]
) -> list[tuple[Path, UserError]]:
    """Decode files and hand each image to ``keep`` with its index; those that do not decode come back."""
    damage: list[tuple[Path, UserError]] = []
    for index, (image, error) in enumerate(_each(decode, files, "decoding images")):
        if error is not None:
            damage.append((files[index], error))
        elif not damage:
            assert image is not None
            keep(index, image)
    return damage


def _load(path: Path, decode: Callable[[Path], object] | None) -> None:
    with opened(path) as image:
        if image.format == "JPEG":
            # An eighth of the size: all its bytes are read, and most of the work is not done.
            image.draft(None, (max(image.width // 8, 1), max(image.height // 8, 1)))
            image.load()
            return
        if decode is None:
            image.load()
            return
    decode(path)


def _tried(
    look: Callable[[Path], T], files: Sequence[Path], title: str
) -> tuple[list[T], list[tuple[Path, UserError]]]:
    results: list[T] = []
    damage: list[tuple[Path, UserError]] = []
    for file, (result, error) in zip(files, _each(look, files, title), strict=True):
        if error is not None:
            damage.append((file, error))
        else:
            results.append(result)  # type: ignore[arg-type]
    return results, damage


def _each(look: Callable[[Path], T], files: Sequence[Path], title: str) -> Iterable[tuple[T | None, UserError | None]]:
    def attempt(path: Path) -> tuple[T | None, UserError | None]:
        try:
            return look(path), None
        except UserError as error:
            return None, error

    with ThreadPoolExecutor() as pool:
        results = pool.map(attempt, files)
        yield from track(results, title, len(files), transient=True) if len(files) >= _MANY else results


def _pixel_range(files: Sequence[Path], root: Path, given: Range | None) -> Range:
    """What is black and white in images of more than 8 bits."""
    found, damage = _tried(extent, files, "looking at images of more than 8 bits")
    raise_damage(damage, len(files), root)
    names = [relative(file, root) for file in files]
    if given is not None:
        outside = [name for name, (_, low, high) in zip(names, found, strict=True) if low < given[0] or high > given[1]]
        if outside:
            lowest, highest = min(low for _, low, _ in found), max(high for _, _, high in found)
            say_once(
                f"{escape(root)}: {plural(len(outside), 'image has', 'images have')} values outside of pixel_range, "
                f"{given[0]:g} to {given[1]:g}, which become black or white: all go from {lowest:g} to {highest:g} "
                f"({list_names(outside)})"
            )
        return given
    for kind in dict.fromkeys(kind for kind, _, _ in found):
        values = np.array([(low, high) for other, low, high in found if other == kind])
        lowest, highest = float(values[:, 0].min()), float(values[:, 1].max())
        if kind not in (SIXTEEN, SIXTEEN_COLOUR) or highest < DIM:
            some = [name for name, (other, _, _) in zip(names, found, strict=True) if other == kind]
            where = f"{root}: {plural(len(some), 'image')} ({list_names(some)})"
            raise unknown_range(where, kind, lowest, highest)
    return FULL
