"""What is measured of a study's frontiers, judged together."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from coterie.studies.curves import (
    Crossing,
    Curve,
    Judgement,
    find_crossing,
    find_saturation,
    find_uneven,
    judge,
    pair,
    read_curves,
)
from coterie.studies.ladder import Frontier
from coterie.studies.results import Results


@dataclass(frozen=True)
class Judged:
    """A frontier with what was measured of it.

    Attributes:
        frontier: As the study has it.
        curves: By arm, the measured rungs.
        rung: Where arms are compared: the lowest on which the baseline is saturated, else the highest that it has; None
            where nothing was measured of it.
        saturated: By arm, the rung from which on more training gains less than half a point; arms that never get there
            are not named.
        crossings: By arm other than the baseline, where it overtakes the baseline or falls behind.
        judgements: By arm other than the baseline, on the rung; corrected for all frontiers of the study.
        uneven: Rung, arm, and by how much its cost differs from the first arm's, where it is more than 1 %.
    """

    frontier: Frontier
    curves: dict[str, Curve]
    rung: int | None
    saturated: dict[str, int]
    crossings: dict[str, Crossing]
    judgements: dict[str, Judgement] = field(default_factory=dict)
    uneven: Sequence[tuple[int, str, float]] = ()


def judge_frontiers(frontiers: Sequence[Frontier], results: Results) -> list[Judged]:
    """Read every frontier's curves, and compare its arms with its baseline at saturation, all tests corrected together.

    Args:
        frontiers: Of one scale.
        results: Of that scale.
    """
    found = [_read(frontier, results) for frontier in frontiers]
    tests = []
    for place, each in enumerate(found):
        for arm, curve in each.curves.items():
            if each.rung is not None and arm != each.frontier.baseline and each.rung in curve:
                comparison = pair(curve[each.rung], each.curves[each.frontier.baseline][each.rung])
                if comparison is not None:
                    tests.append((place, arm, comparison))
    # Of equal margin they are judged at once; the margin is the study's own and seldom differs.
    for margin in {each.frontier.margin for each in found}:
        judged = judge([comparison for _, _, comparison in tests], margin)
        for (place, arm, _), judgement in zip(tests, judged, strict=True):
            if found[place].frontier.margin == margin:
                found[place].judgements[arm] = judgement
    return found


def _read(frontier: Frontier, results: Results) -> Judged:
    curves = read_curves(frontier, results)
    baseline = curves.get(frontier.baseline, {})
    saturated = {arm: rung for arm, curve in curves.items() if (rung := find_saturation(curve)) is not None}
    crossings = {
        arm: crossing
        for arm, curve in curves.items()
        if arm != frontier.baseline and (crossing := find_crossing(curve, baseline)) is not None
    }
    paired = [
        number
        for number in baseline
        if any(
            arm != frontier.baseline and pair(each[number], baseline[number])
            for arm, each in curves.items()
            if number in each
        )
    ]
    rung = max(paired or baseline, default=None)
    if frontier.judged_at == "saturation":
        rung = saturated.get(frontier.baseline, rung)
    return Judged(frontier, curves, rung, saturated, crossings, uneven=find_uneven(curves))
