"""Whether a study's cells run at all: one of each table, a step or two on random images."""

import tempfile
from collections.abc import Iterator, Mapping
from inspect import signature
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coterie.data import ImageData, load
from coterie.data.base import Resident
from coterie.errors import in_a_line, unknown_name
from coterie.studies.cell import method_of, recipe_of
from coterie.studies.study import Cell, Key, Scale, folder, located
from coterie.training import train

# Images of the sizes of the data sets that may not be here: classes, channels, side.
_SHAPES = {
    "digits": (10, 1, 8),
    "fashion_mnist": (10, 1, 28),
    "cifar10": (10, 3, 32),
    "cifar100": (100, 3, 32),
    "svhn": (10, 3, 32),
    "imagenet": (1000, 3, 64),
    "glyphs": (200, 1, 32),
    "folder": (20, 3, 64),
}
_IMAGES, _BATCH = 16, 8


def smoke(scale: Scale) -> Iterator[tuple[str, str]]:
    """Train the first cell of the last row of each table, and its teachers, for two steps.

    Yields:
        The cell's name, and what came of it in a few words; ``failed: `` and why where it does not run.
    """
    with tempfile.TemporaryDirectory() as place:
        runs = Path(place)
        cells = {cell.key: cell for cell in scale.cells()}
        tried: dict[Path, str] = {}
        for table in scale.tables:
            key = next(iter(product(table.data, table.networks, table.rows[-1:])))
            cell = cells[(*key, 0)]
            if "experiment" in cell.configuration:
                yield f"{table.name}: {cell.name}", "an experiment, not a training: nothing to try"
                continue
            said = ""
            for each in _with_teachers(cell, cells):
                if (where := folder(each, runs)) not in tried:
                    tried[where] = _tried(each, where)
                if said := tried[where]:
                    said = f"failed: {said}" if each is cell else f"failed: its teacher {each.name}: {said}"
                    break
            yield f"{table.name}: {cell.name}", said or "runs"


def _with_teachers(cell: Cell, cells: Mapping[Key, Cell]) -> list[Cell]:
    """A cell after all that it learns from, and they from."""
    return [*(each for need in cell.needs for each in _with_teachers(cells[need], cells)), cell]


def _tried(cell: Cell, out: Path) -> str:
    """Why a cell does not run; nothing where it does."""
    try:
        _train(cell, out)
    except Exception as error:
        return in_a_line(error)
    return ""


def _train(cell: Cell, out: Path) -> None:
    config = without_downloads(located(cell.configuration, out.parent))
    method = method_of(config)
    method.epochs = {}
    data = stand_in(str(config["data"].get("name", "")))
    signature(load).bind(**config["data"])  # a wrong option is refused
    train(
        method, data, epochs=1, out=out, batch_size=_BATCH, recipe=recipe_of(config), tensorboard=False, progress=False
    )


def without_downloads(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """The same cell with untrained networks in place of published weights, the first alone of several such teachers."""
    method = dict(configuration["method"])
    given = method.get("teacher") or ()
    teachers = [given] if isinstance(given, str) else list(given)
    if teachers and teachers[0].startswith(("timm/", "torchvision/")):
        method |= {"teacher": None, "teacher_network": teachers[0], "teachers": 1}
    return {**configuration, "method": method, "network": {**configuration["network"], "pretrained": False}}


def stand_in(name: str) -> ImageData:
    """Random images of a data set's classes, channels and size; ImageNet's smaller, for speed.

    Raises:
        UserError: The data set is unknown.
    """
    if name not in _SHAPES:
        raise unknown_name("data set", name, _SHAPES)
    classes, channels, side = _SHAPES[name]
    pixels = torch.randint(0, 256, (_IMAGES, side, side, channels), generator=torch.Generator().manual_seed(0))
    images = Resident(pixels.byte(), np.arange(_IMAGES, dtype=np.int64) % classes)
    return ImageData(
        name=name,
        classes=tuple(str(index) for index in range(classes)),
        image_size=(side, side),
        channels=channels,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        train=images,
        test=images,
        validation=images,
        augment="none",
        options={"name": name},
    )
