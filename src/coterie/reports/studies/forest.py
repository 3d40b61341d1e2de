"""A claim's interval beside zero, drawn small."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from coterie.studies.verdicts import Verdict

_WIDTH = 100.0


@dataclass(frozen=True)
class ForestLine:
    """Places from 0 to 100 on a line; what lies outside is cut off at its ends.

    Attributes:
        low: Lower end of the interval.
        high: Its upper end.
        middle: The measured difference.
        published: The published difference; None where there is none on this line.
        margin: Ends of the margin of a claim of sameness.
        reach: What the ends of the line stand for, in the metric's units.
    """

    low: float
    high: float
    middle: float
    published: float | None
    margin: tuple[float, float] | None
    reach: float


def make_forest(verdicts: Sequence[Verdict]) -> list[ForestLine | None]:
    """A picture for each verdict that rests on figures; those of the same data and metric share a scale."""
    reaches = dict[tuple[str, str], list[float]]()
    for verdict in verdicts:
        if verdict.comparison is not None:
            widest = max(abs(verdict.comparison.low), abs(verdict.comparison.high), verdict.claim.margin or 0.0)
            reaches.setdefault((verdict.data, verdict.claim.metric), []).append(widest)
    # One interval that is far wider than the others would leave nothing to see of them.
    reach = {key: 1.1 * min(max(widths), 4 * median(widths)) or 1.0 for key, widths in reaches.items()}
    return [
        None if verdict.comparison is None else _make_line(verdict, reach[verdict.data, verdict.claim.metric])
        for verdict in verdicts
    ]


def _make_line(verdict: Verdict, reach: float) -> ForestLine:
    claim, found = verdict.claim, verdict.comparison
    assert found is not None
    published = None
    if claim.published is not None and claim.expect != "same" and abs(claim.published) <= reach:
        published = _place(-claim.published if claim.expect == "lower" else claim.published, reach)
    margin = None if claim.margin is None else (_place(-claim.margin, reach), _place(claim.margin, reach))
    low, high, middle = (_place(value, reach) for value in (found.low, found.high, found.difference))
    return ForestLine(low, high, middle, published, margin, reach)


def _place(value: float, reach: float) -> float:
    return round(_WIDTH * (0.5 + min(max(value / reach, -1.0), 1.0) / 2), 1)
