"""Cells of a large benchmark: trained by several processes, each written as a line when it is done, never twice.

``benchmarks/modern.py`` and ``benchmarks/finetune.py`` say what a cell is. A cell is a dictionary of plain values; a
finished one is a line of JSON, ``{"cell": {…}, "seconds": …, …}``, in a file to which any number of commands may append
at the same time. A command that is started again goes on with the cells that are not there.
"""

import argparse
import fcntl
import json
import math
import os
import platform
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from statistics import mean, stdev
from typing import Any

Cell = Mapping[str, Any]


def key(cell: Cell) -> str:
    """What tells cells apart, whatever the order of their entries."""
    return json.dumps(cell, sort_keys=True)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The finished cells; a last line that a killed command left half is none."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text("utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return list({key(row["cell"]): row for row in rows}.values())


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Write a finished cell as a whole line, whoever else writes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0, os.SEEK_END)
        whole = True
        if file.tell():
            file.seek(-1, os.SEEK_END)
            whole = file.read(1) == b"\n"
        file.write((b"" if whole else b"\n") + json.dumps(row).encode() + b"\n")


def run_cells(
    cells: Sequence[Cell],
    train: Callable[[Cell], dict[str, Any] | None],
    results: Path,
    *,
    jobs: int,
    minutes: float | None,
    kind: Callable[[Cell], str],
) -> None:
    """Train the cells that are not there.

    Args:
        cells: In the order in which they are begun.
        train: Gives what is measured, or None where the cell has nothing to measure. It runs in a process of its own,
            with one thread.
        results: The file of lines.
        jobs: Processes.
        minutes: No cell is begun after so long, nor one that would end after it if it took as long as the longest of
            its kind so far; None for no limit.
        kind: Names the cells that take about as long as this one.
    """
    begun = time.monotonic()
    limit = math.inf if minutes is None else 60 * minutes
    done = {key(row["cell"]) for row in read_rows(results)}
    waiting = [cell for cell in cells if key(cell) not in done]
    print(f"{len(cells) - len(waiting)} of {len(cells)} cells are there", flush=True)
    longest: dict[str, float] = {}
    finished = failed = 0
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_one_thread) as pool:
        running: dict[Future, tuple[Cell, float]] = {}
        while waiting or running:
            while waiting and len(running) < jobs:
                cell = waiting.pop(0)
                if time.monotonic() - begun + longest.get(kind(cell), 0.0) < limit:
                    running[pool.submit(train, cell)] = cell, time.monotonic()
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                cell, start = running.pop(future)
                seconds = time.monotonic() - start
                longest[kind(cell)] = max(longest.get(kind(cell), 0.0), seconds)
                try:
                    measured = future.result()
                except Exception as error:
                    failed += 1
                    print(f"FAILED {key(cell)}: {type(error).__name__}: {error}\n{_where(error)}", flush=True)
                    continue
                if measured is not None:
                    finished += 1
                    append(results, {"cell": dict(cell), **measured})
                    print(f"{seconds:6.1f} s  {key(cell)}  {measured.get('says', '')}", flush=True)
    left = len(cells) - len(done & {key(cell) for cell in cells}) - finished
    print(f"{finished} cells trained, {failed} failed, {left} left; {(time.monotonic() - begun) / 60:.1f} minutes")


def _where(error: Exception) -> str:
    """The last lines of what the other process said of its error."""
    told = str(error.__cause__) if error.__cause__ is not None else "".join(traceback.format_exception(error))
    return "\n".join(told.strip().strip('"').strip().splitlines()[-4:])


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed command's cells would go on for nobody, and slow the next command's."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def add_options(parser: argparse.ArgumentParser, seeds: int | None = None, gflops: float | None = None) -> None:
    """The options of every benchmark of cells; where it can plan, ``gflops`` is what a core is taken to do."""
    parser.add_argument("--seeds", type=int, default=seeds, help="how many, from 0")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes, of one thread each")
    parser.add_argument("--minutes", type=float, help="begin no cell that would end after so long")
    if gflops is not None:
        parser.add_argument("--gflops", type=float, default=gflops, help="of a core, for the plan's hours")
        parser.add_argument("--plan", action="store_true", help="say what would be trained")
    parser.add_argument("--report", action="store_true", help="say what was found")


def single_threaded() -> None:
    """Let the processes that follow have one thread each; before torch is imported."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"


def surroundings(device: str) -> dict[str, str]:
    """The device's name and the versions of the libraries."""
    import timm
    import torch

    import coterie

    cuda = device != "cpu" and torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if cuda else f"cpu, {_processor()}",
        "coterie": coterie.__version__,
        "torch": torch.__version__,
        "timm": timm.__version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def paired(differences: Iterable[float]) -> dict[str, float | int | None]:
    """Mean, standard error, two-sided p of a paired t-test, and the 95 % interval of the mean, of differences."""
    values = list(differences)
    if len(values) < 2:
        return {"n": len(values), "mean": round(mean(values), 3) if values else None}
    from scipy.stats import t

    middle, error = mean(values), stdev(values) / math.sqrt(len(values))
    freedom = len(values) - 1
    half = float(t.ppf(0.975, freedom)) * error
    p = 2 * float(t.sf(abs(middle) / error, freedom)) if error > 0 else (1.0 if middle == 0 else 0.0)
    return {
        "n": len(values),
        "mean": round(middle, 3),
        "standard_error": round(error, 3),
        "p": round(p, 4),
        "interval": [round(middle - half, 3), round(middle + half, 3)],
    }


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows as a table with the columns of all of them."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [columns, *([_text(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    for line in cells:
        print("  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)))


def publish(tables: Mapping[str, Sequence[Mapping[str, Any]]], path: Path, command: str) -> None:
    """Print tables, and write them beside the command that makes them."""
    for name, table in tables.items():
        print(f"\n{name}")
        show(table)
    path.write_text(json.dumps({"command": command, **tables}, indent=1) + "\n")


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 1e4 else f"{value:.3g}"
    return "" if value is None else str(value)
