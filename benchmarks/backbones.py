"""Which backbones branch, and whether exactly: ``python benchmarks/backbones.py``, or ``--sweep`` for all of timm's.

A stopped run goes on with the same command. The committed results are ``docs/results/backbones.json`` and
``docs/results/backbones-sweep.json``.
"""

import argparse
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import track
from rich.table import Table

from backbone_checks import CheckedBackbone, check_backbones, find_smallest, list_families, list_torchvision
from backbone_sweep import SweptBackbone, condense, list_architectures, sweep_backbones
from coterie.console.tables import table_console
from coterie.errors import UserError
from coterie.files import read_json, write_text
from coterie.studies.results import lock_results

B = TypeVar("B", CheckedBackbone, SweptBackbone)
console = Console(highlight=False)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing, and print the table."""
    parser = argparse.ArgumentParser(description="Measure which backbones branch, and whether exactly.")
    parser.add_argument(
        "--only", default="", help="regular expression on timm/FAMILY and torchvision/NAME; of a sweep on timm/NAME"
    )
    parser.add_argument("--out", help="JSON file of results, gone on with if there; default backbones[-sweep].json")
    parser.add_argument("--sweep", action="store_true", help="every architecture of timm's, on shapes alone")
    given = parser.parse_args(arguments)
    path = Path(given.out or ("backbones-sweep.json" if given.sweep else "backbones.json"))
    try:
        only = compile_pattern(given.only)
        with lock_results(path):
            (run_sweep if given.sweep else run_checks)(path, only)
    except UserError as error:
        parser.error(error.with_flags())
    console.print(f"written to {path}", markup=False, soft_wrap=True)


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """``--only`` as a regular expression.

    Raises:
        UserError: It is none.
    """
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(f"⟨only {pattern}⟩: no regular expression ({error})") from error


def run_checks(path: Path, only: re.Pattern[str]) -> None:
    """Check the smallest architecture of each of timm's families, and torchvision's classifiers."""
    done = load_backbones(path, CheckedBackbone)
    known = {backbone.family: backbone.name for backbone in done}
    families = [family for family in list_families() if only.search(f"timm/{family}")]
    families = track(families, "the smallest of each family", console=Console(stderr=True))
    names = [(family, known.get(family) or f"timm/{find_smallest(family)}") for family in families]
    names += [("torchvision", name) for name in list_torchvision() if only.search(name)]
    refuse_none(names, only)
    measure_missing(names, done, check_backbones, path)
    table = Table("network", "pixels", "split", "tail % FLOPs", "values", "exact", "gradients", "step", "state", "s")
    for row in done:
        flags = ("yes" if flag else "no" for flag in (row.exact, row.gradients, row.steps, row.state))
        share = f"{100 * row.tail_flops:.0f}"
        table.add_row(row.name, str(row.image_size), row.at, share, str(row.crossing), *flags, f"{row.seconds:.0f}")
    table_console().print(table)
    print_failures((row.name, row.reason) for row in done if not row.passed)
    for what, of_timm in (("timm's families", True), ("torchvision's classifiers", False)):
        part = [row for row in done if (row.family != "torchvision") == of_timm]
        console.print(f"{what}: {sum(row.passed for row in part)} of {len(part)}", markup=False)


def run_sweep(path: Path, only: re.Pattern[str]) -> None:
    """Ask of every architecture of timm's whether it branches; in the end only what does not is kept one by one."""
    done = load_backbones(path, SweptBackbone)
    names = [pair for pair in list_architectures() if only.search(f"timm/{pair[1]}")]
    refuse_none(names, only)
    measure_missing(names, done, sweep_backbones, path)
    counts, failures = condense(done)
    words = ["python", "benchmarks/backbones.py", "--sweep", *(["--only", only.pattern] if only.pattern else [])]
    save_backbones(path, failures, command=shlex.join(words), **counts)
    print_failures((row.name, row.reason) for row in failures)
    console.print(
        f"{counts['branched']} of {counts['of']} architectures branch, {counts['traced']} of them by a trace; "
        f"{counts['seconds']} s",
        markup=False,
    )


def load_backbones(path: Path, kind: type[B]) -> list[B]:
    """What an earlier run measured; nothing where there is no file.

    Raises:
        UserError: The file is no such table, or is finished and holds a part of it only.
    """
    if not path.exists():
        return []
    try:
        content = read_json(path, "name another file")
        done = [kind(**{key: _tuple(value) for key, value in row.items()}) for row in content["rows"]]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"⟨out {path}⟩: not a table of this benchmark; name another file") from error
    if len(content) > 1:  # what is said of all rows, see `save_backbones`
        raise UserError(f"⟨out {path}⟩: this benchmark is finished; name another file to run it again")
    return done


def save_backbones(path: Path, done: Iterable[CheckedBackbone | SweptBackbone], **head: Any) -> None:
    """Write what was measured, a network on a line, after what is said of all of them."""
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    body = ",\n".join(json.dumps(asdict(backbone)) for backbone in done)
    write_text(path, "{" + ",\n".join([*lines, f'"rows": [\n{body}\n]']) + "}\n")


def measure_missing(
    names: list[tuple[str, str]],
    done: list[B],
    measure: Callable[[list[tuple[str, str]]], Iterator[B]],
    path: Path,
) -> None:
    """Measure what is not done yet, and write each at once.

    Args:
        names: (family, name) of everything.
        done: What an earlier run measured, extended in place.
        measure: What measures.
        path: Where it is written.
    """
    known = {backbone.name for backbone in done}
    missing = [pair for pair in names if pair[1] not in known]
    for backbone in track(measure(missing), "networks", total=len(missing), console=Console(stderr=True)):
        done.append(backbone)
        save_backbones(path, done)


def refuse_none(names: list[tuple[str, str]], only: re.Pattern[str]) -> None:
    """Refuse a pattern that no network has.

    Raises:
        UserError: No network is left.
    """
    if not names:
        raise UserError(f"⟨only {only.pattern}⟩: no network; they are named as timm/resnet and torchvision/resnet18")


def print_failures(failures: Iterable[tuple[str, str]]) -> None:
    """A line for each network that fails, and why."""
    for name, reason in failures:
        console.print(f"{name}: {reason}", markup=False)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


if __name__ == "__main__":
    sys.exit(main())
