"""``coterie study backbones``: measure again which backbones branch."""

import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from coterie.console.terminal import table_console
from coterie.errors import UserError
from coterie.studies import backbones, rows, sweep
from coterie.studies.results import only_writer

console = Console(highlight=False)


def run_backbones(path: Path | None, pattern: str, whole: bool) -> None:
    """Run the study of backbones and print its table.

    Args:
        path: JSON file of results, gone on with; None for ``backbones.json``, of a sweep ``backbones-sweep.json``.
        pattern: Regular expression on ``timm/FAMILY`` and ``torchvision/NAME``; in a sweep on ``timm/NAME``.
        whole: Every architecture of timm's, on shapes alone.
    """
    only = expression(pattern)
    path = path or Path("backbones-sweep.json" if whole else "backbones.json")
    with only_writer(path):
        if whole:
            _sweep(path, only)
        else:
            _backbones(path, only)
    console.print(f"written to {path}", markup=False, soft_wrap=True)


def expression(pattern: str) -> re.Pattern[str]:
    """``--only`` as a regular expression.

    Raises:
        UserError: It is none.
    """
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(f"--only {pattern}: no regular expression ({error})") from error


def _backbones(path: Path, only: re.Pattern[str]) -> None:
    done = rows.load_rows(path, backbones.Row)
    known = {row.family: row.name for row in done}
    chosen = [family for family in backbones.family_names() if only.search(f"timm/{family}")]
    names = [(family, known.get(family) or f"timm/{backbones.smallest(family)}") for family in _shown(chosen)]
    names += [("torchvision", name) for name in backbones.torchvision_names() if only.search(name)]
    _refuse_none(names, only)
    _follow(rows.going_on(names, done, backbones.backbones, path), names, done)
    table = Table("network", "pixels", "cut", "tail % FLOPs", "values", "exact", "gradients", "step", "state", "s")
    for row in done:
        flags = ("yes" if flag else "no" for flag in (row.exact, row.gradients, row.steps, row.state))
        share = f"{100 * row.tail_flops:.0f}"
        table.add_row(row.name, str(row.image_size), row.at, share, str(row.crossing), *flags, f"{row.seconds:.0f}")
    table_console().print(table)
    _failures((row.name, row.reason) for row in done if not row.passed)
    for what, of in (("timm's families", True), ("torchvision's classifiers", False)):
        part = [row for row in done if (row.family != "torchvision") == of]
        console.print(f"{what}: {sum(row.passed for row in part)} of {len(part)}", markup=False)


def _sweep(path: Path, only: re.Pattern[str]) -> None:
    done = rows.load_rows(path, sweep.SweepRow)
    names = [pair for pair in sweep.architectures() if only.search(f"timm/{pair[1]}")]
    _refuse_none(names, only)
    _follow(rows.going_on(names, done, sweep.sweep, path), names, done)
    found = sweep.condensed(done)
    failures = found.pop("failures")
    words = ["coterie", "study", "backbones", "--sweep", *(["--only", only.pattern] if only.pattern else [])]
    rows.save_rows(path, failures, command=shlex.join(words), **found)
    _failures((row.name, row.reason) for row in failures)
    console.print(
        f"{found['branched']} of {found['of']} architectures branch, {found['traced']} of them by a trace; "
        f"{found['seconds']} s",
        markup=False,
    )


def _refuse_none(names: list[tuple[str, str]], only: re.Pattern[str]) -> None:
    if not names:
        raise UserError(f"--only {only.pattern}: no network; they are named as timm/resnet and torchvision/resnet18")


def _follow(new: Iterator[Any], names: list[tuple[str, str]], done: list[Any]) -> None:
    left = len({name for _, name in names} - {row.name for row in done})
    for _ in track(new, "networks", total=left, console=Console(stderr=True)):
        pass


def _shown(families: list[str]) -> Iterable[str]:
    return track(families, "the smallest of each family", console=Console(stderr=True))


def _failures(found: Iterable[tuple[str, str]]) -> None:
    for name, reason in found:
        console.print(f"{name}: {reason}", markup=False)
