"""``metrics.csv``: what was measured while a Run trained, a row an epoch."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from coterie.errors import UserError, show_value
from coterie.files import read_text, write_text

Row = dict[str, float | int | str]


def read_metrics(path: Path) -> list[Row]:
    """The rows of a ``metrics.csv``, numbers as numbers; none where the file is missing.

    Raises:
        UserError: It is no such table.
    """
    if not path.is_file():
        return []
    mend = "train the run again"
    try:
        table = list(csv.DictReader(io.StringIO(read_text(path, mend))))
    except csv.Error as error:
        raise UserError(f"{path}: no table of comma-separated values ({error}); {mend}") from error
    rows: list[Row] = []
    for line, texts in enumerate(table, 2):
        row = {key: _number(value) for key, value in texts.items() if key is not None and value}
        for key, value in row.items():
            if isinstance(value, str) != (key == "stage") or (key == "epoch" and not isinstance(value, int)):
                raise UserError(f"{path}, line {line}: {key} is {show_value(value)}; {mend}")
        if not {"stage", "epoch"} <= row.keys():
            raise UserError(f"{path}, line {line}: 'stage' or 'epoch' is missing; {mend}")
        rows.append(row)
    return rows


def write_metrics(path: Path, rows: Sequence[Mapping[str, float | int | str]]) -> None:
    """Write rows, whole, with the union of their columns in the order of first appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _number(text: str) -> float | int | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
