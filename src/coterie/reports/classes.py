"""Which classes are hard: precision and recall of each, and what each is taken for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf

from torch import Tensor

from coterie.console.terminal import printable
from coterie.evaluation import ClassFigures, count_figures
from coterie.evaluation.figures import percent_interval
from coterie.reports.measured import Experiment
from coterie.reports.section import Section

_SHOWN = 30  # rows of the table; the rest are behind a click
_WORST = 5


@dataclass(frozen=True)
class Counted:
    """What one network took the test images for.

    Attributes:
        name: As plots call it.
        counts: (C, C), all seeds added: rows are true classes, columns what was said.
        seeds: How many.
        figures: Of each class, of all seeds together.
    """

    name: str
    counts: Tensor
    seeds: int
    figures: tuple[ClassFigures, ...]

    def recall(self, index: int) -> float:
        """Of a class in percent; infinite where it has no images."""
        recall = self.figures[index].recall
        return inf if recall is None else recall

    def cells(self, index: int) -> tuple[str, str]:
        """A class's recall with its interval, and its precision: means over seeds.

        The seeds saw the same images, so that the interval is that of one seed's images.
        """
        of = self.figures[index]
        if of.recall is None:
            return "–", _percent(of.precision)
        low, high = percent_interval(of.correct / self.seeds, of.images / self.seeds)
        return f"{of.recall:.1f} [{low:.1f}, {high:.1f}]", _percent(of.precision)

    def mistakes(self, index: int) -> list[tuple[int, int]]:
        """The two commonest: the class that was said, and how often."""
        others = self.counts[index].clone()
        others[index] = 0
        best = others.topk(min(2, len(others)))
        return [(said, count) for said, count in zip(best.indices.tolist(), best.values.tolist(), strict=True) if count]


def count_answers(experiment: Experiment, classes: Sequence[str]) -> list[Counted]:
    """What is deployed by default and, where there is one, the ensemble; what nothing is known of is left out."""
    found = []
    for student in dict.fromkeys((experiment.group.default, experiment.first.run.ensemble)):
        each = [] if student is None else [run.counts(student) for run in experiment.runs]
        counts = [one for one in each if one is not None]
        if student is not None and counts:
            total = sum(counts[1:], counts[0])
            name = experiment.group.label(student)
            found.append(Counted(name, total, len(counts), count_figures(total, classes)))
    return found


def make_classes_section(experiments: Sequence[Experiment], classes: Sequence[str]) -> Section | None:
    """A table of every class, the hardest first; None where nothing is known.

    Args:
        experiments: Columns for each; the order of the rows is that of the first that is no baseline.
        classes: Their names.
    """
    ordered = sorted(experiments, key=lambda each: each.group.is_baseline)
    counted = [network for each in ordered for network in count_answers(each, classes)]
    if not counted:
        return None
    first, names = counted[0], [printable(name) for name in classes]
    order = sorted(range(len(classes)), key=first.recall)
    rows = [_make_row(counted, index, names) for index in order]
    columns = [f"{what} %, {one.name}" for one in counted for what in ("recall", "precision")]
    seeds = f", {first.seeds} seeds together" if first.seeds > 1 else ""
    means = " Of several seeds they are means." if any(one.seeds > 1 for one in counted) else ""
    worst = list(_describe_worst(first, order[:_WORST], names))
    return Section(
        "Classes",
        "Recall is the share of a class's test images that were taken for it, with its 95 % interval for so many "
        f"images; precision the share of the images taken for it that are of it.{means} The hardest classes of "
        f"{first.name}{seeds}{':' if worst else ': no test image was taken for another class.'}",
        points=worst,
        header=("class", "test images", *columns, f"{first.name} takes it for"),
        rows=rows[:_SHOWN],
        more=rows[_SHOWN:],
    )


def _make_row(counted: Sequence[Counted], index: int, names: Sequence[str]) -> tuple[str, ...]:
    first = counted[0]
    mistakes = ", ".join(f"{names[said]} {count}×" for said, count in first.mistakes(index))
    images = str(first.figures[index].images // first.seeds)
    return names[index], images, *(cell for one in counted for cell in one.cells(index)), mistakes or "–"


def _describe_worst(network: Counted, order: Sequence[int], names: Sequence[str]) -> Iterator[str]:
    """A line for each class that is taken for others: shirt: 31 of 100 taken for T-shirt, 9 for coat."""
    for index in order:
        mistakes = network.mistakes(index)
        if mistakes:
            (said, count), *others = mistakes
            more = "".join(f", {times} for {names[other]}" for other, times in others)
            yield f"{names[index]}: {count} of {network.figures[index].images} taken for {names[said]}{more}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
