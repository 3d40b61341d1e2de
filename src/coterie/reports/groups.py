"""Runs of one experiment: alike in everything that can change the result but the seed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Any

from coterie.methods import METHODS
from coterie.records import AVERAGE, Card
from coterie.run import Run

# What cannot change a result, but for the last digits.
_FREE = ("seed", "threads", "device", "compile", "test_every", "timeout_minutes", "track", "tensorboard")
FREE_OF_DATA = ("root", "workers", "memory_gb", "cache_gb", "download")
_MOST_NAMED = 3  # options in a name; where more differ the folder is shorter


@dataclass(frozen=True)
class Group:
    """One experiment.

    Attributes:
        runs: In the order of their seeds.
        settings: Option to value, of all that can change the result.
        difference: What tells it from the page's other groups, as it follows a name; empty where the method does.
    """

    runs: tuple[Run, ...]
    settings: Mapping[str, str]
    difference: str = ""

    @cached_property
    def card(self) -> Card:
        """Of the first run."""
        return self.runs[0].card

    @property
    def method(self) -> str:
        """Its name."""
        return self.card["method"]

    @property
    def is_baseline(self) -> bool:
        """Whether the network was trained alone."""
        return is_baseline(self.method)

    @property
    def default(self) -> str:
        """What is deployed unless another is asked for."""
        return self.card["deliverables"][0]

    @property
    def delivers(self) -> str:
        """The same, whether its weights are averaged or not."""
        return self.default.removesuffix(AVERAGE)

    @property
    def name(self) -> str:
        """Of the experiment."""
        return self.method + self.difference

    @cached_property
    def by_seed(self) -> dict[int, Run]:
        """One run for each seed: a repetition is no further sample."""
        found = {run.config["seed"]: run for run in reversed(self.runs)}
        return dict(sorted(found.items()))

    def row(self, peer: str) -> str:
        """What tables call a peer."""
        alone = f"{self.card['network'] or 'own module'} alone{_averaged(peer)}{self.difference}"
        return alone if self.is_baseline else f"{self.name}: {peer}"

    def label(self, peer: str) -> str:
        """What plots call a peer."""
        if self.is_baseline:
            return f"alone{_averaged(peer)}{self.difference}"
        return f"{self.name} {peer}"

    @property
    def colour_names(self) -> dict[str, str]:
        """What plots call its peers, and the name by which each has its colour."""
        peers = dict.fromkeys((*self.card["test"], *self.card["peers"], "ensemble"))
        return {self.label(peer): name_part(self.method, peer, self.difference) for peer in peers}


def name_part(method: str, peer: str, difference: str = "") -> str:
    """The name by which a method's peer has its colour; see :mod:`coterie.reports.drawing.colours`."""
    if is_baseline(method):
        return f"alone{_averaged(peer)}{difference}"
    return f"{method}{difference}" + ("" if peer == "target" else f" {peer}")


def _averaged(peer: str) -> str:
    return ", averaged" if peer.endswith(AVERAGE) else ""


def is_baseline(method: str) -> bool:
    """Whether a method, by name, trains the network alone; one that is not known here does not."""
    return method in METHODS and METHODS[method].baseline


def group_runs(runs: Iterable[Run]) -> list[Group]:
    """Runs by experiment, in the order of the first of each, each named by what differs."""
    by_key: dict[tuple[Any, ...], list[Run]] = {}
    settings_of: dict[tuple[Any, ...], dict[str, str]] = {}
    for run in runs:
        settings = _settings(run)
        # A network of the user's own has no name: its size tells it from another.
        own = () if run.card["network"] else tuple(sorted(run.card["cost"][run.card["deliverables"][0]].items()))
        key = (*sorted(settings.items()), own)
        by_key.setdefault(key, []).append(run)
        settings_of[key] = settings
    groups = [
        Group(tuple(sorted(found, key=lambda run: run.config["seed"])), settings_of[key])
        for key, found in by_key.items()
    ]
    named = [replace(group, difference=_difference(group, groups)) for group in groups]
    names = [(group.method, group.difference) for group in named]
    return [
        group if names.count(name) == 1 else replace(group, difference=_folder(group, named))
        for group, name in zip(named, names, strict=True)
    ]


def find_baseline(group: Group, groups: Sequence[Group]) -> tuple[Group, list[str]] | None:
    """The same network alone on the same data, trained as alike as there is, and the options that differ; or None."""
    found = [
        (other, _find_differences(_beside_method(group), _beside_method(other)))
        for other in groups
        if other.is_baseline and not group.is_baseline and other.card["network"] == group.card["network"]
    ]
    found = [pair for pair in found if not any(key.startswith(("data.", "network.")) for key in pair[1])]
    return min(found, key=lambda pair: len(pair[1]), default=None)


def _settings(run: Run) -> dict[str, str]:
    config = {key: value for key, value in run.config.items() if key not in _FREE}
    config["data"] = {key: value for key, value in (run.config["data"] or {}).items() if key not in FREE_OF_DATA}
    return dict(_flat(config))


def _flat(value: Any, place: str = "") -> Iterable[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{place}.{key}".lstrip("."))
    else:
        yield place, str(value)


def _beside_method(group: Group) -> dict[str, str]:
    return {key: value for key, value in group.settings.items() if not key.startswith("method.")}


def _find_differences(ours: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    keys = [key for key in dict.fromkeys((*ours, *theirs)) if ours.get(key) != theirs.get(key)]
    # Another recipe has other options: its name says it.
    return (
        [key for key in keys if key == "recipe.name" or not key.startswith("recipe.")]
        if "recipe.name" in keys
        else keys
    )


def _difference(group: Group, groups: Sequence[Group]) -> str:
    keys = {"network.name"} if len({each.settings.get("network.name") for each in groups}) > 1 else set[str]()
    for one, other in combinations(groups, 2):
        if one.method == other.method:  # what tells two of a method apart is said of all methods
            keys |= set(_find_differences(one.settings, other.settings))
    if group.is_baseline:
        keys.discard("network.name")  # its name says it
    named = [_name_option(key, value) for key, value in sorted(group.settings.items()) if key in keys]
    return _folder(group, groups) if len(named) > _MOST_NAMED else "".join(f", {text}" for text in named)


def _name_option(key: str, value: str) -> str:
    return value if key.endswith(".name") else f"{key.removeprefix('method.')} {value}"


def _folder(group: Group, groups: Sequence[Group]) -> str:
    path = group.runs[0].path
    alike = [other for other in groups if other.runs[0].path.name == path.name]
    return f", {path.name if len(alike) == 1 else path}"
