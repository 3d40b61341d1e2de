"""How long a comparison may take, and what that buys: rungs of a ladder, epochs, seeds."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from coterie.data.say import plural
from coterie.errors import UserError
from coterie.studies.ladder import match_epochs

RATIO = 1.6  # of a rung's budget to that below
_LOWER_SEEDS = 2  # on each rung below the highest: for the curve, and for who stays
# How many rungs lie below the highest, and the shortest training of the network alone that has so many.
_LOWER = {3: 40, 2: 30, 1: 20, 0: 8}
_SEEDS, _FEWEST, _MOST = 5, 3, 20  # on the highest rung: wanted; without which nothing is told; at most
_LONGEST = 300  # epochs of the network alone on the highest rung, where the budget decides
_SHORT = 40  # epochs below which arms are dropped on the way, so that the others get more
_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}


def parse_duration(text: str) -> float:
    """Seconds of a time such as ``2h``, ``90m`` or ``1h30m``.

    Raises:
        UserError: It is none, or is 0.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([dhms])[a-z]*", text.strip().lower())
    rest = re.sub(r"(\d+(?:\.\d+)?)\s*([dhms])[a-z]*\s*", "", text.strip().lower())
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if rest or seconds <= 0:
        raise UserError(f"⟨budget {text}⟩ is no time; write ⟨budget 2h⟩, ⟨budget 90m⟩ or ⟨budget 1h30m⟩")
    return seconds


@dataclass(frozen=True)
class Cost:
    """What an arm's training costs here.

    Attributes:
        flops: Of an epoch.
        fixed_flops: Of what is trained for a length of its own, such as a linear probe.
        seconds: Of an epoch, one training beside as many others as will run side by side.
        fixed_seconds: Of the rest: building, reading, a linear probe, the test images.
    """

    flops: float
    fixed_flops: float
    seconds: float
    fixed_seconds: float


@dataclass(frozen=True)
class PlannedRung:
    """A rung of the plan.

    Attributes:
        epochs: By arm.
        seeds: How many.
        arms: How many arms are trained on it, the network alone among them.
        seconds: Of a training, by arm.
    """

    epochs: dict[str, int]
    seeds: int
    arms: int
    seconds: dict[str, float]

    @property
    def total(self) -> float:
        """Core-seconds of the rung; of arms that are dropped before it the cheapest."""
        first, *others = self.seconds.values()
        return self.seeds * (first + sum(sorted(others, reverse=True)[: self.arms - 1]))


@dataclass(frozen=True)
class Plan:
    """What a comparison trains.

    Attributes:
        rungs: The cheapest first.
        epochs: Of the network alone on the lowest rung, as a frontier has them.
    """

    rungs: tuple[PlannedRung, ...]
    epochs: float

    @property
    def total(self) -> float:
        """Core-seconds."""
        return sum(rung.total for rung in self.rungs)

    @property
    def halves(self) -> bool:
        """Whether arms are dropped on the way."""
        return self.rungs[-1].arms < self.rungs[0].arms


def make_plan(
    costs: Mapping[str, Cost], *, seconds: float | None, epochs: int | None, seeds: int | None, workers: int
) -> Plan:
    """As long a training as the budget allows on as many seeds as are wanted, then as many seeds.

    Args:
        costs: By arm, the network alone first.
        seconds: Of the whole comparison, as a clock counts them; None without a limit.
        epochs: Of the network alone on the highest rung; None for what the budget allows, of which there is one then.
        seeds: On the highest rung; None for what the budget allows, 5 without one.
        workers: Trainings side by side.

    Raises:
        UserError: The budget buys no comparison: says what would.
    """
    room = None if seconds is None else seconds * workers
    least: float | None = None
    for count in [seeds] if seeds is not None else [_SEEDS, _FEWEST]:
        for lower, shortest in _LOWER.items():
            for length in [epochs] if epochs is not None else range(_LONGEST, shortest - 1, -1):
                plan = _plan(costs, length, count, lower)
                if plan is None:
                    continue
                least = plan.total if least is None else min(least, plan.total)
                if room is None or plan.total <= room:
                    return plan if room is None or seeds is not None else _more_seeds(plan, room)
    if least is None:
        raise UserError(
            f"⟨epochs {epochs}⟩: near so few no whole epochs of all arms cost the same to 1 %; use more"
            if epochs is not None
            else "no whole epochs of all arms cost the same to 1 %; name other ⟨methods⟩"
        )
    minutes = ceil(least / workers / 60 * 1.1)
    raise UserError(
        f"⟨budget⟩ buys no comparison: {seeds or _FEWEST} seeds of {len(costs)} arms for {epochs or _LOWER[0]} epochs "
        f"of the network alone take about {plural(minutes, 'minute')} here; give ⟨budget {minutes}m⟩, or fewer ⟨epochs⟩"
    )


def _plan(costs: Mapping[str, Cost], length: int, seeds: int, lower: int) -> Plan | None:
    """A plan with so many rungs below the highest; None where whole epochs of the arms do not cost the same."""
    first = round(length / RATIO**lower, 4)
    arms, rungs = len(costs), []
    for number in range(lower + 1):
        relative, fixed = relative_costs(costs)
        found = match_epochs(first * RATIO**number, relative, fixed)
        if found is None or first < 4:
            return None
        seconds = {arm: found[1][arm] * cost.seconds + cost.fixed_seconds for arm, cost in costs.items()}
        rungs.append(PlannedRung(found[1], seeds if number == lower else _LOWER_SEEDS, arms, seconds))
        if length < _SHORT and arms > 2 and number < lower:
            arms = 1 + ceil((arms - 1) / 2)
    return Plan(tuple(rungs), first)


def relative_costs(costs: Mapping[str, Cost]) -> tuple[dict[str, float], dict[str, float]]:
    """Of an epoch, and beside the epochs: by arm, in FLOPs of an epoch of the first arm."""
    unit = next(iter(costs.values())).flops
    own = {arm: round(cost.flops / unit, 4) for arm, cost in costs.items()}
    return own, {arm: round(cost.fixed_flops / unit, 4) for arm, cost in costs.items() if cost.fixed_flops}


def _more_seeds(plan: Plan, room: float) -> Plan:
    """The same with more seeds on the highest rung, as many as there is room for."""
    *lower, top = plan.rungs
    more = int((room - plan.total) / (top.total / top.seeds))
    seeds = min(_MOST, top.seeds + max(0, more))
    return Plan((*lower, PlannedRung(top.epochs, seeds, top.arms, top.seconds)), plan.epochs)


def keep_better(errors: Mapping[str, Sequence[float]], arms: int) -> list[str]:
    """The arms that go on to the next rung: the first, and of the others those with the lowest mean error.

    Args:
        errors: By arm, validation errors on a rung, the network alone first; empty for an arm that failed.
        arms: How many go on.
    """
    first, *others = errors
    measured = [arm for arm in others if errors[arm]]
    best = sorted(measured, key=lambda arm: sum(errors[arm]) / len(errors[arm]))[: arms - 1]
    return [first, *(arm for arm in others if arm in best)]
