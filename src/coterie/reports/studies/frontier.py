"""Error against the cost of training: the picture of a frontier, its table, and what it says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from coterie.extras import need
from coterie.reports.drawing.colours import Palette, name_arm
from coterie.reports.drawing.plots import colour_axes, mark_log_axis, new_figure, to_svg
from coterie.reports.numbers import format_interval, format_number, format_p, format_signed
from coterie.studies.curves import WORTH, Crossing, Curve, Judgement
from coterie.studies.frontiers import Judged

EngFormatter = need("matplotlib.ticker", "report").EngFormatter
_FAR = 4  # the highest mean error over the lowest, from where on low ones could not be told apart on a linear axis
format_flops = EngFormatter(unit="FLOP", places=1)


def draw_frontier(curves: Mapping[str, Curve], title: str, label: str = "test error, %") -> str:
    """Mean errors against training FLOPs, each with the 95 % interval of the mean over seeds.

    Args:
        curves: By arm, which the legend names.
        title: For those who cannot see it.
        label: Of the vertical axis.
    """
    figure, axes = new_figure(6.4, 3.8)
    palette = Palette({arm: name_arm(arm) for arm in curves})
    for place, (arm, curve) in enumerate(curves.items()):
        points = [curve[rung] for rung in sorted(curve)]
        # Of the same cost on a rung: side by side, so that no interval hides another.
        costs = [point.flops * (1 + 0.012 * (place - (len(curves) - 1) / 2)) for point in points]
        axes.errorbar(
            costs,
            [point.mean for point in points],
            [point.half or 0.0 for point in points],
            **palette.style(arm),
            marker="os^Dvph*"[place % 8],
            markersize=5,
            linewidth=1.6,
            capsize=3,
            elinewidth=1,
            label=arm,
        )
    axes.set_xscale("log")
    ends = [point.flops for curve in curves.values() for point in curve.values()]
    low, high = min(ends) / 1.15, max(ends) * 1.15
    axes.set_xlim(low, high)
    mark_log_axis(axes.xaxis, (low, high), most=5, form=EngFormatter(unit="FLOP"))
    _scale_errors(axes, [point.mean for curve in curves.values() for point in curve.values()])
    axes.set_xlabel("FLOPs of all training")
    axes.set_ylabel(label)
    axes.legend(frameon=False, fontsize="small")
    colour_axes(axes)
    return to_svg(figure, title)


def _scale_errors(axes: Any, means: Sequence[float]) -> None:
    """Room for the means, logarithmic where they are far apart; the intervals of few seeds may go on beyond it."""
    least, most = min(means), max(means)
    if least > 0 and most / least > _FAR:
        axes.set_yscale("log", nonpositive="clip")
        ends = least / 1.4, most * 1.4
        mark_log_axis(axes.yaxis, ends)
    else:
        room = max(most - least, 0.2 * most)
        low, high = axes.get_ylim()
        ends = max(0.0, low, least - room), min(high, most + room) or 1.0
    axes.set_ylim(*ends)


def frontier_rows(curves: Mapping[str, Curve]) -> list[tuple[str, ...]]:
    """Arm, epochs, cost, seeds, and mean error with its 95 % interval, a row for each measured rung of an arm."""
    return [
        (
            arm,
            str(point.epochs),
            format_flops(point.flops),
            str(len(point.errors)),
            format_number(point.mean) + ("" if point.half is None else f" ± {format_number(point.half)}"),
        )
        for arm, curve in curves.items()
        for _, point in sorted(curve.items())
    ]


def judgement_sentence(arm: str, baseline: str, judged: Judgement, errors: Sequence[float], margin: float) -> str:
    """Who is better, by how much, and how sure that is.

    Args:
        arm: What is judged.
        baseline: What it is compared with.
        judged: Of the two.
        errors: Mean test errors of the two.
        margin: Points within which they count as equal.
    """
    found = judged.comparison
    figures = (
        f"test error {format_number(errors[0])} against {format_number(errors[1])} %, difference "
        f"{format_signed(found.difference)} points, 95 % interval {format_interval(found.low, found.high)}, "
        f"{found.n} pairs of seeds, {format_p(judged.adjusted)} corrected"
    )
    word = {
        "better": f"better than {baseline}",
        "worse": f"worse than {baseline}",
        "equivalent": f"equivalent to {baseline} within {margin:g} points",
        "inconclusive": f"not told apart from {baseline}",
    }[judged.word]
    said = f"At equal cost {arm} is {word}: {figures}."
    if judged.word != "inconclusive":
        return said
    wanted = f"about {judged.seeds} seeds" if judged.seeds else "more than a thousand seeds"
    return f"{said} It takes {wanted} to tell {margin:g} points in four of five repetitions."


def crossing_sentence(arm: str, baseline: str, crossing: Crossing) -> str:
    """From which budget on an arm has the lower mean error."""
    order = "a lower" if crossing.ahead else "a higher"
    if crossing.flops is None:
        return f"{arm} has {order} mean test error than {baseline} at every measured budget."
    low = "below the ladder" if crossing.low is None else format_flops(crossing.low)
    high = "above it" if crossing.high is None and crossing.low is None else "above the ladder"
    high = high if crossing.high is None else format_flops(crossing.high)
    return (
        f"From {format_flops(crossing.flops)} on {arm} has {order} mean test error than {baseline} "
        f"(95 % interval of that budget: {low} to {high})."
    )


@dataclass(frozen=True)
class FrontierView:
    """What a page shows of a frontier."""

    judged: Judged

    @property
    def title(self) -> str:
        """Of its section."""
        return f"Error against cost: {self.judged.frontier.title}"

    @property
    def picture(self) -> str:
        """The curves."""
        return draw_frontier(self.judged.curves, self.title)

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """See :func:`frontier_rows`."""
        return frontier_rows(self.judged.curves)

    def errors(self, arm: str) -> list[float]:
        """Mean test errors of a judged arm and of the baseline, over the seeds that both have."""
        judged = self.judged
        assert judged.rung is not None
        sides = [judged.curves[name][judged.rung].errors for name in (arm, judged.frontier.baseline)]
        seeds = set(sides[0]) & set(sides[1])
        return [mean(side[seed] for seed in seeds) for side in sides]

    @property
    def sentences(self) -> list[str]:
        """The verdicts and what stands beside them."""
        return [*self.verdicts, *self.notes]

    @property
    def verdicts(self) -> list[str]:
        """On each arm, beside the baseline."""
        return [self.verdict(arm) for arm in self.judged.judgements]

    def verdict(self, arm: str) -> str:
        """On one arm, beside the baseline."""
        frontier, judgement = self.judged.frontier, self.judged.judgements[arm]
        return judgement_sentence(f"'{arm}'", f"'{frontier.baseline}'", judgement, self.errors(arm), frontier.margin)

    @property
    def notes(self) -> list[str]:
        """Saturation, crossings, and unequal costs."""
        judged, frontier, said = self.judged, self.judged.frontier, list[str]()
        baseline = judged.curves.get(frontier.baseline, {})
        if judged.rung is not None and frontier.rungs > 1:
            at = format_flops(baseline[judged.rung].flops)
            where = judged.saturated.get(frontier.baseline)
            if where is None:
                why = f"their highest budget: '{frontier.baseline}' is not saturated on this ladder"
            elif where == judged.rung:
                why = f"where '{frontier.baseline}' is saturated: each rung above it gains less than {WORTH:g} points"
            else:
                why = "their highest budget"
            said.append(f"Arms are compared at {at}, {why}.")
        for arm, rung in judged.saturated.items():
            if arm != frontier.baseline or rung != judged.rung:
                said.append(f"'{arm}' is saturated from {format_flops(judged.curves[arm][rung].flops)} on.")
        said += [
            crossing_sentence(f"'{arm}'", f"'{frontier.baseline}'", each) for arm, each in judged.crossings.items()
        ]
        said += [
            f"On rung {rung + 1} '{arm}' cost {share:+.1%} of what it should: costs are not equal there."
            for rung, arm, share in judged.uneven
        ]
        return said
