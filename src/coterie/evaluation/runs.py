"""Measure a Run's network on data."""

from pathlib import Path
from typing import Any, Literal

import torch

from coterie.checking import check_value
from coterie.data import evaluation_batches
from coterie.errors import UserError
from coterie.evaluation.predictions import disagreement, measures, predict_batches
from coterie.outputs import answer
from coterie.run import Run


def evaluate(
    run: Run | str | Path, *, student: str | None = None, split: str = "test", **data: Any
) -> dict[str, float]:
    """Error, NLL and calibration of one of a run's deliverables, in float32.

    Args:
        run: A finished run, or its folder.
        student: Which deliverable; None for the default one.
        split: ``test``, ``validation`` or ``train``.
        data: Options of :func:`coterie.data.load` in place of the run's, for example ``root``.

    Returns:
        ``error`` and ``top5_error`` in percent, ``nll`` in nats, ``ece``; for a group of peers each one's error and
        their ``disagreement``. Where labels were made wrong (``--data.noise``) all of these are against the right ones,
        and ``error_noisy`` is the error against the noisy ones, that were learned.

    Raises:
        UserError: There is no such deliverable or split, or the data have other classes.
    """
    check_value("⟨split⟩", split, Literal["test", "validation", "train"])
    run = Run.of(run)
    network, card = run.network(student), run.card
    found = run.data(**data)
    if list(found.classes) != card["classes"]:
        raise UserError(
            f"data '{found.name}' has other classes than the run in {run.path}; evaluate on the same classes"
        )
    images = {"test": found.test, "validation": found.validation, "train": found.train}.get(split)
    if images is None or len(images) == 0:
        raise UserError(f"⟨split {split}⟩: this data has none; use test{', or train' if len(found.train) else ''}")
    predictions = predict_batches(network, evaluation_batches(found, images))
    logits = answer(predictions)
    labels = predictions.labels if images.clean is None else torch.from_numpy(images.clean)
    values = measures(logits, labels)
    if images.clean is not None:
        values["error_noisy"] = measures(logits, predictions.labels)["error"]
    if predictions.logits.shape[1] > 1:
        for name, peer in zip(card["peers"], predictions.logits.unbind(1), strict=True):
            values[f"error_{name}"] = measures(peer, labels)["error"]
        values["disagreement"] = disagreement(predictions.logits)
    return values
