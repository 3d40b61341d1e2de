"""Study files: found by name or path, checked, and made into a Study."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from coterie.checking import check_names, check_value, make_checked
from coterie.errors import UserError, unknown_name
from coterie.files import read_yaml, user_path
from coterie.studies.analyses import CURVES, MEASURES
from coterie.studies.claims import Claim, Published, Side
from coterie.studies.ladder import Frontier
from coterie.studies.rungs import with_rungs
from coterie.studies.study import Scale, Study, Table

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
    content = read_yaml(path, f"name a YAML file, or one of {', '.join(study_names())}")
    try:
        return _study(path.stem, content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _study(name: str, content: Any) -> Study:
    check_names("the study", content, ("title", "source", "about", "claims", "small", "paper"), ("title",))
    for key, value in content.items():
        _check_plain(key, value)
    for key in ("title", "source", "about"):
        check_value(key, content.get(key, ""), str)
    scales = {scale: _scale(scale, content[scale]) for scale in ("small", "paper") if scale in content}
    if not scales:
        raise UserError("it has no scale; write 'small:' with data, networks, arms and tables")
    for scale in scales.values():
        for arm, own in scale.arms.items():  # scales may share arms, with budgets for the data of each
            _check_among(f"data set in budgets of arm '{arm}'", own.get("budgets", {}), _names("data", scales.values()))
    claims = tuple(_claim(item, scales.values()) for item in _items("claims", content.get("claims") or [], Claim))
    return Study(name, content["title"], content.get("source", ""), content.get("about", ""), claims, scales)


def _scale(name: str, content: Any) -> Scale:
    if isinstance(content, dict) and content.get("common", {}) is None:  # nothing but comments is below it
        content = {**content, "common": {}}
    parts: dict[str, Any] = {"tables": (), "frontiers": ()}
    made = make_checked(Scale, name, {**content, **parts} if isinstance(content, dict) else content)
    if made.seeds < 1:
        raise UserError(f"{name}: seeds is {made.seeds}; use 1 or more")
    for arm, own in made.arms.items():
        if "experiment" in own:
            check_names(f"{name}, arm '{arm}'", own, ("experiment",))
        if "name" not in own.get("experiment", own.get("method", {})):
            raise UserError(f"{name}: arm '{arm}' names no method; write 'method: {{name: one}}'")
    ladders = _items(f"{name}, frontiers", content.get("frontiers") or [], Frontier)
    frontiers = tuple(
        make_checked(Frontier, f"{name}, frontier {place}", each) for place, each in enumerate(ladders, 1)
    )
    tables = _items(f"{name}, tables", content.get("tables") or ([] if frontiers else None), Table)
    made = replace(made, tables=tuple(_table(name, table, made) for table in tables), frontiers=frontiers)
    try:
        return with_rungs(made)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def _table(name: str, content: Mapping[str, Any], scale: Scale) -> Table:
    where = f"{name}, table '{content.get('name', '?')}'"
    items = _items(f"{where}, published", content.get("published") or [], Published)
    published = [make_checked(Published, f"{where}, published", item) for item in items]
    table = make_checked(Table, where, {**content, "published": tuple(published)})
    for kind in ("data", "networks", "arms"):
        if not getattr(table, kind):
            raise UserError(f"{where}, {kind} is empty; name at least one")
        _check_among(f"one of {kind} in {where}", getattr(table, kind), getattr(scale, kind))
    _check_among(f"arm of published in {where}", [each.arm for each in published], table.arms)
    _check_among(f"arm of minutes in {where}", table.minutes if isinstance(table.minutes, dict) else (), table.arms)
    _check_among(f"measure in {where}", table.measures, [*MEASURES, CURVES])
    return Table(**{field.name: _tuple(getattr(table, field.name)) for field in fields(Table)})


def _claim(content: Mapping[str, Any], scales: Collection[Scale]) -> Claim:
    where = f"claim '{content.get('says', '?')}'"
    check_names(where, content, [field.name for field in fields(Claim)], ("says", "by", "than"))
    sides = {side: content[side] for side in ("by", "than")}
    for side, value in sides.items():
        if isinstance(value, Mapping):
            sides[side] = made = make_checked(Side, f"{where}, {side}", value)
            _check_among(f"arm in {where}", [made.arm], _names("arms", scales))
            _check_among(f"network in {where}", [made.network] if made.network else [], _names("networks", scales))
    claim = make_checked(Claim, where, {**content, **sides, "data": _tuple(content.get("data"))})
    _check_among(f"data set in {where}", claim.data or (), _names("data", scales))
    if claim.expect == "same" and claim.margin is None:
        raise UserError(f"{where}: 'same' needs a margin, in the units of the metric")
    return claim


def _check_plain(where: str, value: Any) -> None:
    """Refuse what a results file cannot hold, such as a date, wherever it stands."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            _check_plain(f"{where}, {name}", item)
    elif isinstance(value, list):
        for place, item in enumerate(value, 1):
            _check_plain(f"{where}, item {place}", item)
    elif not isinstance(value, str | int | float | bool | None):
        raise UserError(f"{where} is {value}; write text, in quotes")


def _items(where: str, content: Any, kind: type) -> list[Mapping[str, Any]]:
    """A list of mappings; what each of them holds is checked by who knows its name."""
    items: list[Mapping[str, Any]] = check_value(where, content, list)
    for place, item in enumerate(items, 1):
        if not isinstance(item, Mapping):
            check_value(f"{where}, item {place}", item, kind)  # which refuses it, and says what is to be written
    return items


def _check_among(kind: str, names: Iterable[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise unknown_name(kind, name, known)


def _names(kind: Literal["data", "networks", "arms"], scales: Iterable[Scale]) -> list[str]:
    return [name for scale in scales for name in getattr(scale, kind)]


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
