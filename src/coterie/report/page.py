"""One self-contained page from one or more Runs: figures, pictures, and what they mean."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from math import sqrt
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import jinja2
import numpy as np
from torch import Tensor

import coterie
from coterie.data import ImageData, evaluation_batches
from coterie.errors import UserError
from coterie.evaluation import Predictions, confusion, predict_batches
from coterie.files import write_text
from coterie.methods import Edge
from coterie.records import Card
from coterie.report import plots
from coterie.report.section import Section
from coterie.report.students import delivers_students, students_section
from coterie.report.table import rows
from coterie.report.teaching import teaching
from coterie.run import Row, Run

_PICTURES = 12


def report(runs: Run | str | Path | Sequence[Run | str | Path], out: str | Path, **options: Any) -> Path:
    """Write the page; the runs must be of the same data.

    Args:
        runs: Finished runs, or their folders, or one of them; those of ``vanilla`` are baselines.
        out: The HTML file, replaced where it exists.
        options: Of :func:`coterie.data.load` in place of the runs', for example ``root`` where the images are now.

    Raises:
        UserError: There are no runs, one has not finished, or they are of different data.
    """
    given = [Run.of(run) for run in ([runs] if isinstance(runs, Run | str | Path) else runs)]
    if not given:
        raise UserError("nothing to report; name one or more Run folders")
    cards = [run.card for run in given]
    if any(card["classes"] != cards[0]["classes"] for card in cards):
        raise UserError("these runs are of different classes; report them one data set at a time")
    data = given[0].data(**options)
    measured = [_Measured(run, card, _predictions(run, data)) for run, card in zip(given, cards, strict=True)]
    environment = jinja2.Environment(autoescape=True, trim_blocks=True)
    template = environment.from_string(files("coterie.report").joinpath("page.html").read_text(encoding="utf-8"))
    shown = _first_of_each_method(measured)
    taught = next(
        (each for each in shown if each.predictions.ensemble is not None and each.card["peers"][0] == "target"), None
    )
    methods = " and ".join(dict.fromkeys(card["method"] for card in cards))
    page = template.render(
        title=f"{cards[0]['network'] or 'Your network'} on {cards[0]['data']}: {methods}",
        subtitle=f"{len(data.train):,} training images, {len(cards[0]['classes'])} classes",
        verdicts=_verdicts(measured),
        caution=_caution(len(data.test)),
        rows=rows(given),
        images=f"{len(data.test):,}",
        sections=[
            *(students_section(each.run, given) for each in _first_of_each_method(measured, delivers_students)),
            *_sections(shown, data),
        ],
        pictures=[] if taught is None else _pictures(taught.predictions, data),
        configurations=[{"path": run.path, "text": (run.path / "config.yaml").read_text()} for run in given],
        version=coterie.__version__,
    )
    path = Path(out)
    write_text(path, page)
    return path


@dataclass(frozen=True)
class _Measured:
    run: Run
    card: Card
    predictions: Predictions

    @property
    def named(self) -> dict[str, Tensor]:
        """Logits by the names that the page uses."""
        label = self.card["method"]
        found = self.predictions.by_name(self.card["peers"])
        return {label_of(label, peer): logits for peer, logits in found.items()}

    @property
    def default(self) -> str:
        """What is deployed unless another is asked for."""
        return str(self.card["deliverables"][0])

    @property
    def deployed(self) -> Tensor:
        """The default deliverable's logits (N, C)."""
        ensemble = self.predictions.ensemble
        return ensemble if ensemble is not None and self.default == "ensemble" else self.predictions.logits[:, 0]


def label_of(method: str, peer: str) -> str:
    """What the page calls a peer."""
    return "alone" if method == "vanilla" else peer if method == "one" else f"{method} {peer}"


def _predictions(run: Run, data: ImageData) -> Predictions:
    deliverables = run.card["deliverables"]
    network = run.network("ensemble" if "ensemble" in deliverables else None)
    return predict_batches(network, evaluation_batches(data, data.test))


def _first_of_each_method(
    measured: Sequence[_Measured], wanted: Callable[[Run], bool] = lambda run: True
) -> list[_Measured]:
    return list({each.card["method"]: each for each in reversed(measured) if wanted(each.run)}.values())[::-1]


def _verdicts(measured: list[_Measured]) -> list[str]:
    """For each method a line that compares it with the network alone, over the seeds that both have."""
    wrong: dict[tuple[str, str | None], dict[int, Tensor]] = {}
    for each in measured:
        if each.card["deliverables"][0].endswith("-alone"):  # a slimmer network's own baseline
            continue
        said = each.deployed.argmax(1)
        seeds = wrong.setdefault((each.card["method"], each.card["network"]), {})
        seeds.setdefault(each.run.config["seed"], said != each.predictions.labels)  # the first of several
    lines = []
    for (method, network), seeds in wrong.items():
        alone = wrong.get(("vanilla", network), {})
        shared = sorted(seeds.keys() & alone.keys())
        if method == "vanilla" or not shared:
            continue
        ours = [100 * seeds[seed].double().mean().item() for seed in shared]
        base = [100 * alone[seed].double().mean().item() for seed in shared]
        gains = [b - o for b, o in zip(base, ours, strict=True)]
        gain = mean(gains)
        if len(shared) > 1:
            doubt = f"± {stdev(gains) / sqrt(len(gains)):.2f}, the standard error over {len(shared)} seeds"
        else:
            # The two err on the same images: only those on which exactly one errs tell them apart (McNemar).
            apart = int((alone[shared[0]] != seeds[shared[0]]).sum())
            doubt = f"± {196 * sqrt(apart) / len(seeds[shared[0]]):.2f} from the choice of test images"
        grouped = any(each.card["method"] == method and each.default == "ensemble" for each in measured)
        what = "an ensemble of the same network" if grouped else "the same network"
        ours_is, base_is = (_first(measured, each, network).card for each in (method, "vanilla"))
        if ours_is.get("cut"):
            share = ours_is["cost"]["target"]["flops"] / base_is["cost"]["target"]["flops"]
            what = f"the same network, cut to {share:.0%} of its FLOPs,"
        lines.append(
            f"Trained by {method}, {what} errs on {mean(ours):.2f} % of the test images; alone on "
            f"{mean(base):.2f} %: {abs(gain):.2f} points {'fewer' if gain >= 0 else 'more'} ({doubt})."
        )
    return lines


def _first(measured: list[_Measured], method: str, network: str | None) -> _Measured:
    return next(each for each in measured if (each.card["method"], each.card["network"]) == (method, network))


def _caution(images: int) -> str:
    return (
        f"Another seed moves errors on {images:,} test images by several tenths of a point. A difference under half a "
        "point on three seeds or fewer is noise."
    )


def _sections(measured: list[_Measured], data: ImageData) -> list[Section]:
    tests = {name: curve for each in measured for name, curve in _columns(each, "test_error_").items()}
    trains = {name: curve for each in measured for name, curve in _columns(each, "train_error_").items()}
    sections = [
        Section(
            "While training",
            "Errors after every epoch, at the precision of the training. Training errors are of augmented images, and "
            "of the network as it was when it met them.",
            [
                ("Test error, %", plots.curves(tests, "Test error over epochs", "test error, %", log=True)),
                (
                    "Training error, %",
                    plots.curves(trains, "Training error over epochs", "training error, %", log=True),
                ),
            ],
        )
    ]
    drawings = [(each.card["method"], each.run.method().teaching()) for each in measured]
    if any(edges for _, edges in drawings):
        sections.insert(0, _teaching({name: edges for name, edges in drawings if edges}))
    sections += [_gate(each) for each in measured if each.predictions.weights is not None]
    reliable = {name: (logits, each.predictions.labels) for each in measured for name, logits in each.named.items()}
    deployed = [label_of(each.card["method"], each.default) for each in measured]
    matrices = [
        (
            f"Confusions of {name}",
            plots.confusion_matrix(confusion(logits, labels), data.classes, f"Confusions of {name}"),
        )
        for name, (logits, labels) in reliable.items()
        if name in deployed
    ]
    text = "A well calibrated network lies on the diagonal: of what it says with 80 % confidence, 80 % is right."
    sections.append(
        Section(
            "Calibration and confusions", text, [("Reliability", plots.reliability(reliable, "Reliability")), *matrices]
        )
    )
    return sections


def _teaching(methods: Mapping[str, Sequence[Edge]]) -> Section:
    return Section(
        "Who teaches whom",
        "Arrows go from a teacher to who learns from it; dotted lines lead to what is made of the peers' answers. "
        "Every peer learns from the labels too.",
        [(name, teaching(edges, f"Who teaches whom in {name}")) for name, edges in methods.items()],
    )


def _columns(measured: _Measured, prefix: str) -> dict[str, plots.Curve]:
    """A figure of every peer over its stage's epochs; where several stages have that peer, a curve for each stage."""
    table: list[Row] = measured.run.metrics
    places = [(row, key) for row in table for key in row if key.startswith(prefix)]
    stages: dict[str, set[float | int | str]] = {}
    for row, key in places:
        stages.setdefault(key, set()).add(row["stage"])
    found: dict[str, tuple[list[float], list[float]]] = {}
    for row, key in places:
        name = label_of(measured.card["method"], key.removeprefix(prefix))
        if len(stages[key]) > 1:
            name += f", {row['stage']}"
        epochs, values = found.setdefault(name, ([], []))
        epochs.append(float(row["epoch"]))
        values.append(float(row[key]))
    return dict(found)


def _gate(measured: _Measured) -> Section:
    weights = measured.predictions.weights
    assert weights is not None
    spread = {name: weights[:, index].cpu().numpy() for index, name in enumerate(measured.card["peers"])}
    over_time = _columns(measured, "test_weight_")
    return Section(
        "The gate",
        "How much of the ensemble each branch is: the mean over the test images after every epoch, and its spread over "
        "the images at the end.",
        [
            ("Mean weight over time", plots.curves(over_time, "Gate weights over epochs", "mean weight")),
            ("Weights over the test images", plots.histogram(spread, "Gate weights over test images", "weight")),
        ],
    )


def _pictures(predictions: Predictions, data: ImageData) -> list[dict[str, Any]]:
    assert predictions.ensemble is not None
    target, ensemble = predictions.logits[:, 0].softmax(1).double(), predictions.ensemble.softmax(1).double()
    middle = (target + ensemble) / 2
    divergence = sum((p * ((p + 1e-12) / (middle + 1e-12)).log()).sum(1) / 2 for p in (target, ensemble))
    assert isinstance(divergence, Tensor)
    chosen = divergence.topk(min(_PICTURES, len(divergence))).indices.cpu().numpy()
    pixels = data.test.pixels(np.asarray(chosen)).numpy()
    found = []
    for place, index in enumerate(chosen.tolist()):
        found.append(
            {
                "index": index,
                "url": plots.thumbnail(pixels[place]),
                "label": data.classes[int(predictions.labels[index])],
                "target": _said(target[index], data.classes),
                "ensemble": _said(ensemble[index], data.classes),
            }
        )
    return found


def _said(probabilities: Tensor, classes: Sequence[str]) -> str:
    best = int(probabilities.argmax())
    return f"{classes[best]} {probabilities[best]:.0%}"
