"""A data set: how it is named and read, and its splits, each resident in memory or streaming from files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from coterie.data.split import Split

Array = np.ndarray[Any, Any]
Augmentation = Literal["crop-flip", "crop", "random-resized-crop", "none"]


@dataclass(frozen=True, repr=False)
class Resident:
    """A split in memory.

    Attributes:
        data: uint8 (N, H, W, channels).
        labels: (N,), int64: what is learned.
        names: The file of each image, or None.
        clean: The labels (N,) as they were before some were made wrong (:mod:`coterie.data.noise`); None where none
            were.
    """

    data: Tensor
    labels: Array
    names: Sequence[str] | None = None
    clean: Array | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        height, width, channels = self.data.shape[1:]
        return f"Resident({len(self)} images in memory, {height}x{width}x{channels})"

    def pixels(self, indices: Array) -> Tensor:
        """The images of these indices, where the split is: uint8 (B, H, W, channels)."""
        places = torch.from_numpy(indices).to(self.data.device)
        rows = self.data.view(len(self.data), -1).index_select(0, places)
        return rows.view(len(indices), *self.data.shape[1:])

    def to(self, device: torch.device) -> "Resident":
        """The same split, its images in the memory of a device."""
        return replace(self, data=self.data.to(device))

    def subset(self, indices: Array) -> "Resident":
        """The split of these images alone, in this order."""
        names = None if self.names is None else [self.names[index] for index in indices]
        clean = None if self.clean is None else self.clean[indices]
        return Resident(self.pixels(indices), self.labels[indices], names, clean)


@dataclass(frozen=True, repr=False)
class Streaming:
    """A split of image files that are decoded when they are needed.

    Attributes:
        names: The files.
        labels: (N,), int64: what is learned.
        decode: File to uint8 (H, W, channels), resized.
        workers: Processes that decode.
        clean: The labels (N,) as they were before some were made wrong; None where none were.
    """

    names: Sequence[str]
    labels: Array
    decode: Callable[[Path], Array]
    workers: int = 0
    clean: Array | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Streaming({len(self)} images, read from files by {self.workers} processes)"

    def pixels(self, indices: Array) -> Tensor:
        """The images of these indices: uint8 (B, H, W, channels)."""
        return torch.from_numpy(np.stack([self.decode(Path(self.names[index])) for index in indices]))

    def subset(self, indices: Array) -> "Streaming":
        """The split of these images alone, in this order."""
        clean = None if self.clean is None else self.clean[indices]
        return replace(self, names=[self.names[index] for index in indices], labels=self.labels[indices], clean=clean)


# One split: labels, the files' names where there are any, and pixels by index.
Images = Resident | Streaming


@dataclass(frozen=True, repr=False)
class ImageData:
    """A data set ready to train on.

    Attributes:
        name: Of the data set.
        classes: Names of the classes, by index.
        image_size: (height, width) in pixels.
        channels: 1 or 3.
        mean: Per channel, of pixels scaled to [0, 1].
        std: Per channel.
        train: What is learned from; where it is cropped and resized at random, of its own size.
        test: What is measured on, and never selects anything.
        validation: Cut from training, to choose the epoch by; None without one.
        augment: One of :data:`coterie.data.transforms.AUGMENTATIONS`.
        options: The arguments of :func:`coterie.data.load` that make it again.
        pixel_range: The values that are black and white, of pixels of more than 8 bits; None where there are none.
        drawn: Which images coterie drew for what, of a folder's; None where the data set says it.
        flip: Whether half of the training images are mirrored; None where ``augment`` says it.
        crop_ratio: The share of an image file's shorter side that is measured, in (0, 1].
        interpolation: By which image files are resized.
    """

    name: str
    classes: tuple[str, ...]
    image_size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: Images
    test: Images
    validation: Images | None
    augment: str
    options: dict[str, Any]
    pixel_range: tuple[float, float] | None = None
    drawn: Split | None = None
    flip: bool | None = None
    crop_ratio: float = 1.0
    interpolation: str = "bicubic"

    def __repr__(self) -> str:
        names = ", ".join(map(repr, self.classes[:3])) + (", …" if len(self.classes) > 3 else "")
        height, width = self.image_size
        return (
            f"ImageData({self.name!r}: {len(self.classes)} classes ({names}), {height}x{width}x{self.channels}; train: "
            f"{self.train!r}, validation: {self.validation!r}, test: {self.test!r}; augment: {self.augment!r})"
        )


@dataclass(frozen=True)
class Source:
    """What a reader finds: whole splits and what is known of them; ``augment`` is None where the name says it.

    The last seven are a folder's: a validation split of its own, what is black and white, where the names of its images
    begin, which of their parts is the class, whether coterie drew the test images, and how files are cropped and
    resized.
    """

    classes: tuple[str, ...]
    train: Images
    test: Images
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: tuple[int, int]
    channels: int
    augment: str | None = None
    validation: Images | None = None
    pixel_range: tuple[float, float] | None = None
    root: Path | None = None
    class_folder: Literal[0, 1] | None = 0
    drawn: bool = False
    crop_ratio: float = 1.0
    interpolation: str = "bicubic"


class Shape(NamedTuple):
    """Of a data set's images.

    Attributes:
        classes: How many.
        channels: 1 or 3.
        side: In pixels.
    """

    classes: int
    channels: Literal[1, 3]
    side: int


@dataclass(frozen=True)
class DataEntry:
    """A data set by name.

    Attributes:
        summary: One line for listings.
        read: Makes its :class:`Source`. Its parameters are the options that the data set takes: of those of
            :func:`coterie.data.load` such as ``root`` or ``seed`` the ones that it names, and options of its own, which
            have defaults.
        augment: How training images are varied by default; None where the source says.
        shape: Of its images as they are read; None where the files say.
        files: Whether its images are the user's files in a folder, ``root``, which must be named unless the reader has
            a default for it: a Run then keeps which of them were trained on, by name.
    """

    summary: str
    read: Callable[..., Source]
    augment: Augmentation | None = None
    shape: Shape | None = None
    files: bool = False

    def parameters(self) -> Mapping[str, Parameter]:
        """The options that it takes, by name."""
        return signature(self.read).parameters
