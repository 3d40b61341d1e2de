"""``coterie study``: measure again what the documentation says."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.progress import track
from rich.table import Table

from coterie.cli.arguments import new_parser
from coterie.errors import UserError, unknown_name
from coterie.studies import backbones, rows, sweep

console = Console(highlight=False)
_STUDIES = ("backbones",)


def study_parser(given: list[str]) -> ArgumentParser:
    """Options of ``coterie study``."""
    parser = new_parser()
    parser.add_argument("study", help=f"one of: {', '.join(_STUDIES)}")
    parser.add_argument("--out", type=str | None, default=None, help="JSON file of results; goes on where it stopped")
    parser.add_argument(
        "--only", type=str, default="", help="regular expression on timm/FAMILY, torchvision/NAME; in a sweep timm/NAME"
    )
    parser.add_argument("--sweep", action="store_true", help="every architecture of timm's, on shapes alone")
    return parser


def run_study(given: Namespace) -> None:
    """Run a study and print its table."""
    if given.study not in _STUDIES:
        raise unknown_name("study", given.study, _STUDIES)
    try:
        only = re.compile(given.only)
    except re.error as error:
        raise UserError(f"--only {given.only}: no regular expression ({error})") from error
    path = Path(given.out) if given.out else None
    if given.sweep:
        _sweep(path, only)
    else:
        _backbones(path, only)


def _backbones(path: Path | None, only: re.Pattern[str]) -> None:
    done = rows.load_rows(path, backbones.Row) if path else []
    known = {row.family: row.name for row in done}
    chosen = [family for family in backbones.family_names() if only.search(f"timm/{family}")]
    names = [(family, known.get(family) or f"timm/{backbones.smallest(family)}") for family in _shown(chosen)]
    names += [("torchvision", name) for name in backbones.torchvision_names() if only.search(name)]
    _follow(rows.going_on(names, done, backbones.backbones, path), names, done)
    table = Table("network", "pixels", "cut", "tail % FLOPs", "values", "exact", "gradients", "step", "state", "s")
    for row in done:
        flags = ("yes" if flag else "no" for flag in (row.exact, row.gradients, row.steps, row.state))
        share = f"{100 * row.tail_flops:.0f}"
        table.add_row(row.name, str(row.image_size), row.at, share, str(row.crossing), *flags, f"{row.seconds:.0f}")
    console.print(table)
    _failures((row.name, row.reason) for row in done if not row.passed)
    for what, of in (("timm's families", True), ("torchvision's classifiers", False)):
        part = [row for row in done if (row.family != "torchvision") == of]
        console.print(f"{what}: {sum(row.passed for row in part)} of {len(part)}", markup=False)


def _sweep(path: Path | None, only: re.Pattern[str]) -> None:
    done = rows.load_rows(path, sweep.SweepRow) if path else []
    names = [pair for pair in sweep.architectures() if only.search(f"timm/{pair[1]}")]
    _follow(rows.going_on(names, done, sweep.sweep, path), names, done)
    found = sweep.condensed(done)
    _failures((row.name, row.reason) for row in found["failures"])
    console.print(
        f"{found['branched']} of {found['of']} architectures branch, {found['traced']} of them by a trace; "
        f"{found['seconds']} s",
        markup=False,
    )


def _follow(new: Iterator[Any], names: list[tuple[str, str]], done: list[Any]) -> None:
    left = len({name for _, name in names} - {row.name for row in done})
    for _ in track(new, "networks", total=left, console=Console(stderr=True)):
        pass


def _shown(families: list[str]) -> Iterable[str]:
    return track(families, "the smallest of each family", console=Console(stderr=True))


def _failures(found: Iterable[tuple[str, str]]) -> None:
    for name, reason in found:
        console.print(f"{name}: {reason}", markup=False)
