"""A study's results as a file that a stopped study goes on with."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from coterie.errors import UserError
from coterie.files import read_json, write_text

R = TypeVar("R")


def load_rows(path: Path, make: Callable[..., R]) -> list[R]:
    """The rows of an earlier run; none where there is no file.

    Raises:
        UserError: The file is no such table, or is finished and holds a part of it only.
    """
    if not path.exists():
        return []
    try:
        content = read_json(path, "name another file")
        rows = [make(**{key: _tuple(value) for key, value in row.items()}) for row in content["rows"]]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"⟨out {path}⟩: not a table of this study; name another file") from error
    if len(content) > 1:  # what is said of all rows, see `save_rows`
        raise UserError(f"⟨out {path}⟩: this study is finished; name another file to run it again")
    return rows


def save_rows(path: Path, rows: Iterable[Any], **head: Any) -> None:
    """Write rows, one on a line, after what is said of all of them."""
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    body = ",\n".join(json.dumps(asdict(row)) for row in rows)
    write_text(path, "{" + ",\n".join([*lines, f'"rows": [\n{body}\n]']) + "}\n")


def going_on(
    names: list[tuple[str, str]], done: list[R], run: Callable[[list[tuple[str, str]]], Iterator[R]], path: Path
) -> Iterator[R]:
    """Run what is not done yet, and write every new row at once.

    Args:
        names: (family, name) of everything.
        done: Rows of an earlier run, extended in place.
        run: The study.
        path: Where rows are written.
    """
    known = {row.name for row in done}  # type: ignore[attr-defined]
    for row in run([pair for pair in names if pair[1] not in known]):
        done.append(row)
        save_rows(path, done)
        yield row


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
