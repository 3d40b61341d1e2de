"""Predictions as a file: CSV or JSON Lines, whole or not at all."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from coterie.checking import check_value
from coterie.data.say import escape, is_printable
from coterie.deploy.prediction import Prediction
from coterie.errors import UserError
from coterie.files import replacing

Writer = Callable[[Prediction], None]


def results_path(out: str | Path) -> Path:
    """The path of a file of predictions.

    Raises:
        UserError: Its name ends in neither ``.csv`` nor ``.jsonl``, or it is a folder.
    """
    path: Path = check_value("⟨out⟩", out, Path)
    if path.is_dir():
        raise UserError(f"{escape(path)}: is a folder; name a file in it, ending in .csv or .jsonl")
    if path.suffix not in (".csv", ".jsonl"):
        raise UserError(f"⟨out {escape(path)}⟩: the name of a file of predictions ends in .csv or .jsonl")
    return path


@contextmanager
def results_file(path: Path, columns: int, facts: Mapping[str, Any] | None = None) -> Iterator[Writer]:
    """Write predictions one by one to a file beside ``path``, which takes its place when the block succeeds.

    Args:
        path: As :func:`results_path` gives it.
        columns: How many classes each prediction names.
        facts: What is true of all of them, which each line of JSON says.
    """
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        yield _csv_writer(file, columns) if path.suffix == ".csv" else _lines_writer(file, facts or {})


def _csv_writer(file: IO[str], columns: int) -> Writer:
    """Rows ``path, class1, probability1, …``; control characters of names as escapes, as they may steer a terminal."""
    table = csv.writer(file, lineterminator="\n")
    table.writerow(["path", *(f"{name}{place + 1}" for place in range(columns) for name in ("class", "probability"))])

    def write(said: Prediction) -> None:
        pairs = zip(said.classes, said.probabilities, strict=True)
        cells = [cell for name, value in pairs for cell in (escape(name), f"{value:.6g}")]
        table.writerow([escape(said.path or ""), *cells])

    return write


def _lines_writer(file: IO[str], facts: Mapping[str, Any]) -> Writer:
    """A JSON object a line; JSON's own escapes stand for control characters and bytes that are no UTF-8."""

    def write(said: Prediction) -> None:
        content = {
            "path": None if said.path is None else str(said.path),
            "classes": said.classes,
            "probabilities": [float(f"{value:.6g}") for value in said.probabilities],
            **facts,
        }
        plain = all(map(is_printable, (str(said.path), *said.classes)))
        file.write(json.dumps(content, ensure_ascii=not plain) + "\n")

    return write
