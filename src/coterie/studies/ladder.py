"""A ladder of budgets: how many epochs each arm has on each rung, so that all cost the same there."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from coterie.bounds import Bounds, NonNegative, Positive, PositiveInt
from coterie.errors import UserError, unknown_name

TOLERANCE = 0.01  # by which costs on a rung may differ
_NEAR = 0.08  # how far from the wanted budget a rung may lie, so that whole epochs of all arms cost the same


@dataclass(frozen=True)
class Teacher:
    """A teacher that is trained on a share of its student's budget.

    Attributes:
        cost: Of one of its epochs, over an epoch of the first arm.
        share: Of the budget.
    """

    cost: Positive
    share: Annotated[float, Bounds(above=0, below=1)]


@dataclass(frozen=True)
class Frontier:
    """Arms of a study on a ladder of budgets, each rung a whole training of its own.

    Attributes:
        data: Name of a data set of the scale.
        network: Name of a network of the scale.
        costs: By arm, the training FLOPs of an epoch over those of the first arm, whose cost is 1. An arm that learns
            from ``@ARM`` has the cost without its teacher's training here.
        epochs: Of the first arm on the lowest rung, about: each rung has the nearest whole number that fits all arms.
        rungs: How many.
        ratio: Of a rung's budget to that below.
        fixed: By arm, what it costs beside its own epochs, such as a linear probe, in epochs of the first arm.
        teachers: By arm, what the teacher that it names as ``@ARM`` or ``@ARM/NETWORK`` costs.
        only: By arm, the rungs on which it is trained, the cheapest being 1; arms that are not named are on every rung,
            as the baseline must be.
        against: The arm that the others are compared with; empty for the first.
        judged_at: Whether arms are compared where the baseline is saturated, or at the highest budget that it has.
        margin: Points of test error within which two arms count as equal.
        minutes: Core-minutes of a trial on the lowest rung.
        about: Said on the page.
    """

    data: str
    network: str
    costs: dict[str, Positive]
    epochs: Annotated[float, Bounds(least=1)]
    rungs: Annotated[int, Bounds(least=1, most=20)] = 4
    ratio: Annotated[float, Bounds(above=1, most=16)] = 1.6
    fixed: dict[str, NonNegative] = field(default_factory=dict)
    teachers: dict[str, Teacher] = field(default_factory=dict)
    only: dict[str, list[PositiveInt]] = field(default_factory=dict)
    against: str = ""
    judged_at: Literal["saturation", "highest"] = "saturation"
    margin: Positive = 0.5
    minutes: Positive = 1.0
    about: str = ""

    def __post_init__(self) -> None:
        if not self.costs or next(iter(self.costs.values())) != 1:
            raise UserError(
                f"costs of the frontier on '{self.data}' begin with no arm of cost 1; write 'alone: 1' first"
            )
        named: dict[str, Iterable[str]] = {
            "fixed": self.fixed,
            "teachers": self.teachers,
            "only": self.only,
            "against": [self.baseline],
        }
        for kind, names in named.items():
            for name in names:
                if name not in self.costs:
                    raise unknown_name(f"arm in {kind} of the frontier on '{self.data}'", name, self.costs)
        for arm, rungs in self.only.items():
            if arm in (next(iter(self.costs)), self.baseline):
                raise UserError(
                    f"only of the frontier on '{self.data}' names '{arm}', which the others are held against on every "
                    "rung; leave it out"
                )
            if not rungs or max(rungs) > self.rungs:
                raise UserError(
                    f"only of the frontier on '{self.data}' has '{arm}' on rungs {rungs}; name some of 1 to "
                    f"{self.rungs}"
                )

    @property
    def baseline(self) -> str:
        """The arm that the others are compared with."""
        return self.against or next(iter(self.costs))

    @property
    def title(self) -> str:
        """As on the page."""
        return f"{self.network} on {self.data}"

    def ladder(self) -> list["Rung"]:
        """All rungs, the cheapest first.

        Raises:
            UserError: Whole epochs of all arms do not cost the same on one of them.
        """
        return [self._rung(number) for number in range(self.rungs)]

    def _rung(self, number: int) -> "Rung":
        wanted = self.epochs * self.ratio**number
        costs = {arm: cost for arm, cost in self.costs.items() if number + 1 in self.only.get(arm, [number + 1])}
        teachers = {arm: each for arm, each in self.teachers.items() if arm in costs}
        taught = {arm: max(1, round(wanted * each.share / each.cost)) for arm, each in teachers.items()}
        fixed = {arm: self.fixed.get(arm, 0.0) for arm in costs}
        for arm, epochs in taught.items():
            fixed[arm] += epochs * teachers[arm].cost
        found = match_epochs(wanted, costs, fixed)
        if found is None:
            raise UserError(
                f"the frontier on '{self.data}': near {wanted:.0f} epochs of '{next(iter(self.costs))}' no whole "
                f"epochs of all arms cost the same to {TOLERANCE:.0%}; begin with more epochs"
            )
        return Rung(number, *found, taught)


@dataclass(frozen=True)
class Rung:
    """A budget.

    Attributes:
        number: From 0, the cheapest.
        budget: In epochs of the first arm.
        epochs: By arm that is trained there.
        taught: By arm that has one, the epochs of its teacher.
    """

    number: int
    budget: float
    epochs: dict[str, int]
    taught: dict[str, int]


def match_epochs(
    wanted: float, costs: Mapping[str, float], fixed: Mapping[str, float] | None = None
) -> tuple[float, dict[str, int]] | None:
    """Whole epochs of each arm that cost the same to 1 %, near a budget.

    Args:
        wanted: The budget, in epochs of the first arm.
        costs: By arm, of an epoch; the first one's is 1.
        fixed: By arm, what it costs beside its own epochs; 0 where it is not named.

    Returns:
        The budget that was taken, within 8 % of the wanted one, and the epochs; None where there are none.
    """
    fixed = fixed or {}
    best: tuple[float, float, dict[str, int]] | None = None
    for budget in _near(wanted):
        epochs = {arm: max(1, round((budget - fixed.get(arm, 0.0)) / cost)) for arm, cost in costs.items()}
        worst = max(abs((fixed.get(arm, 0.0) + epochs[arm] * cost) / budget - 1) for arm, cost in costs.items())
        far = abs(budget / wanted - 1)
        if worst <= TOLERANCE and (best is None or far < best[0]):
            best = far, budget, epochs
    return None if best is None else best[1:]


def _near(epochs: float) -> Iterator[int]:
    """Whole numbers within 8 %, and the nearest one."""
    nearest = max(1, round(epochs))
    yield nearest
    for number in range(max(1, int(epochs * (1 - _NEAR))), int(epochs * (1 + _NEAR)) + 1):
        if number != nearest and abs(number / epochs - 1) <= _NEAR:
            yield number


def name_arm(arm: str, epochs: int) -> str:
    """The name of an arm that is trained for so long."""
    return f"{arm} {epochs} epochs"
