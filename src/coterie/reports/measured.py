"""What the page's runs say of their test images; nothing of a run whose images cannot be had."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from coterie.data import ImageData, evaluation_batches
from coterie.errors import UserError, in_a_line
from coterie.evaluation import Predictions, confusion, predict_batches
from coterie.records import Card
from coterie.reports.groups import Group
from coterie.run import Run

_log = logging.getLogger("coterie")


@dataclass(frozen=True)
class Measured:
    """A run and what its network says of the test images.

    Attributes:
        run: Finished.
        data: Its own; None where they cannot be had.
        predictions: Of its test images; None where they cannot be had.
    """

    run: Run
    data: ImageData | None = None
    predictions: Predictions | None = None

    @property
    def card(self) -> Card:
        """Of the run."""
        return self.run.card

    @property
    def deployed(self) -> Tensor | None:
        """The default deliverable's logits (N, C)."""
        if self.predictions is None:
            return None
        ensemble = self.predictions.ensemble
        is_ensemble = ensemble is not None and self.card["deliverables"][0] == self.run.ensemble
        return ensemble if is_ensemble else self.predictions.logits[:, 0]

    def counts(self, student: str) -> Tensor | None:
        """What its default deliverable or its ensemble took the test images for, (C, C); None where it is not known.

        As it was counted when the run ended; of a run of before that, as its images show now.
        """
        recorded = self.run.confusions.get(student)
        if recorded is not None or self.predictions is None:
            return recorded
        logits = self.predictions.ensemble if student == self.run.ensemble else self.deployed
        return None if logits is None else confusion(logits, self.predictions.labels)

    @property
    def error(self) -> float:
        """Of the default deliverable, in percent."""
        if self.predictions is None or self.deployed is None:
            return float(self.card["test"][self.card["deliverables"][0]]["error"])
        return 100 * (self.deployed.argmax(1) != self.predictions.labels).double().mean().item()


@dataclass(frozen=True)
class Experiment:
    """A group with its measured runs, one for each seed."""

    group: Group
    runs: tuple[Measured, ...]

    @property
    def first(self) -> Measured:
        """That of the first seed."""
        return self.runs[0]

    @property
    def seen(self) -> list[tuple[Measured, Predictions]]:
        """The runs whose images could be had."""
        return [(run, run.predictions) for run in self.runs if run.predictions is not None]

    @property
    def named(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Logits (N, C) and labels (N,) of all seeds one after another, by the names that plots use."""
        parts: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for each, predictions in self.seen:
            for peer, logits in predictions.by_name(each.card["peers"]).items():
                parts.setdefault(self.group.label(peer + each.run.ending), []).append((logits, predictions.labels))
        return {
            name: (torch.cat([logits for logits, _ in pairs]), torch.cat([labels for _, labels in pairs]))
            for name, pairs in parts.items()
        }

    @property
    def seeds(self) -> str:
        """What a figure of several seeds says of itself."""
        return f", {len(self.runs)} seeds together" if len(self.runs) > 1 else ""


def measure(groups: Sequence[Group], options: Mapping[str, Any]) -> tuple[list[Experiment], list[str]]:
    """Every experiment with what its runs say of their test images.

    Args:
        groups: Of the page.
        options: Of :func:`coterie.data.load` in place of the runs'.

    Returns:
        The experiments, and a line for each reason why images cannot be had, which is logged as a warning too.
    """
    known: dict[str, ImageData | UserError] = {}
    reasons: dict[tuple[str, bool], list[str]] = {}
    experiments = []
    for group in groups:
        runs = []
        for run in group.by_seed.values():
            try:
                data = _data(run, options, known)
            except UserError as error:
                reasons.setdefault((in_a_line(error), bool(run.confusions)), []).append(str(run.path))
                runs.append(Measured(run))
            else:
                runs.append(Measured(run, data, _predictions(run, data)))
        experiments.append(Experiment(group, tuple(runs)))
    lines = [
        f"Left out of {', '.join(paths)}: calibration{'' if recorded else ', confusions, figures of each class'} and "
        f"pictures, which need the images ({reason})."
        + ("" if recorded else " An older version trained: confusions.json, which has the counts, is not there.")
        for (reason, recorded), paths in reasons.items()
    ]
    for line in lines:
        _log.warning(line)
    return experiments, lines


def _data(run: Run, options: Mapping[str, Any], known: dict[str, ImageData | UserError]) -> ImageData:
    """The run's data; runs of the same data share them, and the error where there are none."""
    recorded = run.config["data"]
    key = str(run.path) if recorded is None else repr(sorted(recorded.items()))
    if key not in known:
        try:
            known[key] = run.data(**options)
        except UserError as error:
            known[key] = error
    data = known[key]
    if isinstance(data, UserError):
        raise data
    if list(data.classes) != run.card["classes"]:
        raise UserError(f"data '{data.name}' have other classes than the run now; give --data.root")
    return data


def _predictions(run: Run, data: ImageData) -> Predictions:
    return predict_batches(run.network(run.ensemble), evaluation_batches(data, data.test))


def collect_curves(experiment: Experiment, prefix: str) -> dict[str, tuple[list[float], list[float]]]:
    """Curves of an experiment's metrics by the names that plots use: (epochs, means over its seeds).

    What several stages train has a curve for each.
    """
    values: dict[tuple[str, str], dict[float, list[float]]] = {}
    for run in experiment.runs:
        for row in run.run.metrics:
            for key in row:
                if key.startswith(prefix):
                    curve = values.setdefault((key.removeprefix(prefix), str(row["stage"])), {})
                    curve.setdefault(float(row["epoch"]), []).append(float(row[key]))
    stages: dict[str, int] = {}
    for peer, _ in values:
        stages[peer] = stages.get(peer, 0) + 1
    found = {}
    for (peer, stage), curve in values.items():
        name = experiment.group.label(peer) + (f", {stage}" if stages[peer] > 1 else "")
        found[name] = (list(curve), [mean(all_seeds) for all_seeds in curve.values()])
    return found
