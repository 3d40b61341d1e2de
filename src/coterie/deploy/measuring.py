"""What a Run's network or an exported file is worth on data."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coterie.console.counting import counted
from coterie.data import DATASETS, ImageData, evaluation_batches
from coterie.data.loading import make
from coterie.data.say import plural, say_once
from coterie.deploy.opening import Opened, is_exported, open_source
from coterie.errors import UserError
from coterie.evaluation import Predictions
from coterie.evaluation.figures import Evaluation
from coterie.evaluation.runs import check_split, evaluation_of, images_of, measure_run
from coterie.evaluation.tta import Copies, TestTime, check_test_time, mean_probabilities, warn_of_mirrors
from coterie.records import Card
from coterie.run import Run

# How files are read, where the data set reads files: as the network's own were.
_OF_FILES = ("crop_ratio", "interpolation", "pixel_range")


def measure(
    source: Run | str | Path,
    *,
    student: str | None = None,
    split: str = "test",
    tta: TestTime | None = None,
    **data: Any,
) -> Evaluation:
    """All figures of a trained network on a split, with 95 % intervals, and those of each class.

    Args:
        source: A run, its folder, or an exported file.
        student: Which deliverable of a run; None for the default one.
        split: ``test``, ``validation`` or ``train``.
        tta: Test-time augmentation: ``"flip"`` averages the probabilities of an image and its mirror image, a number
            those of so many views; None for the image alone.
        data: Options of :func:`coterie.data.load`: of a run in place of its own, of a file those that say where its
            data are, for example ``name`` and ``root``. An exported file does not say how its Run divided a folder:
            one folder of classes is all test images, and options such as ``seed`` draw as they did in the training.

    Raises:
        UserError: There is no such source, deliverable or split, the data have other classes, or a file's data are not
            named.
    """
    if not is_exported(source):
        return measure_run(Run.of(source), student, split, tta, data)
    check_split(split)
    tta = check_test_time(tta)
    opened = open_source(source, student)
    loaded = _load(opened, data)
    images = images_of(loaded, split, opened.card["classes"], str(opened.path))
    parts = []
    warn_of_mirrors(tta, loaded)
    copies = None if tta is None else Copies(tta, loaded.mean, loaded.std)
    for batch in counted(evaluation_batches(loaded, images), len(images)):
        if copies is None:
            logits = opened.answer(batch.images)
        else:
            logits = mean_probabilities([opened.answer(copy) for copy in copies.of(batch.images, batch.indices)])
        parts.append(Predictions(batch.labels, logits.unsqueeze(1)))
    named = (str(opened.path), opened.card["student"], loaded.name, split)
    evaluation = evaluation_of(named, loaded.classes, Predictions.joined(parts), images, tta=tta)
    _compare_with_card(evaluation, opened.card)
    return evaluation


def _load(opened: Opened, options: Mapping[str, Any]) -> ImageData:
    """The data that are named, made ready as the file's network wants them."""
    card = opened.card
    if not options:
        root = " and ⟨data.root⟩" if card["data"] in DATASETS and DATASETS[card["data"]].files else ""
        raise UserError(
            f"{opened.path}: an exported file does not hold its data; name them, with ⟨data.name {card['data']}⟩{root}"
        )
    name = options.get("name", card["data"])
    taken = DATASETS.find(name).parameters()
    wanted: dict[str, Any] = {name: card[name] for name in ("image_size", "channels", "mean", "std")}
    wanted |= {name: card[name] for name in _OF_FILES if name in taken and card.get(name) is not None}  # type: ignore[literal-required]
    given = {"name": name, **wanted, **options}
    data = make(given, classes=card["classes"])
    if len(data.train) == 0:
        say_once(
            f"{opened.path}: all {plural(len(data.test), 'image')} are test images; if the network was trained on some "
            "of them, its error is no test error"
        )
    return data


def _compare_with_card(evaluation: Evaluation, card: Card) -> None:
    """Say where other images than the Run's test images seem to have been measured: more than rounding tells."""
    recorded = card["test"].get(evaluation.student, {}).get("error")
    if evaluation.tta is not None or evaluation.split != "test" or evaluation.data != card["data"] or recorded is None:
        return
    measured = evaluation.measures["error"]
    if abs(measured - recorded) * evaluation.images / 100 > max(1.5, 0.002 * evaluation.images):
        say_once(
            f"{evaluation.source}: {measured:.2f} % error here, and {recorded:.2f} % on its run's test images; these "
            "seem to be other images, of which the network may have been trained on some"
        )
