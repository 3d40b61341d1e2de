"""Study files: found by name or path, checked, and made into a Study."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields, replace
from importlib.resources import files
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints, is_typeddict

import yaml

from coterie.errors import UserError, unknown_name
from coterie.files import user_path
from coterie.studies.analyses import CURVES, MEASURES
from coterie.studies.study import Claim, Published, Scale, Side, Study, Table

T = TypeVar("T")

# How an annotation's kind is written: the types that YAML then gives, and words for people.
_WRITTEN: dict[Any, tuple[tuple[type, ...], str]] = {
    str: ((str,), "text, in quotes"),
    Literal: ((str,), "text, in quotes"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    bool: ((bool,), "true or false"),
    tuple: ((list, tuple), "a list"),
    dict: ((dict,), "a mapping of names to values"),
    NoneType: ((NoneType,), "nothing"),
}
# Options of others, such as a method's: what a results file can hold.
_OPTION = str | float | bool | None | tuple[Any, ...] | dict[Any, Any]

_OWN = Path(str(files("coterie.studies"))) / "files"


def study_names() -> list[str]:
    """The studies that come with the package."""
    return sorted(path.stem for path in _OWN.glob("*.yaml"))


def load_study(name: str) -> Study:
    """A study of the package by name, or one's own by its file.

    Raises:
        UserError: There is none, or the file is wrong: it names the file and what in it.
    """
    path = user_path(name) if name.endswith((".yaml", ".yml")) else _OWN / f"{name}.yaml"
    if path.parent == _OWN and not path.is_file():
        raise unknown_name("study", name, study_names())
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read; name a YAML file, or one of {', '.join(study_names())}") from error
    except (yaml.YAMLError, ValueError) as error:  # a ValueError of a date that is none, such as 2024-13-01
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())[:120]})") from error
    try:
        return _study(path.stem, content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _study(name: str, content: Any) -> Study:
    _known("the study", content, ("title", "source", "about", "claims", "small", "paper"), ("title",))
    for key in ("title", "source", "about"):
        _check(key, content.get(key, ""), str)
    scales = {scale: _scale(scale, content[scale]) for scale in ("small", "paper") if scale in content}
    if not scales:
        raise UserError("it has no scale; write 'small:' with data, networks, rows and tables")
    for scale in scales.values():
        for row, own in scale.rows.items():  # scales may share rows, with budgets for the data of each
            _among(f"data set in budgets of row '{row}'", own.get("budgets", {}), _names("data", scales.values()))
    _check("claims", content.get("claims") or [], tuple[Claim, ...])
    claims = tuple(_claim(each, scales.values()) for each in content.get("claims") or ())
    return Study(name, content["title"], content.get("source", ""), content.get("about", ""), claims, scales)


def _scale(name: str, content: Any) -> Scale:
    if isinstance(content, dict) and content.get("common", {}) is None:  # nothing but comments is below it
        content = {**content, "common": {}}
    made = _made(Scale, name, {**content, "tables": ()} if isinstance(content, dict) else content)
    if made.seeds < 1:
        raise UserError(f"{name}: seeds is {made.seeds}; use 1 or more")
    for row, own in made.rows.items():
        if "experiment" in own:
            _known(f"{name}, row '{row}'", own, ("experiment",))
        if "name" not in own.get("experiment", own.get("method", {})):
            raise UserError(f"{name}: row '{row}' names no method; write 'method: {{name: one}}'")
    _check(f"{name}, tables", content.get("tables") or None, tuple[Table, ...])
    return replace(made, tables=tuple(_table(name, each) for each in content["tables"]))


def _table(scale: str, content: Mapping[str, Any]) -> Table:
    where = f"{scale}, table '{content.get('name', '?')}'"
    _check(f"{where}, published", content.get("published") or [], tuple[Published, ...])
    published = [_made(Published, f"{where}, published", each) for each in content.get("published") or ()]
    table = _made(Table, where, {**content, "published": tuple(published)})
    for kind in ("data", "networks", "rows"):
        if not getattr(table, kind):
            raise UserError(f"{where}, {kind} is empty; name at least one")
    _among(f"row of published in {where}", [each.row for each in published], table.rows)
    _among(f"row of minutes in {where}", table.minutes if isinstance(table.minutes, dict) else (), table.rows)
    _among(f"measure in {where}", table.measures, [*MEASURES, CURVES])
    return Table(**{each.name: _tuple(getattr(table, each.name)) for each in fields(Table)})


def _claim(content: Mapping[str, Any], scales: Collection[Scale]) -> Claim:
    where = f"claim '{content.get('says', '?')}'"
    _known(where, content, [each.name for each in fields(Claim)], ("says", "by", "than"))
    sides = {side: content[side] for side in ("by", "than")}
    for side, value in sides.items():
        if isinstance(value, Mapping):
            sides[side] = made = _made(Side, f"{where}, {side}", value)
            _among(f"row in {where}", [made.row], _names("rows", scales))
            _among(f"network in {where}", [made.network] if made.network else [], _names("networks", scales))
    claim = _made(Claim, where, {**content, **sides, "data": _tuple(content.get("data"))})
    _among(f"data set in {where}", claim.data or (), _names("data", scales))
    _among(f"expectation in {where}", [claim.expect], ("lower", "higher", "same"))
    if claim.expect == "same" and claim.margin is None:
        raise UserError(f"{where}: 'same' needs a margin, in the units of the metric")
    return claim


def _made(kind: type[T], where: str, content: Any) -> T:
    _keys(kind, where, content)
    try:
        return kind(**content)
    except TypeError as error:
        missing = str(error).partition(":")[2].strip() or str(error)
        raise UserError(f"{where}: {missing} is missing") from error


def _keys(kind: type, where: str, content: Any) -> None:
    """Refuse keys that are no fields of a dataclass or TypedDict, and values of another type."""
    hints = get_type_hints(kind)
    _known(where, content, hints)
    for name, value in content.items():
        _check(f"{where}, {name}", value, hints[name])


def _check(where: str, value: Any, hint: Any) -> None:
    """Refuse a value that is not what an annotation says, or in which something is not."""
    whole = _OPTION if hint is Any else hint
    hints = get_args(whole) if isinstance(whole, UnionType) else (whole,)
    said = next((each for each in hints if _fits(value, each)), None)
    if said is None:
        words = [_written(each)[1] for each in hints if each is not NoneType]
        raise UserError(f"{where} is {_shown(value)}; write {' or '.join(words[:1] if hint is Any else words)}")
    kind, inner = get_origin(said) or said, get_args(said)
    if is_typeddict(kind):
        _keys(kind, where, value)
    elif kind is tuple:
        for place, each in enumerate(value, 1):
            _check(f"{where}, item {place}", each, inner[0])
    elif kind is dict:
        _check_names(where, value, inner[0])
        for name, each in value.items():
            _check(f"{where}, {name}", each, inner[1])


def _check_names(where: str, content: Mapping[Any, Any], hint: Any) -> None:
    """Refuse names that JSON would make into text; an option may be by numbers, such as ``noise_map``."""
    if hint is Any and all(type(name) is int for name in content):
        return
    for name in content:
        if not isinstance(name, str):
            text = {True: "yes", False: "no"}[name] if isinstance(name, bool) else name
            raise UserError(f"{where}: {name} is no text; write '\"{text}\"'")


def _fits(value: Any, hint: Any) -> bool:
    types = _written(hint)[0]
    return isinstance(value, types) and (bool in types or not isinstance(value, bool))


def _written(hint: Any) -> tuple[tuple[type, ...], str]:
    kind = get_origin(hint) or hint
    if kind in _WRITTEN:
        return _WRITTEN[kind]
    return (dict,) if is_typeddict(kind) else (dict, kind), f"a mapping of {', '.join(get_type_hints(kind))}"


def _known(where: str, content: Any, names: Iterable[str], needed: Iterable[str] = ()) -> None:
    if not isinstance(content, Mapping):
        raise UserError(f"{where} is {_shown(content)}; write a mapping of names to values")
    _among(f"key of {where}", map(str, content), list(names))
    for name in needed:
        if name not in content:
            raise UserError(f"{where}: '{name}' is missing")


def _among(kind: str, names: Iterable[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise unknown_name(kind, name, known)


def _names(kind: Literal["data", "networks", "rows"], scales: Iterable[Scale]) -> list[str]:
    return [name for scale in scales for name in getattr(scale, kind)]


def _shown(value: Any) -> str:
    if value is None:
        return "empty"
    text = repr(value) if isinstance(value, str | list | dict) else str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
