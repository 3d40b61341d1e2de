"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): 32x32 colour, 50,000 to train on and 10,000 to test on.

Both published layouts are read: the Python one, by an unpickler that can make arrays and nothing else, and the binary
one. Normalised by CIFAR-10's statistics for both, as in ONE's official code.
"""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coterie.data.base import Array, DataEntry, Resident, Shape, Source
from coterie.errors import UserError, in_a_line

_PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class _Layout:
    python: str
    binary: str
    train: tuple[str, ...]
    test: str
    names: str
    label_key: bytes
    names_key: bytes
    label_bytes: int
    torchvision: str


_CIFAR10 = _Layout(
    "cifar-10-batches-py", "cifar-10-batches-bin", tuple(f"data_batch_{index}" for index in range(1, 6)),
    "test_batch", "batches.meta", b"labels", b"label_names", 1, "CIFAR10",
)  # fmt: skip
_CIFAR100 = _Layout(
    "cifar-100-python", "cifar-100-binary", ("train",), "test", "meta", b"fine_labels", b"fine_label_names", 2,
    "CIFAR100",
)  # fmt: skip


def read_cifar10(root: Path, download: bool = True) -> Source:
    """CIFAR-10 from ``root``, downloaded where it is missing."""
    return _read(_CIFAR10, root, download)


def read_cifar100(root: Path, download: bool = True) -> Source:
    """CIFAR-100 (fine labels) from ``root``, downloaded where it is missing."""
    return _read(_CIFAR100, root, download)


def _read(layout: _Layout, root: Path, download: bool) -> Source:
    if not (root / layout.python).is_dir() and not (root / layout.binary).is_dir():
        if not download:
            raise UserError(f"{root}: no {layout.python} there; leave out ⟨data.download false⟩, or unpack it there")
        _download(layout, root)
    if (root / layout.python).is_dir():
        folder = root / layout.python
        names = _unpickle(folder / layout.names)
        classes = tuple(_text(name) for name in _get(names, layout.names_key, folder / layout.names))
        train = _join([_python_batch(folder / name, layout) for name in layout.train])
        test = _join([_python_batch(folder / layout.test, layout)])
    else:
        folder = root / layout.binary
        listing = folder / ("batches.meta.txt" if layout.label_bytes == 1 else "fine_label_names.txt")
        classes = tuple(_bytes(listing).decode("utf-8", "surrogateescape").split())
        train = _join([_binary_batch(folder / f"{name}.bin", layout) for name in layout.train])
        test = _join([_binary_batch(folder / f"{layout.test}.bin", layout)])
    for split in (train, test):
        if len(split) and not 0 <= split.labels.min() <= split.labels.max() < len(classes):
            wrong = split.labels.min() if split.labels.min() < 0 else split.labels.max()
            raise UserError(f"{folder}: a label of {wrong} with {len(classes)} classes; fetch it again")
    return Source(
        classes, train, test, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010), image_size=(32, 32), channels=3
    )


class _ArraysOnly(pickle.Unpickler):
    """Makes arrays, numbers, strings and containers; a file that asks for anything else is refused."""

    _allowed = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _unpickle(path: Path) -> dict[Any, Any]:
    try:
        with open(path, "rb") as file:
            content = _ArraysOnly(file, encoding="bytes").load()
    except FileNotFoundError as error:
        raise UserError(f"{path}: missing; fetch the data set again") from error
    except Exception as error:  # a damaged pickle raises whatever its bytes spell
        raise UserError(f"{path}: truncated, or no CIFAR batch ({error}); fetch the data set again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: no CIFAR batch; fetch the data set again")
    return content


def _get(content: dict[Any, Any], key: bytes, path: Path) -> Any:
    for each in (key, key.decode()):
        if each in content:
            return content[each]
    raise UserError(f"{path}: has no '{key.decode()}'; fetch the data set again")


def _python_batch(path: Path, layout: _Layout) -> tuple[Array, Array]:
    content = _unpickle(path)
    pixels = np.asarray(_get(content, b"data", path))
    try:
        labels = np.asarray(_get(content, layout.label_key, path), np.int64).reshape(-1)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: its labels are no integers; fetch the data set again") from error
    if pixels.dtype != np.uint8 or pixels.shape != (len(labels), _PIXELS):
        raise UserError(f"{path}: {pixels.shape} pixels for {len(labels)} labels; fetch the data set again")
    return pixels, labels


def _binary_batch(path: Path, layout: _Layout) -> tuple[Array, Array]:
    content = np.frombuffer(_bytes(path), np.uint8)
    row = layout.label_bytes + _PIXELS
    if len(content) % row:
        raise UserError(f"{path}: truncated (not a multiple of {row} bytes); fetch the data set again")
    rows = content.reshape(-1, row)
    return rows[:, layout.label_bytes :], rows[:, layout.label_bytes - 1].astype(np.int64)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); fetch the data set again") from error


def _join(parts: list[tuple[Array, Array]]) -> Resident:
    pixels = np.concatenate([part for part, _ in parts]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Resident(torch.from_numpy(np.ascontiguousarray(pixels)), np.concatenate([labels for _, labels in parts]))


def _text(name: Any) -> str:
    return name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else str(name)


def _download(layout: _Layout, root: Path) -> None:
    import torchvision

    try:
        archive = getattr(torchvision.datasets, layout.torchvision)
        torchvision.datasets.utils.download_and_extract_archive(
            archive.url, str(root), filename=archive.filename, md5=archive.tgz_md5
        )
    except Exception as error:
        raise UserError(
            f"{layout.torchvision} cannot be downloaded ({in_a_line(error)}); unpack {layout.python} into {root}"
        ) from error


CIFAR10 = DataEntry(
    "10 classes, 32x32 colour, 50,000 + 10,000", read_cifar10, augment="crop-flip", shape=Shape(10, 3, 32)
)
CIFAR100 = DataEntry(
    "100 classes, 32x32 colour, 50,000 + 10,000", read_cifar100, augment="crop-flip", shape=Shape(100, 3, 32)
)
