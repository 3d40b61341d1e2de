"""Measure a Run's network on data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from coterie.checking import check_value
from coterie.console.counting import counted
from coterie.data import ImageData, Images, evaluation_batches
from coterie.errors import UserError
from coterie.evaluation.figures import Evaluation, class_figures, intervals_of, with_accuracy
from coterie.evaluation.predictions import Predictions, disagreement, measures, predict_batches
from coterie.evaluation.tta import Copies, TestTime, check_test_time, warn_of_mirrors
from coterie.outputs import answer
from coterie.run import Run


def evaluate(
    run: Run | str | Path,
    *,
    student: str | None = None,
    split: str = "test",
    tta: TestTime | None = None,
    **data: Any,
) -> dict[str, float]:
    """Error, NLL and calibration of one of a run's deliverables, in float32.

    :func:`coterie.measure` gives intervals and figures of each class too, and opens exported files.

    Args:
        run: A finished run, or its folder.
        student: Which deliverable; None for the default one.
        split: ``test``, ``validation`` or ``train``.
        tta: Test-time augmentation: ``"flip"`` averages the probabilities of an image and its mirror image, a number
            those of so many views; None for the image alone.
        data: Options of :func:`coterie.data.load` in place of the run's, for example ``root``.

    Returns:
        ``error`` and ``top5_error`` in percent, ``nll`` in nats, ``ece``; for a group of peers each one's error and
        their ``disagreement``. Where labels were made wrong (``--data.noise``) all of these are against the right ones,
        and ``error_noisy`` is the error against the noisy ones, that were learned.

    Raises:
        UserError: There is no such deliverable or split, or the data have other classes.
    """
    run = Run.of(run)
    _, images, predictions = _predict_split(run, student, split, tta, data)
    return measures_of(predictions, images, run.card["peers"])


def measure_run(run: Run, student: str | None, split: str, tta: TestTime | None, data: dict[str, Any]) -> Evaluation:
    """All figures of one of a run's deliverables; the arguments are :func:`evaluate`'s."""
    loaded, images, predictions = _predict_split(run, student, split, tta, data)
    named = (str(run.path), run.student(student), loaded.name, split)
    return evaluation_of(named, loaded.classes, predictions, images, run.card["peers"], tta)


def _predict_split(
    run: Run, student: str | None, split: str, tta: TestTime | None, data: dict[str, Any]
) -> tuple[ImageData, Images, Predictions]:
    check_split(split)
    tta = check_test_time(tta)
    network = run.network(student)
    loaded = run.data(**data)
    images = images_of(loaded, split, run.card["classes"], f"the run in {run.path}")
    warn_of_mirrors(tta, loaded)
    copies = None if tta is None else Copies(tta, loaded.mean, loaded.std)
    batches = counted(evaluation_batches(loaded, images), len(images))
    return loaded, images, predict_batches(network, batches, copies=copies)


def check_split(split: str) -> None:
    """Refuse what is no split.

    Raises:
        UserError: It names the nearest one.
    """
    check_value("⟨split⟩", split, Literal["test", "validation", "train"])


def images_of(data: ImageData, split: str, classes: Sequence[str], whose: str) -> Images:
    """A split of data that have a network's classes.

    Args:
        data: The data.
        split: ``test``, ``validation`` or ``train``.
        classes: The network's, by index.
        whose: Names the network in the error's line.

    Raises:
        UserError: The data have other classes, or no such split.
    """
    if list(data.classes) != list(classes):
        raise UserError(f"data '{data.name}' has other classes than {whose}; evaluate on the same classes")
    images = {"test": data.test, "validation": data.validation, "train": data.train}[split]
    if images is None or len(images) == 0:
        raise UserError(f"⟨split {split}⟩: this data has none; use test{', or train' if len(data.train) else ''}")
    return images


def measures_of(predictions: Predictions, images: Images, peers: Sequence[str] = ()) -> dict[str, float]:
    """What :func:`evaluate` gives.

    Args:
        predictions: Of the split's images.
        images: The split, which may know the right labels of those that were made wrong.
        peers: Names of a group's peers.
    """
    logits = answer(predictions)
    labels = _right_labels(predictions, images)
    values = measures(logits, labels)
    if images.clean is not None:
        values["error_noisy"] = measures(logits, predictions.labels)["error"]
    if predictions.logits.shape[1] > 1:
        for name, peer in zip(peers, predictions.logits.unbind(1), strict=True):
            values[f"error_{name}"] = measures(peer, labels)["error"]
        values["disagreement"] = disagreement(predictions.logits)
    return values


def evaluation_of(
    named: tuple[str, str, str, str],
    classes: Sequence[str],
    predictions: Predictions,
    images: Images,
    peers: Sequence[str] = (),
    tta: TestTime | None = None,
) -> Evaluation:
    """All figures of predictions.

    Args:
        named: Source, student, data and split of the :class:`Evaluation`.
        classes: Names, by index.
        predictions: Of the split's images.
        images: The split.
        peers: Names of a group's peers.
        tta: The test-time augmentation that there was.
    """
    figures = class_figures(answer(predictions), _right_labels(predictions, images), classes)
    values = with_accuracy(measures_of(predictions, images, peers), figures)
    return Evaluation(*named, len(images), values, intervals_of(values, len(images)), figures, tta)


def _right_labels(predictions: Predictions, images: Images) -> torch.Tensor:
    return predictions.labels if images.clean is None else torch.from_numpy(images.clean)
