"""Decoded images on disk: a file that does not stay in memory is decoded once, and not in every epoch.

A folder of images has a folder of the cache for each way of decoding it, and there a file for each image: its pixels,
and a checksum of them. Whatever is missing, damaged or of an image that has changed since is decoded anew, so that any
number of processes may use the cache at once, and anybody may delete it. It lies below ``$COTERIE_CACHE``, else
``$XDG_CACHE_HOME/coterie``, else ``~/.cache/coterie``.
"""

import contextlib
import os
import shutil
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path

import numpy as np
import PIL

from coterie.data.base import Array
from coterie.data.say import escape, say_once
from coterie.files import user_path

_FORM = 1  # of the cache's files, and of what decoding makes
_SUM = 4  # bytes of the checksum, which stands before the pixels
_OF_FREE = 0.5  # of the disk's free space may be filled


def cache_folder() -> Path:
    """Where all decoded images are kept."""
    named = os.environ.get("COTERIE_CACHE")
    if named:
        return user_path(named) / "images"
    return user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "coterie" / "images"


@dataclass
class DiskCache:
    """A way of decoding that looks into the cache first, and leaves there what it has to decode.

    Attributes:
        decode: File to uint8 (H, W, channels); what it is called with beside the file tells ways apart.
        folder: Of the cache.
        shape: (H, W, channels).
        writes: Whether something is left there: no longer, once that has failed.
    """

    decode: partial[Array]
    folder: Path
    shape: tuple[int, int, int]
    writes: bool = True

    def __call__(self, path: Path) -> Array:
        """The image of a file."""
        place = self.place(path)
        if place is None:
            return self.decode(path)
        with contextlib.suppress(OSError):
            content = place.read_bytes()
            pixels = memoryview(content)[_SUM:]
            if len(pixels) == np.prod(self.shape) and content[:_SUM] == _sum(pixels):
                return np.frombuffer(pixels, np.uint8).reshape(self.shape)
        image = self.decode(path)
        if self.writes:
            self._leave(place, image)
        return image

    def place(self, path: Path) -> Path | None:
        """Where the image of a file is kept, as the file is now; None where it is gone."""
        try:
            state = path.stat()
        except (OSError, ValueError):
            return None
        # A file may be replaced by one of its size and time; that its entry was changed, nobody can take back.
        facts = f"{path}\0{state.st_size}\0{state.st_mtime_ns}\0{state.st_ctime_ns}\0{_settings(self.decode)}"
        return self.folder / blake2b(facts.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()

    def _leave(self, place: Path, image: Array) -> None:
        temporary = place.with_name(f"{place.name}.{os.urandom(4).hex()}")
        try:
            pixels = np.ascontiguousarray(image).data
            with open(temporary, "wb") as file:
                file.write(_sum(pixels))
                file.write(pixels)
            os.replace(temporary, place)
        except OSError:  # a full disk, another user's folder, one that was deleted: the training goes on without
            self.writes = False
            with contextlib.suppress(OSError):
                temporary.unlink()


def _settings(decode: partial[Array]) -> str:
    return repr(sorted(decode.keywords.items()))


def _sum(pixels: memoryview) -> bytes:
    return zlib.crc32(pixels).to_bytes(_SUM, "little")


def keep_decoded(
    root: Path, ways: Sequence[tuple[partial[Array], tuple[int, int, int], int]], limit: float
) -> list[Callable[[Path], Array]]:
    """Ways of decoding a folder's files that keep what they decode, where there is room for all of it.

    Args:
        root: The folder.
        ways: Of each part of it: how files are decoded, (H, W, channels) of what comes out, and how many there are.
        limit: Bytes that the whole cache may take; 0 for none. What was not used for longest makes room.

    Returns:
        The ways in the same order; as they were given where nothing is kept, which is said.
    """
    as_given: list[Callable[[Path], Array]] = [decode for decode, _, _ in ways]
    needed = sum((int(np.prod(shape)) + _SUM) * count for _, shape, count in ways)
    if limit <= 0 or needed == 0:
        return as_given
    if needed > limit:
        say_once(
            f"{escape(root)}: decoded, its images take {_gigabytes(needed)}, and ⟨data.cache_gb⟩ is {limit / 1e9:g}: "
            "they are decoded again in every epoch"
        )
        return as_given
    facts = f"{_FORM} {PIL.__version__} {root.resolve()} {[_settings(decode) for decode, _, _ in ways]}"
    folder = cache_folder() / blake2b(facts.encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)
        there = _size(folder)
        _make_room(folder, limit - max(needed, there))
        free = shutil.disk_usage(folder).free
    except OSError as error:
        say_once(f"{escape(folder)}: decoded images cannot be kept there ({error.strerror}); set COTERIE_CACHE")
        return as_given
    if needed - there > _OF_FREE * free:
        say_once(
            f"{escape(folder)}: decoded images take {_gigabytes(needed)}, and the disk has {_gigabytes(free)} left: "
            "they are decoded again in every epoch"
        )
        return as_given
    if there == 0:
        say_once(f"{escape(root)}: decoded images are kept in {escape(folder)}, {_gigabytes(needed)} in all")
    return [DiskCache(decode, folder, shape) for decode, shape, _ in ways]


def _make_room(own: Path, left: float) -> None:
    """Delete the other folders of the cache from the one unused for longest on, until the rest fits."""
    others = []
    for folder in own.parent.iterdir():
        with contextlib.suppress(OSError):  # another process may be deleting it
            if folder != own:
                others.append((folder.stat().st_mtime, folder, _size(folder)))
    for _, folder, size in sorted(others, reverse=True):
        left -= size
        if left < 0:
            shutil.rmtree(folder, ignore_errors=True)


def _size(folder: Path) -> int:
    size = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                size += entry.stat().st_size
    return size


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.2g} GB" if size < 1e10 else f"{size / 1e9:.0f} GB"
