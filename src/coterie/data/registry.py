"""The data sets by name."""

from typing import Any

from coterie.data.base import DataEntry
from coterie.data.sources.cifar import CIFAR10, CIFAR100
from coterie.data.sources.csv_file import CSV
from coterie.data.sources.digits import DIGITS
from coterie.data.sources.fashion_mnist import FASHION_MNIST
from coterie.data.sources.folder import FOLDER
from coterie.data.sources.glyphs import GLYPHS
from coterie.data.sources.imagenet import IMAGENET
from coterie.data.sources.svhn import SVHN
from coterie.registry import Registry


def find_fault(name: str, item: Any) -> str | None:
    """Why something is no data set; None where it is one."""
    return None if isinstance(item, DataEntry) else "is no coterie.data.DataEntry; make one of the function that reads"


DATASETS: Registry[DataEntry] = Registry(
    "data set",
    "coterie.data",
    {
        "digits": DIGITS,
        "fashion_mnist": FASHION_MNIST,
        "glyphs": GLYPHS,
        "cifar10": CIFAR10,
        "cifar100": CIFAR100,
        "svhn": SVHN,
        "imagenet": IMAGENET,
        "folder": FOLDER,
        "csv": CSV,
    },
    find_fault,
)
