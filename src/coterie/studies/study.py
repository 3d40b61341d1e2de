"""A study as a file: methods × networks × data × seeds, what was published beside, and what is claimed.

The form is explained in ``docs/guides/studies.md``; the published papers' are in ``coterie/studies/files``.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, TypedDict

from coterie.errors import UserError, unknown_name
from coterie.networks.zoo import Backbone
from coterie.recipes import default_recipe
from coterie.studies.claims import Claim, Published
from coterie.studies.ladder import Frontier

Key = tuple[str, str, str, int]  # data, network, arm, seed


@dataclass(frozen=True)
class Table:
    """A part of a scale: every combination of these is a trial.

    Attributes:
        name: As on the page.
        data: Names of data sets of the scale.
        networks: Names of networks of the scale.
        arms: Names of arms of the scale.
        minutes: Core-minutes of a trial, or of each arm's; a trial of which no table says them counts as 1.
        measures: Analyses of what was trained, see ``coterie.studies.analyses``.
        published: Figures to stand beside.
        about: Said on the page.
    """

    name: str
    data: tuple[str, ...]
    networks: tuple[str, ...]
    arms: tuple[str, ...]
    minutes: float | dict[str, float] = field(default_factory=dict)
    measures: tuple[str, ...] = ()
    published: tuple[Published, ...] = ()
    about: str = ""

    def minutes_of(self, arm: str) -> float | None:
        """Core-minutes of a trial of this arm; None where they are not said."""
        return self.minutes.get(arm) if isinstance(self.minutes, dict) else float(self.minutes)


@dataclass(frozen=True)
class Trial:
    """One training, or one experiment.

    Attributes:
        data: Its name in the study.
        network: Its name in the study.
        arm: Its name in the study.
        seed: Of everything.
        configuration: All that is needed to repeat it, as in a Run's ``config.yaml``.
        needs: The trials that train its teachers.
        measures: Analyses of what was trained.
        minutes: Core-minutes that it is expected to take.
        timed: Whether a table says so.
    """

    data: str
    network: str
    arm: str
    seed: int
    configuration: dict[str, Any]
    needs: tuple[Key, ...] = ()
    measures: tuple[str, ...] = ()
    minutes: float = 1.0
    timed: bool = True

    @property
    def key(self) -> Key:
        """What tells it from the study's other trials."""
        return self.data, self.network, self.arm, self.seed

    @property
    def name(self) -> str:
        """As people read it."""
        return "/".join(map(str, self.key))


class Training(TypedDict, total=False):
    """How trials are trained: options of :class:`coterie.training.TrainingOptions`, which has ranges and defaults.

    Attributes:
        recipe: Its ``name``, without which it is the default recipe, and its options.
        test_every: Epochs from one look at the test images to the next; without it the last epoch alone has one.
    """

    epochs: int
    batch_size: int | None
    recipe: dict[str, Any] | None
    precision: str
    threads: int | None
    compile: bool
    test_every: int


class Arm(Training, total=False):
    """What the trials of an arm have beside their scale's ``common``.

    Attributes:
        method: Its ``name``, and its options.
        data: Arguments of :func:`coterie.data.load` that its trials have instead, such as ``augment``.
        experiment: Instead of a method: its ``name``, and its options; nothing else is then said.
        budgets: By data set, what its trials have instead.
    """

    method: dict[str, Any]
    data: dict[str, Any]
    experiment: dict[str, Any]
    budgets: dict[str, Training]


@dataclass(frozen=True)
class Scale:
    """A study at one size.

    Attributes:
        seeds: How many; 0, 1 and so on.
        data: By name, arguments of :func:`coterie.data.load`.
        networks: By name, arguments of :class:`coterie.networks.Backbone`.
        arms: By name, what a trial has beside ``common``: a ``method`` with its options, or an ``experiment``.
        tables: What is run.
        frontiers: Arms on ladders of budgets, each rung of which is a table too (:mod:`coterie.studies.rungs`).
        common: What every trial's configuration has, such as ``epochs`` and ``recipe``.
        budgets: By data set, what its trials have instead, such as ``epochs``; an arm may have ``budgets`` of its own.
        about: Said on the page.
    """

    seeds: int
    data: dict[str, dict[str, Any]]
    networks: dict[str, dict[str, Any]]
    arms: dict[str, Arm]
    tables: tuple[Table, ...]
    frontiers: tuple[Frontier, ...] = ()
    common: Training = field(default_factory=Training)
    budgets: dict[str, Training] = field(default_factory=dict)
    about: str = ""

    def __post_init__(self) -> None:
        for name in self.budgets:
            if name not in self.data:
                raise unknown_name("data set in budgets", name, self.data)
        for table in self.tables:
            for kind in ("data", "networks", "arms"):
                for name in getattr(table, kind):
                    if name not in getattr(self, kind):
                        raise unknown_name(f"one of {kind} in table '{table.name}'", name, getattr(self, kind))

    def arm_of(self, data: str, network: str, name: str) -> Arm:
        """What an arm has on a data set and a network."""
        return self.arms[name]

    def trials(self) -> list[Trial]:
        """Every trial once, teachers before those who learn from them.

        Raises:
            UserError: A teacher is not there, or learns from its student; or it is not said how long to train.
        """
        return list(_Trials(self).all().values())


class _Trials:
    def __init__(self, scale: Scale) -> None:
        self.scale, self.found = scale, dict[Key, Trial]()
        self.begun: list[Key] = []  # trials whose teachers are being looked for

    def all(self) -> dict[Key, Trial]:
        for table in self.scale.tables:
            for seed, *names in product(range(self.scale.seeds), table.data, table.networks, table.arms):
                self.add((names[0], names[1], names[2], seed), table, table.measures)
        return self.found

    def add(self, key: Key, table: Table, measures: tuple[str, ...] = ()) -> Trial:
        """The trial, with the measures of all tables that name it; a teacher may be named by none."""
        if key in self.begun:
            raise UserError(f"table '{table.name}': arm '{key[2]}' learns from itself; name another arm after '@'")
        self.begun.append(key)
        configuration, needs = self.configuration(key, table)
        self.begun.remove(key)
        before = self.found.get(key)
        measures = tuple(dict.fromkeys([*(before.measures if before else ()), *measures]))
        minutes = before.minutes if before and before.timed else table.minutes_of(key[2])
        self.found[key] = Trial(
            *key, configuration, needs, measures, 1.0 if minutes is None else minutes, timed=minutes is not None
        )
        return self.found[key]

    def configuration(self, key: Key, table: Table) -> tuple[dict[str, Any], tuple[Key, ...]]:
        data, network, arm, seed = key
        scale, needs = self.scale, list[Key]()
        own: dict[str, Any] = dict(scale.arm_of(data, network, arm))
        if "experiment" in own:
            return {"experiment": own["experiment"], "seed": seed}, ()
        of_data, images = own.pop("budgets", {}).get(data, {}), own.pop("data", {})
        method = {name: self.filled(value, key, table, needs) for name, value in own["method"].items()}
        found = {**scale.common, **scale.budgets.get(data, {}), **own, **of_data, "method": method}
        if "epochs" not in found:
            raise UserError(f"arm '{arm}' has no epochs on '{data}'; write them in common, in budgets, or in the arm")
        found["recipe"] = named_recipe(found.get("recipe"), scale.networks[network])
        found |= {"network": scale.networks[network], "data": scale.data[data] | images, "seed": seed}
        return found, tuple(needs)

    def filled(self, value: Any, key: Key, table: Table, needs: list[Key]) -> Any:
        """An option whose ``@ARM/NETWORK:PART`` became ``@RUN:PART``, that trial's Run; ``needs`` gets the trial."""
        if isinstance(value, list):
            return [self.filled(each, key, table, needs) for each in value]
        if not (isinstance(value, str) and value.startswith("@")):
            return value
        place, colon, part = value[1:].partition(":")
        arm, _, network = place.partition("/")
        if arm not in self.scale.arms:
            raise unknown_name(f"arm in '{value}'", arm, self.scale.arms)
        if network and network not in self.scale.networks:
            raise unknown_name(f"network in '{value}'", network, self.scale.networks)
        wanted = (key[0], network or key[1], arm, key[3])
        teacher = self.found.get(wanted) or self.add(wanted, table)
        needs.append(wanted)
        return f"@{locate_run(teacher, Path()).name}{colon}{part}"


def named_recipe(recipe: Mapping[str, Any] | None, network: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe with its name, the default's where the study gives none, so that results say which it was."""
    return {"name": default_recipe(Backbone.from_record(network).starts_trained), **(recipe or {})}


def locate_run(trial: Trial, runs: Path) -> Path:
    """Where a trial's Run is: the same place for the same configuration, whatever study asks for it."""
    return runs / name_run(trial.arm, trial.network, trial.data, trial.seed, trial.configuration)


def name_run(arm: str, network: str, data: str, seed: int, configuration: Mapping[str, Any]) -> str:
    """The name of the folder of a Run, other for other configurations."""
    mark = hashlib.sha256(json.dumps(configuration, sort_keys=True).encode()).hexdigest()[:8]
    return f"{arm}-{network}-{data}-{seed}-{mark}".replace("/", "-").replace(" ", "-")


def locate_teachers(configuration: Mapping[str, Any], runs: Path) -> dict[str, Any]:
    """A trial's configuration with its teachers' Runs where they are, so that the same trial may have Runs anywhere."""

    def at(value: Any) -> Any:
        if isinstance(value, list):
            return [at(each) for each in value]
        return str(runs / value[1:]) if isinstance(value, str) and value.startswith("@") else value

    return {**configuration, "method": {name: at(value) for name, value in configuration["method"].items()}}


@dataclass(frozen=True)
class Study:
    """A study.

    Attributes:
        name: Of its file.
        title: Of its page.
        source: The publication.
        about: One to three sentences.
        claims: What is to be told.
        scales: ``small`` fits two cores; ``paper`` is the published protocol.
    """

    name: str
    title: str
    source: str
    about: str
    claims: tuple[Claim, ...]
    scales: dict[str, Scale]

    def scale(self, name: str) -> Scale:
        """The study at this scale.

        Raises:
            UserError: It has none of this name.
        """
        if name not in self.scales:
            raise unknown_name(f"scale of study '{self.name}'", name, self.scales)
        return self.scales[name]
