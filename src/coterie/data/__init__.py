"""Data sets by name, and batches of them."""

from typing import TYPE_CHECKING

from coterie.lazy import lazy_names

if TYPE_CHECKING:
    from coterie.data.base import DataEntry, ImageData, Images, Resident, Shape, Source, Streaming
    from coterie.data.drawn import write_split
    from coterie.data.given import from_arrays, from_dataset
    from coterie.data.kept import keep_split, load_run
    from coterie.data.loader import (
        batches_per_epoch,
        evaluation_batches,
        read_ahead,
        training_batches,
    )
    from coterie.data.loading import load
    from coterie.data.pixels import decode
    from coterie.data.registry import DATASETS
    from coterie.outputs import Batch

__all__ = [
    "DATASETS",
    "Batch",
    "DataEntry",
    "ImageData",
    "Images",
    "Resident",
    "Shape",
    "Source",
    "Streaming",
    "batches_per_epoch",
    "decode",
    "evaluation_batches",
    "from_arrays",
    "from_dataset",
    "keep_split",
    "load",
    "load_run",
    "read_ahead",
    "training_batches",
    "write_split",
]

# `coterie serve` decodes images by coterie.data.pixels where no torch is installed.
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "DATASETS": "coterie.data.registry",
        "Batch": "coterie.outputs",
        "DataEntry": "coterie.data.base",
        "ImageData": "coterie.data.base",
        "Images": "coterie.data.base",
        "Resident": "coterie.data.base",
        "Shape": "coterie.data.base",
        "Source": "coterie.data.base",
        "Streaming": "coterie.data.base",
        "batches_per_epoch": "coterie.data.loader",
        "decode": "coterie.data.pixels",
        "evaluation_batches": "coterie.data.loader",
        "from_arrays": "coterie.data.given",
        "from_dataset": "coterie.data.given",
        "keep_split": "coterie.data.kept",
        "load": "coterie.data.loading",
        "load_run": "coterie.data.kept",
        "read_ahead": "coterie.data.loader",
        "training_batches": "coterie.data.loader",
        "write_split": "coterie.data.drawn",
    },
)
