"""Data sets by name, and batches of them."""

from coterie.data.base import DataEntry, ImageData, Images, Resident, Shape, Source, Streaming
from coterie.data.drawn import write_split
from coterie.data.kept import keep_split, load_run
from coterie.data.loader import batches_per_epoch, evaluation_batches, read_ahead, training_batches
from coterie.data.loading import load
from coterie.data.pixels import decode_file as decode
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
    "keep_split",
    "load",
    "load_run",
    "read_ahead",
    "training_batches",
    "write_split",
]
