"""Test images: those on which target and ensemble differ most, and wrong answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from coterie.console.terminal import printable
from coterie.data import ImageData
from coterie.evaluation import Predictions
from coterie.reports.drawing.plots import make_thumbnail
from coterie.reports.measured import Experiment

_DIFFERING, _WRONG = 12, 8


@dataclass(frozen=True)
class Picture:
    """A test image.

    Attributes:
        index: Among them.
        url: A data URL.
        label: Its class.
        said: Who said what.
    """

    index: int
    url: str
    label: str
    said: Sequence[tuple[str, str]]


class Pictures(NamedTuple):
    """Test images under one heading, and what they are."""

    title: str
    text: str
    pictures: Sequence[Picture]


def show_answers(experiments: Sequence[Experiment]) -> list[Pictures]:
    """The pictures of a page: what the ensemble teaches; where there is one Run, what it is most wrongly sure of."""
    sets = [_show_differing(experiments)]
    if len(experiments) == 1 and len(experiments[0].runs) == 1:
        sets.append(_show_wrong(experiments[0]))
    return [each for each in sets if each is not None and each.pictures]


def _show_differing(experiments: Sequence[Experiment]) -> Pictures | None:
    """Of the first run whose target and ensemble can be compared."""
    for each, predictions in (pair for experiment in experiments for pair in experiment.seen):
        if predictions.ensemble is not None and each.card["peers"][0] == "target" and each.data is not None:
            return Pictures(
                "What the ensemble teaches",
                "Test images on which target and ensemble differ most (Jensen-Shannon divergence of probabilities).",
                _find_differing(predictions, predictions.ensemble, each.data),
            )
    return None


def _find_differing(predictions: Predictions, combined: Tensor, data: ImageData) -> list[Picture]:
    target, ensemble = predictions.logits[:, 0].softmax(1).double(), combined.softmax(1).double()
    middle = (target + ensemble) / 2
    divergence = sum((p * ((p + 1e-12) / (middle + 1e-12)).log()).sum(1) / 2 for p in (target, ensemble))
    assert isinstance(divergence, Tensor)
    chosen = divergence.topk(min(_DIFFERING, len(divergence))).indices
    networks = {"target": target, "ensemble": ensemble}
    return _draw(
        chosen, data, predictions.labels, lambda index: [(name, each[index]) for name, each in networks.items()]
    )


def _show_wrong(experiment: Experiment) -> Pictures | None:
    run, logits = experiment.first, experiment.first.deployed
    if logits is None or run.data is None or run.predictions is None:
        return None
    labels, probabilities = run.predictions.labels, logits.softmax(1).double()
    confidence, said = probabilities.max(1)
    wrong = int((said != labels).sum())
    chosen = torch.where(said == labels, -1.0, confidence).topk(min(_WRONG, wrong)).indices
    name = experiment.group.label(experiment.group.default)
    return Pictures(
        "Wrong answers",
        f"Of the {wrong:,} of {len(labels):,} test images that {name} takes for another class, its surest answers.",
        _draw(chosen, run.data, labels, lambda index: [("taken for", probabilities[index])]),
    )


def _draw(
    chosen: Tensor, data: ImageData, labels: Tensor, says: Callable[[int], Sequence[tuple[str, Tensor]]]
) -> list[Picture]:
    indices = chosen.cpu().tolist()
    pixels: np.ndarray[Any, Any] = data.test.pixels(np.asarray(indices, dtype=int)).numpy() if indices else np.empty(0)
    return [
        Picture(
            index,
            make_thumbnail(pixels[place]),
            printable(data.classes[int(labels[index])]),
            [(name, _format_answer(probabilities, data.classes)) for name, probabilities in says(index)],
        )
        for place, index in enumerate(indices)
    ]


def _format_answer(probabilities: Tensor, classes: Sequence[str]) -> str:
    best = int(probabilities.argmax())
    return f"{printable(classes[best])} {probabilities[best]:.0%}"
