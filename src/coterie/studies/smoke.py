"""Whether a study's trials run at all: each distinct network and method is built once, and a step of it is tried."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from coterie.data import DATASETS
from coterie.data.mixing import soften
from coterie.errors import UserError, in_a_line, unknown_name
from coterie.methods import Stage, Task
from coterie.methods.frozen_teacher import Adapted
from coterie.methods.offline import is_of_library
from coterie.networks.layers import classifiers
from coterie.networks.zoo import Backbone
from coterie.outputs import Batch
from coterie.recipes import Recipe, TrainingFacts
from coterie.records import AVERAGE
from coterie.studies.check import check_data
from coterie.studies.study import Key, Trial, locate_run
from coterie.studies.trial import method_of, recipe_of
from coterie.training.before.preflight import handed_back

_UNKNOWN = (20, 3, 224)  # of a folder of images: classes, channels, side
_LARGEST = 64  # pixels of a side, where the network takes them: for speed
_IMAGES = 2


def try_trials(trials: Sequence[Trial]) -> Iterator[tuple[str, str]]:
    """Build every distinct network and method of these trials on images of their shape, and try a step of each stage.

    Trials that differ in nothing that is built (seeds, data of one shape, recipes) are tried once; published weights
    are not fetched, and teachers are built, not trained.

    Args:
        trials: Of a scale, teachers before those who learn from them.

    Yields:
        The name of the first trial of a kind, and what came of it in a few words; ``failed: `` and why where it does
        not run.
    """
    known = {trial.key: trial for trial in trials}
    marks = {trial.key: _mark(trial, known) for trial in trials}
    shared = {mark: sum(other == mark for other in marks.values()) - 1 for mark in marks.values()}
    said: dict[str, str] = {}
    for trial in trials:
        if marks[trial.key] in said:
            continue
        failed = next((need for need in trial.needs if said[marks[need]].startswith("failed: ")), None)
        if "experiment" in trial.configuration:
            line = "an experiment, not a training: nothing to try"
        elif failed is not None:
            line = f"failed: its teacher {known[failed].name}: {said[marks[failed]].removeprefix('failed: ')}"
        else:
            line = _try_trial(trial, known)
        said[marks[trial.key]] = line
        others = shared[marks[trial.key]]
        yield trial.name, line if line.startswith("failed: ") or not others else f"{line}; {others} more are built so"


def _mark(trial: Trial, known: Mapping[Key, Trial]) -> str:
    """Equal for trials of which the same is built."""
    config = trial.configuration
    if "experiment" in config:
        return json.dumps(config["experiment"], sort_keys=True)
    teachers = [_mark(known[need], known) for need in trial.needs]
    names = {f"@{locate_run(known[need], Path()).name}": f"@{place}" for place, need in enumerate(trial.needs)}
    method = json.dumps(config["method"], sort_keys=True)
    for name, place in names.items():  # seeds are part of a Run's name
        method = method.replace(name, place)
    built = [config["network"], method, _shape(config["data"]), config.get("recipe"), teachers]
    try:
        check_data(config["data"])
    except UserError:  # to be told of each
        built.append(config["data"])
    return json.dumps(built, sort_keys=True)


def _shape(data: Mapping[str, Any]) -> tuple[int, int, int]:
    """Classes, channels and side of a data set's images."""
    entry = DATASETS.get(data.get("name", ""))
    classes, channels, side = (entry.shape if entry is not None else None) or _UNKNOWN
    size = data.get("image_size") or side
    return classes, data.get("channels") or channels, max(size) if isinstance(size, list | tuple) else size


def _try_trial(trial: Trial, known: Mapping[Key, Trial]) -> str:
    """What came of a trial."""
    try:
        check_data(trial.configuration["data"])
        classes, channels, side = _shape(trial.configuration["data"])
        make = partial(_build, trial, known, classes, channels)
        if side > _LARGEST:
            try:
                make(_LARGEST)
                return "runs"
            except Exception:  # some networks want larger images
                pass
        make(side)
    except Exception as error:
        return f"failed: {in_a_line(error)}"
    return "runs"


def _build(trial: Trial, known: Mapping[Key, Trial], classes: int, channels: int, side: int) -> None:
    """Build all stages of a trial, and try a step of each that is of its own kind."""
    method = method_of(without_downloads(trial.configuration))
    opened = partial(_teacher, trial, known, classes, channels, side)
    task = Task(classes, channels, (side, side), trial.configuration["epochs"], opened)
    torch.manual_seed(0)
    tried = set[tuple[Any, ...]]()
    for stage in method.stages(task):
        sizes = [sum(parameter.numel() for parameter in turn.trainable()) for turn in stage.turns]
        kind = (*(type(turn.module) for turn in stage.turns), *sizes)
        if kind not in tried:  # members of an ensemble are alike
            size = trial.configuration.get("batch_size") or _IMAGES
            facts = TrainingFacts.of(handed_back(stage, method, task), _IMAGES, task.epochs, size)
            _try_step(stage, task, recipe_of(trial.configuration).fit_to(facts))
        tried.add(kind)


def _try_step(stage: Stage, task: Task, recipe: Recipe) -> None:
    """A forward and a backward of every turn, with its optimiser and schedule; nothing is updated."""
    views = tuple(torch.randn(_IMAGES, task.channels, *task.image_size) for _ in range(stage.views))
    labels = torch.arange(_IMAGES) % task.num_classes
    if recipe.mixing.softens:
        labels = soften(labels, labels.flip(0), 0.5, task.num_classes, recipe.label_smoothing)
    batch = Batch(views, labels, torch.arange(_IMAGES))
    for turn in stage.turns:
        optimiser = (turn.optimiser or recipe.make_optimiser)(turn.groups())
        (stage.schedule or recipe.make_schedule)(optimiser, task.epochs)
        turn.module.train()
        loss = turn.module(batch).loss.total
        if not loss.isfinite():
            raise UserError(f"stage '{stage.name}': the loss of a first step is {loss.item()}")
        torch.autograd.backward(loss)
        turn.module.zero_grad()
    if stage.hooks.after_step is not None:
        stage.hooks.after_step(1.0)


def _teacher(trial: Trial, known: Mapping[Key, Trial], classes: int, channels: int, side: int, source: str) -> Adapted:
    """An untrained network in place of a trained one: of the trial that trains it, or by its published name."""
    if not source.startswith("@"):
        name = source.partition("@")[0]
        network = Backbone(name).build_fresh(classes, channels, (side, side))
        return Adapted(network, fresh=classifiers(network) if is_of_library(source) else ())
    name, _, part = source[1:].partition(":")
    teacher = next(known[need] for need in trial.needs if locate_run(known[need], Path()).name == name)
    method = method_of(without_downloads(teacher.configuration))
    opened = partial(_teacher, teacher, known, classes, channels, side)
    delivered = method.deliverables(Task(classes, channels, (side, side), teacher.configuration["epochs"], opened))
    part = part or next(iter(delivered))
    part = part if part in delivered else part.removesuffix(AVERAGE)
    if part not in delivered:
        raise unknown_name(f"deliverable of {teacher.name}", part, delivered)
    return Adapted(delivered[part])


def without_downloads(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """The same trial with an untrained network in place of one with published weights."""
    return {**configuration, "network": {**configuration["network"], "pretrained": False}}
