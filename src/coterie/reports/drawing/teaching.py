"""The drawing of who teaches whom, made from what a method says of itself."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from coterie.extras import need
from coterie.methods import Edge
from coterie.reports.drawing.colours import COLOURS
from coterie.reports.drawing.plots import INK, new_figure, to_svg

_ROW, _COLUMN = 0.62, 1.5  # between rows, and from the learners' column to the teachers'; 0.82 of an inch each


def draw_teaching(edges: Sequence[Edge], title: str) -> str:
    """An SVG: learners on the left, what they are taught by on the right, one colour a lesson.

    Args:
        edges: Of :meth:`coterie.methods.Method.teaching`; one or more.
        title: For those who cannot see it.
    """
    made = list(dict.fromkeys(edge.to for edge in edges if not edge.teaches))
    names = dict.fromkeys(name for edge in edges for name in (edge.source, edge.to))
    learn = {edge.to for edge in edges if edge.teaches}
    right = [name for name in names if name in made or name not in learn]
    left = [name for name in names if name not in right]
    left.sort(key=lambda name: name != "target")
    height = _ROW * max(len(left), len(right), 2)
    places = _column(left, 0.0, height) | _column(right, _COLUMN, height)
    lessons = list(dict.fromkeys(edge.label for edge in edges if edge.teaches))
    beside = max(1.3, 0.95 + 0.2 * height)  # for bows between learners
    width = beside + _COLUMN + 2.32
    figure, axes = new_figure(0.82 * width, height + 0.5 + 0.22 * len(lessons))
    axes.set_axis_off()
    axes.set_xlim(-beside, _COLUMN + 2.32)
    axes.set_ylim(-0.4 - 0.22 * len(lessons), height + 0.1)
    drawn: set[Edge] = set()
    for edge in edges:
        back = replace(edge, source=edge.to, to=edge.source)
        if back not in drawn:  # both ways are one line with two heads
            drawn.add(edge)
            colour = COLOURS[lessons.index(edge.label) % len(COLOURS)] if edge.teaches else INK
            style = "-" if not edge.teaches else "<|-|>" if back in edges else "-|>"
            _arrow(axes, places[edge.source], places[edge.to], colour, style)
    for name, (x, y) in places.items():
        weight, side = ("bold" if name == "target" else "normal"), ("left" if x else "right")
        box = {"boxstyle": "round,pad=0.35", "facecolor": "none", "edgecolor": INK}
        axes.text(x, y, name, ha=side, va="center", fontsize="small", color=INK, weight=weight, bbox=box)
    for number, label in enumerate(lessons):
        place = -0.35 - 0.22 * number
        axes.text(0.05 - beside, place, "→", fontsize="small", color=COLOURS[number % len(COLOURS)], weight="bold")
        axes.text(0.25 - beside, place, label, fontsize="small", color=INK)
    return to_svg(figure, title)


def _column(names: Sequence[str], x: float, height: float) -> dict[str, tuple[float, float]]:
    """Names one below the other, in the middle of the height."""
    step = height / max(len(names), 1)
    return {name: (x, height - step * (place + 0.5)) for place, name in enumerate(names)}


def _arrow(axes: Any, source: tuple[float, float], to: tuple[float, float], colour: str, style: str) -> None:
    (x1, y1), (x2, y2) = source, to
    beside = 0.1
    if x1 == x2:  # between two of a column: a bow on its outer side, where the boxes are not
        outer = 1.0 if x1 else -1.0
        x1 = x2 = x1 + outer * (0.8 if x1 == 0 else 1.75)
        bow = -outer * 0.5 * (1 if y1 > y2 else -1)
    else:
        x1, x2 = (x1 + beside, x2 - beside) if x1 < x2 else (x1 - beside, x2 + beside)
        bow = 0.06
    axes.add_patch(
        need("matplotlib.patches", "report").FancyArrowPatch(
            (x1, y1),
            (x2, y2),
            arrowstyle=style,
            mutation_scale=10,
            shrinkA=4,
            shrinkB=4,
            connectionstyle=f"arc3,rad={bow}",
            color=colour,
            linewidth=0.8 if style == "-" else 1.3,
            linestyle=":" if style == "-" else "-",
        )
    )
