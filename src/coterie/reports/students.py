"""The students of a run that delivers every peer: what each costs, and what it is worth, in one table."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

from coterie.deploy import export
from coterie.evaluation.latency import latencies
from coterie.records import AVERAGE
from coterie.reports.groups import is_baseline
from coterie.reports.section import Section
from coterie.run import Run


@dataclass(frozen=True)
class Student:
    """One deliverable.

    Attributes:
        name: As `--student` takes it.
        parameters: As deployed.
        size: Its parameters in percent of the first's.
        flops: Of one image.
        milliseconds: Of one image by ONNX Runtime on one thread.
        error: On the test images, in percent.
        alone: The same network's trained alone, in percent, mean over such runs; None where there are none.
    """

    name: str
    parameters: int
    size: float
    flops: int
    milliseconds: float
    error: float
    alone: float | None


def delivers_students(run: Run) -> bool:
    """Whether a run has several peers, each deployable by itself."""
    peers = run.card["peers"]
    return len(peers) > 1 and set(peers) <= set(run.card["deliverables"])


def measure_students(run: Run, runs: Sequence[Run] = (), **data: Any) -> list[Student]:
    """Every deliverable of a run, exported to ONNX and timed here and now.

    Args:
        run: A finished run.
        runs: Those of the same networks trained alone, as it was.
        data: As for :func:`coterie.export`.
    """
    card = run.card
    names: list[str] = card["deliverables"]
    with TemporaryDirectory() as folder:
        files = [export(run, "onnx", Path(folder) / f"{name}.onnx", name, **data).path for name in names]
        times = latencies(files, card["channels"], card["image_size"])
    full = card["cost"][names[0]]["parameters"]
    return [
        Student(
            name=name,
            parameters=card["cost"][name]["parameters"],
            size=100 * card["cost"][name]["parameters"] / full,
            flops=card["cost"][name]["flops"],
            milliseconds=time,
            error=card["test"][name]["error"],
            alone=_alone(name, card["network"], runs),
        )
        for name, time in zip(names, times, strict=True)
    ]


def make_students_section(run: Run, name: str, runs: Sequence[Run], **data: Any) -> Section:
    """The table for the page, of a run of the experiment of this name; see :func:`measure_students`."""
    rows = [
        (
            student.name,
            f"{student.size:.2f}",
            f"{student.parameters:,}",
            f"{student.flops:.3g}",
            f"{student.milliseconds:.3f}",
            f"{student.error:.2f}",
            "–" if student.alone is None else f"{student.alone:.2f}",
        )
        for student in measure_students(run, runs, **data)
    ]
    return Section(
        f"The students of {name}",
        "Every one can be deployed (--student). Milliseconds are the median of 200 single images by ONNX Runtime on "
        "one thread of the machine that drew this page. Trained alone: the same network with cross-entropy, where such "
        "runs are on this page.",
        header=("student", "size %", "parameters", "FLOPs", "ms per image", "error %", "error % trained alone"),
        rows=rows,
    )


def _alone(name: str, network: str | None, runs: Sequence[Run]) -> float | None:
    cards = [run.card for run in runs if run.card["network"] == network]
    errors = [
        card["test"][card["deliverables"][0]]["error"]
        for card in cards
        if card["deliverables"][0].removesuffix(AVERAGE) == f"{name}-alone"
        or (name == "target" and is_baseline(card["method"]))
    ]
    return mean(errors) if errors else None
