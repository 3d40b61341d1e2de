"""ImageNet (ILSVRC 2012; Russakovsky et al. 2015) in torchvision's layout: ``train/CLASS`` and ``val/CLASS``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from coterie.data.base import Augmentation, DataEntry, Shape, Source
from coterie.data.pixels import Interpolation, Range
from coterie.data.sources.folder import read_folder
from coterie.data.split import Split
from coterie.errors import UserError


def read_imagenet(
    root: Path,
    image_size: tuple[int, int] | None = None,
    channels: Literal[1, 3] | None = None,
    augment: Augmentation | None = None,
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
    """A folder that is not looked through first; ``val/`` is tested on. The options are those of a folder.

    Raises:
        UserError: A folder is missing, or the two have not the same classes.
    """
    options: dict[str, Any] = dict(locals())
    for part in ("train", "val"):
        if not (root / part).is_dir():
            raise UserError(f"{root / part}: missing; ⟨data.root⟩ names the folder with ImageNet's train/ and val/")
    return read_folder(**options, scan=False)


IMAGENET = DataEntry(
    "ILSVRC 2012 in torchvision's layout: train/ and val/",
    read_imagenet,
    augment="random-resized-crop",
    shape=Shape(1000, 3, 224),
    files=True,
)
