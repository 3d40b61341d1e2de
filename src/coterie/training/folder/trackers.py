"""An epoch's figures for TensorBoard, Weights & Biases and MLflow: Accelerate's trackers, in the Run's folder."""

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from accelerate import tracking

from coterie.errors import in_a_line
from coterie.extras import need
from coterie.files import read_json, write_text
from coterie.metrics import Row
from coterie.training.folder.run_folder import RunFolder
from coterie.training.options import TrackerName

Log = Callable[[Row, int], None]
"""Takes an epoch's row, and its number among the rows of all stages."""

_PROJECT = "coterie"  # where the variables of Weights & Biases and of MLflow name no other
_IDS = "trackers.json"  # in a Run's folder: what its trackers call it, so that a resumed training goes on there
_COSTS = ("seconds", "images_per_second", "training_flops")
_PARTS = ("train", "validation", "test")


@contextmanager
def open_trackers(
    folder: RunFolder,
    names: tuple[TrackerName, ...],
    config: Mapping[str, Any],
    several: bool,
    say: Callable[[str], None],
) -> Iterator[Log]:
    """Gives a function that writes an epoch's row for every tracker; what one raises is said once, and ends it alone.

    Args:
        folder: The Run's; only the first process writes.
        names: Of the trackers.
        config: Of the run, its hyper-parameters.
        several: Whether the method has several stages, whose names then stand before those of the figures.
        say: Takes the line that says why a tracker ends.
    """
    if not folder.writes or not names:
        yield lambda row, number: None
        return
    with ExitStack() as stack:
        stack.enter_context(_surroundings(folder.path, names))
        opened = [stack.enter_context(_guarded(name, folder.path, flat(config), say)) for name in names]

        def log(row: Row, number: int) -> None:
            values = figures(row, f"{row['stage']}." if several else "")
            for write in opened:
                write(values, number)

        yield log


def figures(row: Row, prefix: str = "") -> dict[str, float]:
    """A row's numbers in groups, which are the first part of a name: ``train/loss``, ``test/error/target``.

    Args:
        row: Of an epoch.
        prefix: Stands before each name.
    """
    return {
        f"{prefix}{_grouped(key)}": value
        for key, value in row.items()
        if isinstance(value, int | float) and key != "epoch"
    }


def _grouped(key: str) -> str:
    part, _, rest = key.partition("_")
    measure, _, name = rest.partition("_")
    if part in _PARTS and name:
        return f"{part}/{measure}/{name}"
    return f"{'cost' if key in _COSTS else 'train'}/{key}"


def flat(config: Mapping[str, Any], place: str = "") -> dict[str, bool | int | float | str]:
    """A configuration as one mapping: ``method.num_branches``; what is no number, text or truth value as text."""
    found: dict[str, bool | int | float | str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{place}{key}.")
        else:
            found[f"{place}{key}"] = value if isinstance(value, bool | int | float | str) else json.dumps(value)
    return found


@contextmanager
def _guarded(
    name: TrackerName, path: Path, config: Mapping[str, Any], say: Callable[[str], None]
) -> Iterator[Callable[[dict[str, float], int], None]]:
    """One tracker, started, and what writes for it; it is finished at the end."""
    tracker: Any = None
    works = True

    def attempt(act: Callable[[], None]) -> None:
        nonlocal works
        try:
            if works:
                act()
        except Exception as error:  # hours of training are worth more than their curves, whatever a library raises
            works = False
            say(f"{name}: ends ({in_a_line(error)}); the figures go on in metrics.csv")

    def start() -> None:
        nonlocal tracker
        known: dict[str, str] = read_json(path / _IDS, "remove it") if (path / _IDS).is_file() else {}
        tracker = _MAKERS[name](path, known.get(name))
        tracker.start()
        if name not in known:
            tracker.store_init_configuration(config)
            write_text(path / _IDS, json.dumps({**known, name: _id_of(name, tracker)}, indent=2) + "\n")

    attempt(start)
    try:
        yield lambda values, number: attempt(lambda: tracker.log(values, step=number))
    finally:
        attempt(lambda: tracker.finish())
        if not works:
            with suppress(Exception):  # what it left open is closed if that can be done
                tracker.finish()


def _tensorboard(path: Path, known: str | None) -> tracking.GeneralTracker:
    return tracking.TensorBoardTracker("tensorboard", path)


def _wandb(path: Path, known: str | None) -> tracking.GeneralTracker:
    mode = os.environ.get("WANDB_MODE", "offline")
    # Its own wrapper of standard error would take the bar's place, and offline it has nothing to say.
    settings = need("wandb", "wandb").Settings(console="off", silent=mode == "offline")
    goes_on = {} if mode == "offline" else {"resume": "allow"}  # offline sessions of one id are joined when sent
    project = os.environ.get("WANDB_PROJECT", _PROJECT)
    return tracking.WandBTracker(
        project, name=path.resolve().name, dir=str(path), id=known, mode=mode, settings=settings, **goes_on
    )


def _mlflow(path: Path, known: str | None) -> tracking.GeneralTracker:
    return tracking.MLflowTracker(_PROJECT, run_id=known, run_name=path.resolve().name)


_MAKERS: dict[TrackerName, Callable[[Path, str | None], tracking.GeneralTracker]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
}


def _id_of(name: TrackerName, tracker: Any) -> str:
    """What a tracker calls the run; TensorBoard knows it by its folder."""
    ids = {"wandb": lambda: tracker.tracker.id, "mlflow": lambda: tracker.tracker.info.run_id}
    return str(ids.get(name, lambda: "tensorboard")())


@contextmanager
def _surroundings(path: Path, names: tuple[TrackerName, ...]) -> Iterator[None]:
    """What trackers need around them, and all as it was afterwards."""
    variables: dict[str, str] = {}
    if "mlflow" in names and not need("mlflow", "mlflow").is_tracking_uri_set():
        # Plain files need no data base beside the Run; MLflow asks to be told that they are meant.
        variables = {"MLFLOW_TRACKING_URI": (path.resolve() / "mlruns").as_uri(), "MLFLOW_ALLOW_FILE_STORE": "true"}
    before, hook = {name: os.environ.get(name) for name in variables}, threading.excepthook

    def hand_on(lost: threading.ExceptHookArgs) -> None:
        """What stops TensorBoard's thread is raised where the next row is written, and need not be printed as well."""
        if not type(lost.thread).__module__.startswith("tensorboard."):
            hook(lost)

    try:
        os.environ |= variables
        threading.excepthook = hand_on
        yield
    finally:
        threading.excepthook = hook
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
