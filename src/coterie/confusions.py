"""``confusions.json``: what a Run's deliverables took its test images for, counted at its end."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor

from coterie.bounds import NonNegativeInt, PositiveInt
from coterie.checking import make_checked
from coterie.errors import UserError
from coterie.files import read_json, write_text

Pair = tuple[NonNegativeInt, NonNegativeInt, PositiveInt]  # the true class, the one that was said, how often


class Record(TypedDict):
    """What the file holds.

    Attributes:
        counts: By deliverable, the pairs of classes that there were: as many as test images at most.
    """

    counts: dict[str, list[Pair]]


def count_pairs(logits: Tensor, labels: Tensor) -> list[Pair]:
    """How often each class was taken for each, without those that never were.

    Args:
        logits: (N, C).
        labels: (N,).
    """
    classes = logits.shape[1]
    pairs, counts = torch.unique(labels * classes + logits.argmax(1), return_counts=True)
    found = zip(pairs.tolist(), counts.tolist(), strict=True)
    return [(pair // classes, pair % classes, count) for pair, count in found]


def write_confusions(path: Path, counts: Mapping[str, Sequence[Pair]]) -> None:
    """Write the file, whole, a deliverable a line."""
    lines = (f" {json.dumps(name, ensure_ascii=False)}: {json.dumps(pairs)}" for name, pairs in counts.items())
    write_text(path, '{"counts": {\n' + ",\n".join(lines) + "\n}}\n")


def read_confusions(path: Path, classes: int) -> dict[str, Tensor]:
    """Counts (C, C) of each deliverable: rows are true classes, columns what was said. Empty without the file.

    Raises:
        UserError: It is no such record, or one of other classes.
    """
    if not path.is_file():  # that of an older version
        return {}
    record = make_checked(Record, str(path), read_json(path, "train the run again"), others=True)
    found = {}
    for name, pairs in record["counts"].items():
        counts = torch.zeros(classes, classes, dtype=torch.long)
        for true, said, count in pairs:
            if max(true, said) >= classes:
                raise UserError(f"{path}, counts.{name}: class {max(true, said)} is none of {classes}; train again")
            counts[true, said] = count
        found[name] = counts
    return found
