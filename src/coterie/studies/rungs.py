"""The arms and tables of a scale's frontiers: an arm for each length of training, a table for each rung."""

import re
from dataclasses import dataclass, field, fields, replace
from typing import Any

from coterie.errors import unknown_name
from coterie.recipes import Modern
from coterie.studies.ladder import Frontier, Rung, name_arm
from coterie.studies.results import Results
from coterie.studies.study import Arm, Scale, Table, named_recipe


@dataclass(frozen=True)
class Laddered(Scale):
    """A scale with the arms of its frontiers' rungs.

    Attributes:
        fitted: By data set, network and name, an arm as a rung has it: two frontiers may give arms of the same name and
            length other recipes, and teachers of other lengths.
    """

    fitted: dict[tuple[str, str, str], Arm] = field(default_factory=dict)

    def arm_of(self, data: str, network: str, name: str) -> Arm:
        """What an arm has on a data set and a network."""
        return self.fitted.get((data, network, name)) or super().arm_of(data, network, name)


def with_rungs(scale: Scale) -> Laddered:
    """The same scale with an arm ``NAME N epochs`` for each arm on each rung of its frontiers, and a table a rung.

    Raises:
        UserError: A frontier names what the scale does not have, or whole epochs do not cost the same.
    """
    arms, fitted, tables = dict(scale.arms), dict[tuple[str, str, str], Arm](), list(scale.tables)
    for frontier in scale.frontiers:
        _check_names(frontier, scale)
        for rung in frontier.ladder():
            for arm, epochs in rung.epochs.items():
                name = name_arm(arm, epochs)
                trained, teachers = _on_rung(scale, frontier, rung, arm)
                arms |= {name: {**scale.arms[arm], "epochs": epochs}, **teachers}
                fitted[frontier.data, frontier.network, name] = trained
            tables.append(_table(frontier, rung))
    own = {each.name: getattr(scale, each.name) for each in fields(Scale)}
    return Laddered(**{**own, "arms": arms, "tables": tuple(tables)}, fitted=fitted)


def _check_names(frontier: Frontier, scale: Scale) -> None:
    for kind, names, known in (
        ("data set", [frontier.data], scale.data),
        ("network", [frontier.network], scale.networks),
        ("arm", frontier.costs, scale.arms),
    ):
        for name in names:
            if name not in known:
                raise unknown_name(f"{kind} in a frontier", name, known)


def _table(frontier: Frontier, rung: Rung) -> Table:
    return Table(
        f"{frontier.title}: {rung.budget:g} epochs of '{next(iter(frontier.costs))}'",
        (frontier.data,),
        (frontier.network,),
        tuple(name_arm(arm, epochs) for arm, epochs in rung.epochs.items()),
        minutes=frontier.minutes * rung.budget / frontier.epochs,
    )


def _on_rung(scale: Scale, frontier: Frontier, rung: Rung, arm: str) -> tuple[Arm, dict[str, Arm]]:
    """An arm on a rung, and its teacher there by its name if it trains one."""
    own, taught, made = dict(scale.arms[arm].get("method", {})), rung.taught.get(arm), dict[str, Arm]()
    for option, value in own.items():
        if taught is not None and isinstance(value, str) and value.startswith("@"):
            teacher, *rest = re.split("(?=[/:])", value[1:], maxsplit=1)
            if teacher not in scale.arms:
                raise unknown_name(f"arm in '{value}'", teacher, scale.arms)
            made[name_arm(teacher, taught)] = {**scale.arms[teacher], "epochs": taught}
            own[option] = f"@{name_arm(teacher, taught)}{''.join(rest)}"
    trained: Arm = {**scale.arms[arm], "epochs": rung.epochs[arm]}
    if own:
        trained["method"] = own
    if recipe := _equally_strong(scale, frontier, rung, arm):
        trained["recipe"] = recipe
    return trained, made


def _equally_strong(scale: Scale, frontier: Frontier, rung: Rung, arm: str) -> dict[str, Any] | None:
    """The recipe that the first arm has on a rung, however many epochs this one can pay; None where none is fitted."""
    common: dict[str, Any] = {**scale.common, **scale.budgets.get(frontier.data, {}), **scale.arms[arm]}
    recipe = named_recipe(common.get("recipe"), scale.networks[frontier.network])
    fitted = {"name": Modern.name, "strength_epochs": round(rung.budget)} | recipe
    return fitted if recipe["name"] == Modern.name else None


def beside_rungs(scale: Scale, results: Results) -> tuple[tuple[Table, ...], Results]:
    """The tables and the trials of a scale that are not of its frontiers, which have pictures of their own."""
    rungs = [_table(frontier, rung) for frontier in scale.frontiers for rung in frontier.ladder()]
    places = {(table.data, table.networks, arm) for table in rungs for arm in table.arms}
    trials = [each for each in results.trials if ((each.data,), (each.network,), each.arm) not in places]
    return tuple(table for table in scale.tables if table not in rungs), replace(results, trials=trials)
