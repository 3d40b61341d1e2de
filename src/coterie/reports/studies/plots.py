"""The pictures of a study's page."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from statistics import mean, stdev
from typing import Any

from coterie.extras import need
from coterie.reports.drawing.colours import COLOURS, count_alike
from coterie.reports.drawing.plots import INK, colour_axes, mark_log_axis, new_figure, to_svg

_MARKERS = {"target": "o", "ensemble": "D"}
_WIDTH = 4.6  # inches of a picture: no wider without need, so that it can be read on a telephone
_GAP = 0.17  # inches between the labels of points
_ASIDE, _WIDEST = 0.1, 0.7  # inches between points of the same cost, and from the first to the last of them


EngFormatter = need("matplotlib.ticker", "report").EngFormatter
ScaledTranslation = need("matplotlib.transforms", "report").ScaledTranslation


@dataclass(frozen=True)
class CostPoint:
    """One network's error and what it costs.

    Attributes:
        label: Beside it.
        part: ``target`` and ``ensemble`` have marks of their own.
        colour: Its arm's.
        x: The cost, positive.
        errors: In percent, one for each seed.
    """

    label: str
    part: str
    colour: str
    x: float
    errors: Sequence[float]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return mean(self.errors)

    @property
    def sd(self) -> float:
        """Over the seeds; 0 where there is one."""
        return stdev(self.errors) if len(self.errors) > 1 else 0.0


def draw_costs(points: Sequence[CostPoint], title: str, label: str) -> str:
    """Errors against a cost; labels stand in a column at the right, so that none hides another.

    Args:
        points: One or more.
        title: For those who cannot see it.
        label: Of the cost's axis.
    """
    points = sorted(points, key=lambda point: point.mean)
    height = max(3.4, 0.9 + _GAP * len(points))
    figure, axes = new_figure(_fit_width(point.label for point in points), height)
    axes.set_xscale("log")
    least, most = min(point.x for point in points), max(point.x for point in points)
    room = 1.15 * (most / least) ** 0.15
    axes.set_xlim(least / room, most * room)
    mark_log_axis(axes.xaxis, (least / room, most * room), most=5, form=EngFormatter())  # 138 M
    low, high = min(point.mean - point.sd for point in points), max(point.mean + point.sd for point in points)
    room = 0.06 * (high - low) or 0.5
    low, high = low - room, high + room
    axes.set_ylim(low, high)
    labels = _spread([(point.mean - low) / (high - low) for point in points], _GAP / (height - 0.7))
    for point, aside, share in zip(points, _asides([point.x for point in points]), labels, strict=True):
        colour = point.colour
        # In inches on the page, so that no point's cost is changed.
        place = axes.transData + ScaledTranslation(aside, 0, figure.dpi_scale_trans)
        style: dict[str, Any] = {"color": colour, "markersize": 6, "elinewidth": 1.2, "capsize": 2, "transform": place}
        axes.errorbar(point.x, point.mean, point.sd, fmt=_MARKERS.get(point.part, "^"), **style)
        axes.annotate(
            point.label,
            (point.x, point.mean),
            (1.03, share),
            xycoords=place,
            textcoords="axes fraction",
            fontsize="small",
            color=INK,
            va="center",
            arrowprops={"arrowstyle": "-", "shrinkB": 4, "color": colour, "alpha": 0.5, "linewidth": 0.8},
        )
    axes.set_xlabel(label)
    axes.set_ylabel("test error, %")
    colour_axes(axes)
    return to_svg(figure, title)


def _fit_width(labels: Iterable[str]) -> float:
    """Inches of a picture with labels beside it."""
    return max(_WIDTH, 2.7 + 0.07 * max(map(len, labels)))


def _asides(costs: Sequence[float]) -> list[float]:
    """Inches by which each point stands aside, where several have the same cost within a hundredth."""
    groups = list[list[int]]()
    for place in sorted(range(len(costs)), key=costs.__getitem__):
        if groups and costs[place] <= 1.01 * costs[groups[-1][0]]:
            groups[-1].append(place)
        else:
            groups.append([place])
    found = [0.0] * len(costs)
    for group in groups:
        for step, place in enumerate(sorted(group)):
            found[place] = min(_ASIDE, _WIDEST / len(group)) * (step - (len(group) - 1) / 2)
    return found


def _spread(places: Sequence[float], gap: float) -> list[float]:
    """Rising places, moved as little as needed to lie a gap apart, and down again where they rise above 1."""
    found, last = [], -inf
    for place in places:
        last = max(place, last + gap)
        found.append(last)
    ceiling = 1.0
    for index in reversed(range(len(found))):
        found[index] = min(found[index], ceiling)
        ceiling = found[index] - gap
    return found


@dataclass(frozen=True)
class Prediction:
    """What was measured, and the number that a claim compares it with.

    Attributes:
        label: Of what.
        seeds: A value for each.
        number: The claim's.
        low: Lower end of the 95 % interval of the mean.
        high: Its upper end.
    """

    label: str
    seeds: Sequence[float]
    number: float
    low: float
    high: float


def draw_predictions(found: Sequence[Prediction], title: str, label: str) -> str:
    """Every seed, the mean with its interval, and the number, one below the other.

    Args:
        found: From the top.
        title: For those who cannot see it.
        label: Of the axis.
    """
    figure, axes = new_figure(_fit_width(each.label for each in found), 1.3 + 0.36 * len(found))
    for place, each in enumerate(found):
        # Only the first stands for all in the legend.
        names = ("", "") if place else ("measured: seeds, mean, 95 % interval", "the claim's number")
        style: dict[str, Any] = {"color": COLOURS[0], "linestyle": "none"}
        axes.plot(each.seeds, [place] * len(each.seeds), "o", alpha=0.35, markersize=4, markeredgewidth=0, **style)
        axes.plot([each.low, each.high], [place, place], "-", color=COLOURS[0], linewidth=1.6)
        axes.plot(mean(each.seeds), place, "o", markersize=6, label=names[0] or None, **style)
        style["color"] = COLOURS[1]
        axes.plot(each.number, place, "D", markersize=8, fillstyle="none", label=names[1] or None, **style)
    axes.set_yticks(range(len(found)), [each.label for each in found], fontsize="small")
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set_xlabel(label.replace("_", " "))
    axes.legend(frameon=False, fontsize="small", loc="lower left", bbox_to_anchor=(0, 1))
    colour_axes(axes)
    return to_svg(figure, title)


def draw_curves(
    named: Mapping[str, Mapping[str, Mapping[float, Sequence[float]]]], colours: Mapping[str, str], title: str
) -> str:
    """Errors in the course of training, means over seeds; bars of one standard deviation on the test errors.

    Args:
        named: Name to ``train_error`` and ``test_error`` to epoch to a value for each seed.
        colours: Name to its arm's; those of one colour have marks that tell them apart.
        title: For those who cannot see it.
    """
    figure, axes = new_figure(_WIDTH, 3.0)
    places = count_alike(named, colours)
    for name, metrics in named.items():
        colour, mark = colours[name], ("", "o", "s", "^")[places[name] % 4]
        for metric, style in (("train_error", "--"), ("test_error", "-")):
            curve = metrics.get(metric, {})
            epochs = sorted(curve)
            spread = [stdev(curve[epoch]) if len(curve[epoch]) > 1 else 0.0 for epoch in epochs]
            test = metric == "test_error"
            axes.errorbar(
                epochs,
                [mean(curve[epoch]) for epoch in epochs],
                spread if test else None,
                color=colour,
                linestyle=style,
                marker=mark,
                markersize=4,
                label=name if test else None,
                capsize=2,
                elinewidth=0.9,
            )
    axes.set_xlabel("epoch")
    axes.set_ylabel("error, %")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize="small")
    colour_axes(axes)
    return to_svg(figure, title)


def draw_flatness(named: Mapping[str, Mapping[float, Sequence[float]]], colours: Mapping[str, str], title: str) -> str:
    """How much accuracy is lost at a distance from the trained parameters, mean and standard deviation over seeds.

    Args:
        named: Name to distance to a value for each seed.
        colours: Name to its arm's; those of one colour have lines that tell them apart.
        title: For those who cannot see it.
    """
    figure, axes = new_figure(_WIDTH, 3.0)
    places = count_alike(named, colours)
    for name, curve in named.items():
        distances = sorted(curve)
        middle = [mean(curve[distance]) for distance in distances]
        spread = [stdev(curve[distance]) if len(curve[distance]) > 1 else 0.0 for distance in distances]
        colour, style = colours[name], ("-", "--", ":", "-.")[places[name] % 4]
        axes.errorbar(distances, middle, spread, color=colour, linestyle=style, label=name, capsize=2, elinewidth=0.9)
    axes.set_xlabel("distance from the trained parameters")
    axes.set_ylabel("accuracy lost, points")
    axes.legend(frameon=False, fontsize="small")
    colour_axes(axes)
    return to_svg(figure, title)
