"""All that is said of a classifier's answers: figures of all images with their intervals, and of each class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from coterie.evaluation.intervals import wilson
from coterie.evaluation.predictions import confusion
from coterie.evaluation.tta import TestTime, passes

Interval = tuple[float, float]


@dataclass(frozen=True)
class ClassFigures:
    """How one class is told from the others.

    Attributes:
        name: Of the class.
        images: How many are of it.
        predicted: How many were taken for it.
        correct: How many are both.
    """

    name: str
    images: int
    predicted: int
    correct: int

    @property
    def precision(self) -> float | None:
        """Of the images that were taken for the class, how many are of it, in percent; None where there are none."""
        return 100 * self.correct / self.predicted if self.predicted else None

    @property
    def recall(self) -> float | None:
        """Of the images of the class, how many were taken for it, in percent; None where there are none."""
        return 100 * self.correct / self.images if self.images else None

    @property
    def f1(self) -> float | None:
        """The harmonic mean of both, in percent; None where the class was neither there nor named."""
        both = self.images + self.predicted
        return 200 * self.correct / both if both else None

    @property
    def precision_interval(self) -> Interval | None:
        """The 95 % interval of the precision, in percent."""
        return percent_interval(self.correct, self.predicted) if self.predicted else None

    @property
    def recall_interval(self) -> Interval | None:
        """The 95 % interval of the recall, in percent."""
        return percent_interval(self.correct, self.images) if self.images else None


@dataclass(frozen=True)
class Evaluation:
    """What a classifier is worth on a split.

    Attributes:
        source: The Run, or the exported file.
        student: Which deliverable.
        data: The data set's name.
        split: ``test``, ``validation`` or ``train``.
        images: How many were classified.
        measures: By name: ``accuracy`` in percent, what :func:`coterie.evaluate` gives, and ``macro_f1``, the mean of
            the classes' F1 in percent, without classes that were neither there nor named.
        intervals: By name, the 95 % intervals (Wilson) of those measures that are shares of the images, in percent.
        classes: The figures of each class, by index.
        tta: The test-time augmentation, ``flip`` or a number of views; None without.
    """

    source: str
    student: str
    data: str
    split: str
    images: int
    measures: dict[str, float]
    intervals: dict[str, Interval]
    classes: tuple[ClassFigures, ...]
    tta: TestTime | None = None

    @property
    def passes(self) -> int:
        """How often the network was asked about each image."""
        return passes(self.tta)

    def worst(self, count: int | None = None) -> tuple[ClassFigures, ...]:
        """The classes of lowest recall, the lowest first; classes without images are left out.

        Args:
            count: How many; None for all.
        """
        there = [figures for figures in self.classes if figures.images]
        return tuple(sorted(there, key=lambda figures: figures.correct / figures.images)[:count])

    def as_dict(self, count: int | None = None) -> dict[str, Any]:
        """All of it in plain types, for JSON: intervals as lists, None where a figure is not defined.

        Args:
            count: How many classes, the worst; None for all, by index.
        """
        classes = self.classes if count is None else self.worst(count)
        return {
            **{"source": self.source, "student": self.student, "data": self.data, "split": self.split},
            "images": self.images,
            **{"tta": self.tta, "forward_passes": self.passes},
            "measures": dict(self.measures),
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "classes": [_class_as_dict(figures) for figures in classes],
        }


def _class_as_dict(figures: ClassFigures) -> dict[str, Any]:
    named = {name: getattr(figures, name) for name in ("name", "images", "predicted", "correct")}
    for name in ("precision", "recall"):
        ends = getattr(figures, f"{name}_interval")
        named |= {name: getattr(figures, name), f"{name}_interval": None if ends is None else list(ends)}
    return named | {"f1": figures.f1}


def percent_interval(count: float, total: float) -> Interval:
    """The 95 % interval of a share, in percent."""
    low, high = wilson(count, total)
    return 100 * low, 100 * high


def class_figures(logits: Tensor, labels: Tensor, names: Sequence[str]) -> tuple[ClassFigures, ...]:
    """The figures of each class.

    Args:
        logits: (N, C).
        labels: (N,).
        names: Of the C classes.
    """
    return count_figures(confusion(logits, labels), names)


def count_figures(counts: Tensor, names: Sequence[str]) -> tuple[ClassFigures, ...]:
    """The figures of each class.

    Args:
        counts: (C, C): rows are true classes, columns what was said.
        names: Of the C classes.
    """
    columns = (counts.sum(1).tolist(), counts.sum(0).tolist(), counts.diagonal().tolist())
    return tuple(ClassFigures(*row) for row in zip(names, *columns, strict=True))


def with_accuracy(values: Mapping[str, float], classes: Sequence[ClassFigures]) -> dict[str, float]:
    """The measures of :func:`coterie.evaluate`, the accuracy before them, and the macro-F1 behind what all have."""
    defined = [figures.f1 for figures in classes if figures.f1 is not None]
    first = {name: values[name] for name in ("error", "top5_error", "nll", "ece") if name in values}
    return {
        "accuracy": 100 - values["error"],
        **first,
        "macro_f1": sum(defined) / len(defined),
        **{name: value for name, value in values.items() if name not in first},
    }


def intervals_of(measures: Mapping[str, float], images: int) -> dict[str, Interval]:
    """The intervals of those measures that are percents of so many images: the accuracy and all errors."""
    shares = [name for name in measures if name in ("accuracy", "top5_error") or name.split("_")[0] == "error"]
    return {name: percent_interval(round(measures[name] * images / 100), images) for name in shares}
