"""Study files: found by name or path, checked, and made into a Study."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import yaml

from coterie.errors import UserError, unknown_name
from coterie.studies.analyses import CURVES, MEASURES
from coterie.studies.study import Claim, Published, Scale, Side, Study, Table

T = TypeVar("T")

_OWN = Path(str(files("coterie.studies"))) / "files"


def study_names() -> list[str]:
    """The studies that come with the package."""
    return sorted(path.stem for path in _OWN.glob("*.yaml"))


def load_study(name: str) -> Study:
    """A study of the package by name, or one's own by its file.

    Raises:
        UserError: There is none, or the file is wrong: it names the file and what in it.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else _OWN / f"{name}.yaml"
    if path.parent == _OWN and not path.is_file():
        raise unknown_name("study", name, study_names())
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read; name a YAML file, or one of {', '.join(study_names())}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())[:120]})") from error
    try:
        return _study(path.stem, content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _study(name: str, content: Any) -> Study:
    _known("the study", content, ("title", "source", "about", "claims", "small", "paper"), ("title",))
    scales = {scale: _scale(scale, content[scale]) for scale in ("small", "paper") if scale in content}
    if not scales:
        raise UserError("it has no scale; write 'small:' with data, networks, rows and tables")
    claims = tuple(_claim(each, scales.values()) for each in content.get("claims") or ())
    return Study(name, content["title"], content.get("source", ""), content.get("about", ""), claims, scales)


def _scale(name: str, content: Any) -> Scale:
    made = _made(Scale, name, {**content, "tables": ()} if isinstance(content, dict) else content)
    for row, options in made.rows.items():
        if not isinstance(options, dict) or not ("experiment" in options or "name" in options.get("method", {})):
            raise UserError(f"{name}: row '{row}' names no method; write 'method: {{name: one}}'")
    tables = [_table(name, each) for each in content.get("tables") or ()]
    return Scale(**{**content, "tables": tuple(tables)})


def _table(scale: str, content: Any) -> Table:
    where = f"{scale}, table '{content.get('name', '?')}'" if isinstance(content, dict) else scale
    published = [_made(Published, f"{where}, published", each) for each in (content or {}).get("published") or ()]
    table = _made(Table, where, {**content, "published": tuple(published)})
    for measure in table.measures:
        if measure not in (known := [*MEASURES, CURVES]):
            raise unknown_name(f"measure in {where}", str(measure), known)
    return Table(**{each.name: _tuple(getattr(table, each.name)) for each in fields(Table)})


def _claim(content: Any, scales: Iterable[Scale]) -> Claim:
    where = f"claim '{content.get('says', '?')}'" if isinstance(content, dict) else "a claim"
    _known(where, content, [each.name for each in fields(Claim)], ("says", "by", "than"))
    sides = {side: content[side] for side in ("by", "than")}
    for side, value in sides.items():
        if isinstance(value, Mapping):
            sides[side] = _made(Side, f"{where}, {side}", value)
            if not any(sides[side].row in scale.rows for scale in scales):
                raise unknown_name(f"row in {where}", sides[side].row, [row for scale in scales for row in scale.rows])
    claim = _made(Claim, where, {**content, **sides, "data": _tuple(content.get("data"))})
    if claim.expect not in ("lower", "higher", "same"):
        raise unknown_name(f"expectation in {where}", str(claim.expect), ("lower", "higher", "same"))
    if claim.expect == "same" and claim.margin is None:
        raise UserError(f"{where}: 'same' needs a margin, in the units of the metric")
    return claim


def _made(kind: type[T], where: str, content: Any) -> T:
    names = [each.name for each in fields(kind)]  # type: ignore[arg-type]
    _known(where, content, names)
    try:
        return kind(**content)
    except TypeError as error:
        missing = str(error).partition(":")[2].strip() or str(error)
        raise UserError(f"{where}: {missing} is missing") from error


def _known(where: str, content: Any, names: Iterable[str], needed: Iterable[str] = ()) -> None:
    if not isinstance(content, Mapping):
        raise UserError(f"{where} is '{content}'; write a mapping of names to values")
    for name in content:
        if name not in set(names):
            raise unknown_name(f"key of {where}", str(name), names)
    for name in needed:
        if name not in content:
            raise UserError(f"{where}: '{name}' is missing")


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
