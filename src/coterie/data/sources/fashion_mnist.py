"""Fashion-MNIST (Xiao, Rasul, Vollgraf 2017): 28x28 grey, ten classes, 60,000 to train on and 10,000 to test on."""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import torch

from coterie.data.base import Array, DataEntry, Resident, Shape, Source
from coterie.errors import UserError, in_a_line

CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
# Where Debian's package `dataset-fashion-mnist` puts the four files.
_DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def read_fashion_mnist(root: Path, download: bool = True) -> Source:
    """From ``root`` (or torchvision's layout below it), Debian's package, or downloaded into ``root``."""
    raw = root / "FashionMNIST" / "raw"
    places = [root, raw, _DEBIAN]
    found = next((place for place in places if _file(place, "train-images-idx3-ubyte")), None)
    if found is None:
        if not download:
            raise UserError(
                f"{root}: no Fashion-MNIST there; leave out ⟨data.download false⟩, install Debian's package "
                "dataset-fashion-mnist, or put its four idx files there"
            )
        _download(root)
        found = raw
    return Source(
        classes=CLASSES,
        train=_split(found, "train"),
        test=_split(found, "t10k"),
        mean=(0.2860,),
        std=(0.3530,),
        image_size=(28, 28),
        channels=1,
    )


def _split(folder: Path, name: str) -> Resident:
    images = read_idx(_needed(folder, f"{name}-images-idx3-ubyte"), 3)
    labels = read_idx(_needed(folder, f"{name}-labels-idx1-ubyte"), 1)
    if len(images) != len(labels):
        raise UserError(f"{folder}: {len(images)} {name} images and {len(labels)} labels; fetch the files again")
    if images.shape[1:] != (28, 28) or labels.max(initial=0) >= len(CLASSES):
        raise UserError(f"{folder}: the {name} files are not Fashion-MNIST's (28x28, 10 classes); fetch them again")
    return Resident(torch.from_numpy(images.copy()).unsqueeze(3), labels.astype(np.int64))


def _file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _needed(folder: Path, name: str) -> Path:
    path = _file(folder, name)
    if path is None:
        raise UserError(f"{folder / name}.gz: missing; fetch Fashion-MNIST again")
    return path


def read_idx(path: Path, dimensions: int) -> Array:
    """An idx file of bytes, gzipped or not.

    Raises:
        UserError: It is truncated or no such file.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}); fetch the file again") from error
    header = 4 + 4 * dimensions
    if len(content) < header or content[:4] != bytes([0, 0, 8, dimensions]):
        raise UserError(f"{path}: no idx file of {dimensions} dimensions; fetch the file again")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) - header != int(np.prod(shape)):
        raise UserError(
            f"{path}: truncated ({len(content) - header} of {int(np.prod(shape))} bytes); fetch the file again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _download(root: Path) -> None:
    from torchvision.datasets import FashionMNIST

    try:
        FashionMNIST(str(root), download=True)
    except Exception as error:
        raise UserError(
            f"Fashion-MNIST cannot be downloaded ({in_a_line(error)}); put its four idx "
            f"files into {root}, or install Debian's package dataset-fashion-mnist"
        ) from error


FASHION_MNIST = DataEntry(
    "clothes, 28x28 grey, 60,000 + 10,000",
    read_fashion_mnist,
    augment="crop-flip",
    shape=Shape(len(CLASSES), 1, 28),
)
