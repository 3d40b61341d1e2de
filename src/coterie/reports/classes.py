"""Which classes are hard: errors by class, and what each is taken for."""

from collections.abc import Sequence

import torch
from torch import Tensor

from coterie.console.terminal import printable
from coterie.evaluation import confusion
from coterie.reports.measured import Experiment
from coterie.reports.section import Section

_SHOWN = 20  # rows of the table; the rest are behind a click
_WORST = 3


def counts_of(experiment: Experiment) -> Tensor | None:
    """What the deployed network takes for what, (C, C), all seeds added; None where no images could be had."""
    name = experiment.group.label(experiment.group.default)
    if name not in experiment.named:
        name = next(iter(experiment.named), name)
    found = experiment.named.get(name)
    return None if found is None else confusion(*found)


def make_classes_section(experiments: Sequence[Experiment], classes: Sequence[str]) -> Section | None:
    """A table of every class, the hardest first; None where no images could be had.

    Args:
        experiments: A column for each; the order of the rows is that of the first that is no baseline.
        classes: Their names.
    """
    counted = [(each, counts) for each in experiments if (counts := counts_of(each)) is not None]
    if not counted:
        return None
    counted.sort(key=lambda pair: pair[0].group.is_baseline)
    experiment, counts = counted[0]
    errors = [_errors(each) for _, each in counted]
    order = sorted(range(len(classes)), key=lambda index: -float(errors[0][index].nan_to_num(-1)))
    rows = [
        (
            printable(classes[index]),
            str(int(counts[index].sum()) // max(len(experiment.seen), 1)),
            *("–" if of[index].isnan() else f"{of[index]:.1f}" for of in errors),
            _find_mistakes(counts, index, classes),
        )
        for index in order
    ]
    name = experiment.group.label(experiment.group.default)
    worst = [f"{row[0]} {row[2]} %{f' (taken for {row[-1]})' if row[-1] != '–' else ''}" for row in rows[:_WORST]]
    return Section(
        "Errors by class",
        f"The hardest classes of {name}: {'; '.join(worst)}. What a class is taken for is counted for {name}"
        f"{experiment.seeds}.",
        header=(
            "class",
            "test images",
            *(f"error % {each.group.label(each.group.default)}" for each, _ in counted),
            "taken for",
        ),
        rows=rows[:_SHOWN],
        more=rows[_SHOWN:],
    )


def _errors(counts: Tensor) -> Tensor:
    """Percent of each class's images that were taken for another; nan where there are none."""
    total = counts.sum(1).double()
    return 100 * (1 - counts.diagonal().double() / torch.where(total > 0, total, torch.nan))


def _find_mistakes(counts: Tensor, index: int, classes: Sequence[str]) -> str:
    """The two commonest mistakes."""
    others = counts[index].clone()
    others[index] = 0
    best = others.topk(min(2, len(others)))
    pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
    return ", ".join(f"{printable(classes[said])} {count}×" for count, said in pairs if count) or "–"
