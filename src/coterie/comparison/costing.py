"""What an epoch of each arm costs here, from a few steps of it."""

import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from coterie.comparison.budget import Cost
from coterie.data import ImageData, Images
from coterie.errors import UserError, in_a_line
from coterie.metrics import Row
from coterie.networks.zoo import Backbone
from coterie.recipes import TrainingFacts
from coterie.run import Run
from coterie.studies.trial import method_of, options_of, recipe_of
from coterie.training import train
from coterie.training.before.advice import advised_batch
from coterie.training.images import load_for

_STEPS = 4  # of each of two epochs: the first chooses kernels, the second is timed
_STEPS_OF_AN_EPOCH, _SMALLEST_BATCH = 20, 16  # where no batch size is given
_MEASURED = 64  # test images that are looked at
_FORWARD = 1 / 3  # what measuring an image costs, over training on it
_TYPICAL = 100  # epochs: a recipe that is fitted to the training's length has all its parts then


def probe(pool: Executor, configurations: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Cost], int]:
    """The cost of each arm, measured side by side as they will be trained, and the images in a step of each.

    Where no batch size is given, an epoch has 20 steps, or batches of 16: the rate of large batches can undo a training
    that has few steps, ONE's sooner than that of the network alone, since it adds up the losses of all branches.

    Args:
        pool: Trains.
        configurations: By arm, the network alone first.

    Raises:
        UserError: An arm cannot be trained, or delivers a network of another size.
    """
    futures = {arm: pool.submit(probe_arm, dict(configuration)) for arm, configuration in configurations.items()}
    measured: dict[str, tuple[Cost, int, int]] = {}
    for arm, future in futures.items():
        result = future.result()
        if isinstance(result, str):
            raise UserError(f"arm '{arm}': {result}")
        measured[arm] = result
    sizes = {arm: size for arm, (_, size, _) in measured.items()}
    for arm, size in sizes.items():
        if size != next(iter(sizes.values())):
            raise UserError(
                f"⟨methods {arm}⟩ delivers a network of {size:,} parameters, and the network alone has "
                f"{next(iter(sizes.values())):,}; compare it in a study"
            )
    (batch_size,) = {batch_size for _, _, batch_size in measured.values()}
    return {arm: cost for arm, (cost, _, _) in measured.items()}, batch_size


def probe_arm(configuration: dict[str, Any]) -> tuple[Cost, int, int] | str:
    """An arm's cost, the parameters of what it delivers, and its batch; or, in a line, why it cannot be trained."""
    try:
        return _probe(configuration)
    except Exception as error:
        return in_a_line(error)


def _probe(configuration: dict[str, Any]) -> tuple[Cost, int, int]:
    method = method_of(configuration)
    data = load_for(method.network, configuration["data"])
    if data.validation is None:
        raise UserError("there are no validation images to choose by; give ⟨data.validation 0.1⟩")
    options = options_of({**configuration, "seed": 0, "epochs": 2}).fit_to(data)
    batch_size = options.batch_size
    assert batch_size is not None
    if "batch_size" not in configuration:
        advised = advised_batch(batch_size, len(data.train), _STEPS_OF_AN_EPOCH)
        batch_size = min(batch_size, max(_SMALLEST_BATCH, advised))
    built = Backbone.from_record(configuration["network"]).build(len(data.classes), data.channels, data.image_size)
    facts = TrainingFacts.of(built, len(data.train), _TYPICAL, batch_size)
    few = replace(
        data,
        train=_first(data.train, _STEPS * batch_size),
        validation=_first(data.validation, _MEASURED),
        test=_first(data.test, _MEASURED),
    )
    options = replace(options, batch_size=min(batch_size, len(few.train)))
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = train(
            method,
            few,
            out=Path(folder) / "run",
            recipe=recipe_of(configuration).fit_to(facts),
            progress=False,
            **asdict(options),
        )
        wall = time.perf_counter() - started
        return cost_of(run.metrics, data, len(few.train), wall), _size(run), batch_size


def _first(images: Images, count: int) -> Images:
    """So many images spread over all: a folder's are sorted by class."""
    return images.subset(np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(np.int64))


def _size(run: Run) -> int:
    """The parameters of what is delivered, which must be the target."""
    card = run.card
    if not card["deliverables"][0].startswith("target"):
        raise UserError(f"it delivers '{card['deliverables'][0]}' and no single network; compare it in a study")
    return card["cost"][card["deliverables"][0]]["parameters"]


def cost_of(rows: list[Row], data: ImageData, count: int, wall: float) -> Cost:
    """What an epoch on all images costs, from two on a few.

    Args:
        rows: The epochs of every stage.
        data: All images.
        count: How many were trained on.
        wall: Seconds that all took.
    """
    scale = len(data.train) / count
    assert data.validation is not None
    flops = fixed_flops = seconds = fixed = 0.0
    for stage in dict.fromkeys(row["stage"] for row in rows):
        own = [row for row in rows if row["stage"] == stage]
        spent = [_flops(row) for row in own]
        if len(own) != 2:  # of a length of its own
            fixed_flops += scale * sum(spent)
            fixed += scale * sum(float(row["seconds"]) for row in own)
            continue
        epoch = scale * float(own[1]["seconds"])
        flops += scale * spent[0]
        fixed_flops += scale * (spent[1] - spent[0])  # averaged weights look at the images again, once
        seconds += epoch * (1 + _FORWARD * len(data.validation) / len(data.train))
        fixed += epoch * _FORWARD * len(data.test) / len(data.train)
    rest = max(0.0, wall - sum(float(row["seconds"]) for row in rows))
    return Cost(flops, max(0.0, fixed_flops), seconds, fixed + rest)


def _flops(row: Row) -> float:
    if "training_flops" not in row:
        raise UserError("its training FLOPs are not counted; leave ⟨compile⟩ out")
    return float(row["training_flops"])
