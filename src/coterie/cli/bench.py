"""``coterie bench``."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from rich.markup import escape
from rich.table import Table

from coterie.cli.arguments import new_file, new_parser
from coterie.cli.runs import ROOT
from coterie.console.counting import show_counts
from coterie.console.tables import table_console
from coterie.console.terminal import printable, say
from coterie.deploy.speed import Form, bench
from coterie.files import write_text


def bench_parser(given: list[str]) -> ArgumentParser:
    """Options of ``coterie bench``."""
    parser = new_parser()
    parser.add_argument("sources", nargs="+", help="Run folders and exported files; the first form is compared with")
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=[1, 32], help="images in a call")
    parser.add_argument("--threads", nargs="+", type=int, default=[1], help="of the CPU")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each form, batch size and number of threads")
    parser.add_argument("--out", type=str | None, default=None, help="a .json file of all figures")
    parser.add_argument("--plot", type=str | None, default=None, help="an .svg file: error against latency")
    parser.add_argument(ROOT[0], **ROOT[1])
    return parser


def run_bench(given: Namespace) -> None:
    """Measure, print the table, and write what was asked for."""
    out = None if given.out is None else new_file(given.out, ".json", "out")
    plot = None if given.plot is None else new_file(given.plot, ".svg", "plot")
    root = {} if given.data.root is None else {"root": given.data.root}
    with show_counts():
        forms = bench(
            given.sources,
            batch_sizes=given.batch_sizes,
            threads=given.threads,
            seconds=given.seconds,
            progress=True,
            **root,
        )
    print_forms(forms)
    if out is not None:
        write_text(out, json.dumps([asdict(form) for form in forms], indent=1, ensure_ascii=False) + "\n")
        say(f"{out}: all figures")
    if plot is not None:
        # Matplotlib belongs to an extra, and nothing else of this command needs it.
        from coterie.reports.drawing.speed import plot_speed

        write_text(plot, plot_speed(forms))
        say(f"{plot}: error against latency")


def print_forms(forms: Sequence[Form]) -> None:
    """A row for each form; ratios are to the first."""
    table = Table("form", "runs in", "file MB", "error %", "memory MB")
    for timing in forms[0].timings:
        where = f"{timing.threads} thread{'s' if timing.threads > 1 else ''}"
        if timing.batch_size == 1:
            table.add_column(f"ms an image, {where}\nmedian (95 %)")
        else:
            table.add_column(f"images/s, {where}\nbatch {timing.batch_size}")
        table.add_column("x")
    for form in forms:
        error = "–" if form.error is None else f"{form.error:.2f}" + ("" if form.measured else " (card)")
        cells = [form.name, form.runtime, f"{form.megabytes:.2f}", error, _or_dash(form.memory_mb)]
        for timing, first in zip(form.timings, forms[0].timings, strict=True):
            if timing.batch_size == 1:
                cells.append(f"{timing.median_ms:.2f} ({timing.p95_ms:.2f})")
            else:
                cells.append(f"{timing.images_per_second:,.0f}")
            cells.append(f"{first.median_ms / timing.median_ms:.2f}")
        table.add_row(*(escape(printable(cell)) for cell in cells))
    table_console().print(table)
    say("x: how many times as fast as the first form")


def _or_dash(value: Any) -> str:
    return "–" if value is None else f"{value:.0f}"
