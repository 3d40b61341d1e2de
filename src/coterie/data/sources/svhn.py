"""SVHN (Netzer et al. 2011): 32x32 house numbers, 73,257 to train on, 26,032 to test on, 531,131 extra.

Normalised by mean 0.5 and std 0.2 and not augmented, as in ONE's official code.
"""

from pathlib import Path

import numpy as np
import torch

from coterie.data.base import DataEntry, Resident, Shape, Source
from coterie.errors import UserError, in_a_line
from coterie.extras import need


def read_svhn(root: Path, download: bool = True, extra: bool = False) -> Source:
    """SVHN.

    Args:
        root: Its folder.
        download: Whether what is missing there is fetched.
        extra: Train on the 531,131 extra images too.

    Raises:
        UserError: Files are missing or damaged.
    """
    train = _read(root, "train", download)
    if extra:
        more = _read(root, "extra", download)
        train = Resident(torch.cat([train.data, more.data]), np.concatenate([train.labels, more.labels]))
    return Source(
        classes=tuple(str(digit) for digit in range(10)),
        train=train,
        test=_read(root, "test", download),
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
        image_size=(32, 32),
        channels=3,
    )


def _read(root: Path, split: str, download: bool) -> Resident:
    library = need("scipy.io", "data")
    path = root / f"{split}_32x32.mat"
    if not path.is_file():
        if not download:
            raise UserError(f"{path}: missing; leave out ⟨data.download false⟩, or put it there")
        _download(root, split)
    try:
        content = library.loadmat(path)
        pixels, labels = content["X"], content["y"].reshape(-1).astype(np.int64)
    except Exception as error:  # a damaged file raises whatever its bytes spell
        raise UserError(f"{path}: truncated, or no SVHN file ({str(error)[:80]}); fetch it again") from error
    if pixels.dtype != np.uint8 or pixels.shape != (32, 32, 3, len(labels)):
        raise UserError(f"{path}: {pixels.shape} pixels for {len(labels)} labels; fetch it again")
    if len(labels) and not 0 <= labels.min() <= labels.max() <= 10:
        raise UserError(f"{path}: labels from {labels.min()} to {labels.max()}, not 0 to 10; fetch it again")
    labels[labels == 10] = 0  # the files write the digit 0 as 10
    return Resident(torch.from_numpy(np.ascontiguousarray(pixels.transpose(3, 0, 1, 2))), labels)


def _download(root: Path, split: str) -> None:
    import torchvision

    try:
        torchvision.datasets.SVHN(str(root), split=split, download=True)
    except Exception as error:
        raise UserError(f"SVHN cannot be downloaded ({in_a_line(error)}); put {split}_32x32.mat into {root}") from error


SVHN = DataEntry(
    "house numbers, 32x32 colour, 73,257 + 26,032 (+ 531,131 extra)",
    read_svhn,
    augment="none",
    shape=Shape(10, 3, 32),
)
