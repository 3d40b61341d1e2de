"""One trial of a study: train, measure, and say what it cost."""

import shlex
import time
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml

from coterie.checking import check_value
from coterie.console.interrupt import Interrupted, worker
from coterie.data import ImageData
from coterie.errors import UserError, in_a_line, unknown_name
from coterie.methods import Method, make_method
from coterie.networks.zoo import Backbone
from coterie.recipes import Recipe, recipe_class
from coterie.records import AVERAGE
from coterie.run import Run
from coterie.studies.analyses import CURVES, MEASURES, collect_curves
from coterie.studies.experiments import EXPERIMENTS
from coterie.studies.results import Figures, Result
from coterie.studies.study import Trial, locate_run, locate_teachers
from coterie.training import TrainingOptions, train
from coterie.training.images import load_for
from coterie.training.together import takes_turns

T = TypeVar("T")

# What a configuration has beside options of training.
_OBJECTS = ("method", "network", "data", "recipe")


def run_trial(trial: Trial, runs: Path, taught: float | None = 0.0) -> Result | None:
    """Run a trial, going on where it was stopped.

    Args:
        trial: What is run.
        runs: The folder of the Runs.
        taught: FLOPs of the trainings of its teachers, and of theirs; None where they are not known.

    Returns:
        What was measured, or why it failed; None where a signal stopped it.
    """
    started = time.perf_counter()
    try:
        with worker.task():
            if "experiment" in trial.configuration:
                return _run_experiment(trial, started)
            return _run_training(trial, runs, taught)
    except Interrupted:
        return None
    except Exception as error:
        return make_failure(trial, runs, in_a_line(error))


def make_failure(trial: Trial, runs: Path, why: str) -> Result:
    """The result of a trial that could not be measured."""
    return Result(*trial.key, configuration_of(trial), command_of(trial, runs), failed=why)


def configuration_of(trial: Trial) -> dict[str, Any]:
    """What a trial's result depends on."""
    return trial.configuration | ({"measures": list(trial.measures)} if trial.measures else {})


def method_of(configuration: Mapping[str, Any]) -> Method:
    """The method of a trial, with its network."""
    return make_method(configuration["method"], Backbone.from_record(configuration["network"]), "method")


def recipe_of(configuration: Mapping[str, Any]) -> Recipe:
    """The recipe of a trial."""
    options = dict(configuration["recipe"])
    name = options.pop("name")
    check_value("⟨recipe⟩", name, str)
    kind = recipe_class(name)
    known = [field.name for field in fields(kind)]
    for option in options:
        if option not in known:
            raise unknown_name(f"option of recipe '{kind.name}'", option, known)
    return kind(**options)


def options_of(configuration: Mapping[str, Any]) -> TrainingOptions:
    """The options of training of a trial: its own, and else those of every training."""
    given = {name: value for name, value in configuration.items() if name not in _OBJECTS}
    # A study reads the last figures only.
    return TrainingOptions(**{"test_every": configuration["epochs"]} | given)


def command_of(trial: Trial, runs: Path) -> str:
    """The command line that repeats a trial by itself; nothing for an experiment, which only its study repeats.

    Args:
        trial: What is repeated.
        runs: The folder of the Runs, in which its teachers are.
    """
    if "experiment" in trial.configuration:
        return ""
    words = []
    for option, value in locate_teachers(trial.configuration, runs).items():
        nested = value if isinstance(value, dict) else {}
        if not nested:
            words += [f"--{option}", _text(value)]
        for name, each in nested.items():
            words += [f"--{option}" if name == "name" else f"--{option}.{name}", _text(each)]
    return shlex.join(["coterie", "train", *words])


def _text(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...").strip()


def _run_training(trial: Trial, runs: Path, taught: float | None) -> Result:
    started, config = time.perf_counter(), locate_teachers(trial.configuration, runs)
    if CURVES in trial.measures and "test_every" not in config:
        raise UserError("its table measures curves; give 'test_every' in the scale's common, budgets, or the arm")
    method = method_of(config)
    data = load_for(method.network, {key: _tuple(value) for key, value in config["data"].items()})
    options = asdict(options_of(config))
    if takes_turns() and torch.cuda.is_available():
        options["capture"] = True  # a turn is then a few launches
    run = train(
        method,
        data,
        out=locate_run(trial, runs),
        recipe=recipe_of(config),
        resume=True,
        progress=False,
        **options,
    )
    card = run.card
    flops = card["training_flops"]
    return Result(
        *trial.key,
        configuration_of(trial),
        command_of(trial, runs),
        measured=_as_delivered(_collect_figures(trial, run, data), run),
        curves=_as_delivered(collect_curves(run), run) if CURVES in trial.measures else {},
        cost=_as_delivered(
            {
                part: {"parameters": costs["parameters"], "flops": costs["flops"]}
                for part, costs in card["cost"].items()
                if part != "training"
            },
            run,
        ),
        training_flops=None if flops is None or taught is None else flops + taught,
        seconds=round(max(card["seconds"], time.perf_counter() - started), 1),
    )


def _collect_figures(trial: Trial, run: Run, data: ImageData) -> Figures:
    """On the test images as the card has them; on the training images as the last epoch saw them; the analyses.

    On validation images, where there are any, as they were after the epoch that is delivered.
    """
    figures: Figures = {part: dict(values) for part, values in run.card["test"].items()}
    rows = [row for row in run.metrics if row["stage"] == run.metrics[-1]["stage"]]
    delivered = next((row for row in rows if row["epoch"] == run.card.get("epoch")), {})
    for part, figured in figures.items():
        if f"validation_error_{part}" in delivered:
            figured["validation_error"] = float(delivered[f"validation_error_{part}"])
        learned = run.metrics[-1].get(f"train_error_{part.removesuffix(AVERAGE)}")
        if learned is not None:
            figured["train_error"] = float(learned)
    for measure in (each for each in trial.measures if each != CURVES):
        for part, values in MEASURES[measure](run, data).items():
            figures.setdefault(part, {}).update(values)
    return figures


def _as_delivered(by_part: Mapping[str, T], run: Run) -> dict[str, T]:
    """What is said of parts, by the names that tables and claims know: NAME is the weights that the run delivers.

    Where these are an average, the last step's stand under NAME-last.
    """
    if not run.ending:
        return dict(by_part)
    averaged = {part.removesuffix(run.ending) for part in by_part if part.endswith(run.ending)}
    names = {part: f"{part}-last" if part in averaged else part.removesuffix(run.ending) for part in by_part}
    return {names[part]: values for part, values in by_part.items()}


def _run_experiment(trial: Trial, started: float) -> Result:
    options = dict(trial.configuration["experiment"])
    name = options.pop("name", "")
    if name not in EXPERIMENTS:
        raise unknown_name("experiment", name, EXPERIMENTS)
    measured = EXPERIMENTS[name](options, trial.seed)
    seconds = round(time.perf_counter() - started, 1)
    return Result(*trial.key, configuration_of(trial), measured=measured, seconds=seconds)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
