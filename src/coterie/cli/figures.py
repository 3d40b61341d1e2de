"""What ``coterie evaluate`` found, as tables, JSON or CSV."""

import csv
import io
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from coterie.checking import check_value
from coterie.console.tables import table_console
from coterie.console.terminal import printable
from coterie.errors import UserError
from coterie.evaluation.figures import ClassFigures, Evaluation, Interval
from coterie.evaluation.tta import passes_line
from coterie.files import write_text

Format = Literal["text", "json", "csv"]
Shown = int | Literal["all"] | None  # how many classes; None for the format's default

_ENDINGS: dict[str, Format] = {".json": "json", ".csv": "csv", ".txt": "text"}
_FEW = 5  # classes of a table that nobody asked for more of


def print_figures(measured: Evaluation, format: Format, classes: Shown) -> None:
    """Print an evaluation."""
    if format == "text":
        _print_tables(table_console(), measured, classes)
    else:
        sys.stdout.write(_as_text(measured, format, classes))


def write_figures(out: str, format: Format | None) -> Callable[[Evaluation, Shown], None]:
    """What writes an evaluation to a file: the name is checked at once, before anything is measured.

    Args:
        out: The file.
        format: Its format; None for what its name ends in.

    Raises:
        UserError: It is a folder, or its name says another format, or none.
    """
    path: Path = check_value("⟨out⟩", out, Path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file in it")
    named = _ENDINGS.get(path.suffix)
    if named is None and format is None:
        raise UserError(f"⟨out {path}⟩: its name says no format; end it in {', '.join(_ENDINGS)}, or give ⟨format⟩")
    if None not in (named, format) and named != format:
        raise UserError(f"⟨out {path}⟩: named as {named}, and ⟨format {format}⟩ is another; leave one of the two out")
    kind: Format = format or named or "text"

    def write(measured: Evaluation, classes: Shown) -> None:
        write_text(path, _as_text(measured, kind, classes))

    return write


def _as_text(measured: Evaluation, format: Format, classes: Shown) -> str:
    if format == "text":
        text = io.StringIO()
        _print_tables(Console(file=text, width=200, highlight=False), measured, classes)
        return text.getvalue()
    count = None if classes in (None, "all") else int(classes)
    if format == "csv":
        return _as_csv(measured, count)
    content = measured.as_dict(count)
    # JSON has no NaN and no infinity.
    content["measures"] = {name: value if math.isfinite(value) else None for name, value in measured.measures.items()}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _as_csv(measured: Evaluation, count: int | None) -> str:
    """A row a figure: of all images, where no class is named, then of each class."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("class", "measure", "value", "low", "high", "images"))
    for name, figure in measured.measures.items():
        table.writerow(("", name, f"{figure:.6g}", *_ends(measured.intervals.get(name)), measured.images))
    for figures in measured.classes if count is None else measured.worst(count):
        rows = (
            ("precision", figures.precision, figures.precision_interval, figures.predicted),
            ("recall", figures.recall, figures.recall_interval, figures.images),
            ("f1", figures.f1, None, figures.images),
        )
        for name, value, interval, images in rows:
            shown = "" if value is None else f"{value:.6g}"
            table.writerow((printable(figures.name), name, shown, *_ends(interval), images))
    return text.getvalue()


def _ends(interval: Interval | None) -> tuple[str, str]:
    return ("", "") if interval is None else (f"{interval[0]:.6g}", f"{interval[1]:.6g}")


def _print_tables(console: Console, measured: Evaluation, classes: Shown) -> None:
    """The measures, then the classes."""
    table = Table("measure", "value", "95 % interval")
    for name, value in measured.measures.items():
        table.add_row(escape(printable(name)), f"{value:.4f}", _bracketed(measured.intervals.get(name), ""))
    console.print(f"{measured.images} {measured.split} images of {escape(printable(measured.data))}")
    if measured.tta is not None:
        console.print(passes_line(measured.tta))
    console.print(table)
    count = None if classes == "all" else _FEW if classes is None else classes
    shown = measured.classes if count is None else measured.worst(count)
    table = Table("class", "images", "recall %", "95 % interval", "precision %", "95 % interval", "F1 %")
    for figures in shown:
        table.add_row(*_cells(figures))
    console.print(table)
    if len(shown) < len(measured.classes):
        console.print(f"the {len(shown)} of {len(measured.classes)} classes with the lowest recall; --classes all")


def _cells(figures: ClassFigures) -> tuple[str, ...]:
    def shown(value: float | None) -> str:
        return "–" if value is None else f"{value:.2f}"

    return (
        escape(printable(figures.name)),
        str(figures.images),
        shown(figures.recall),
        _bracketed(figures.recall_interval),
        shown(figures.precision),
        _bracketed(figures.precision_interval),
        shown(figures.f1),
    )


def _bracketed(interval: Interval | None, without: str = "–") -> str:
    # Not a bracket that rich takes for a style.
    return without if interval is None else escape(f"[{interval[0]:.2f}, {interval[1]:.2f}]")
