"""What curves of error against the cost of training say: where they stop falling, where they cross, who is better."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp, isfinite, log, sqrt
from statistics import mean
from typing import Literal

import numpy as np

from coterie.extras import need
from coterie.studies.ladder import TOLERANCE, Frontier, name_arm
from coterie.studies.results import Results
from coterie.studies.statistics import LEVEL, Comparison, compare, holm, power

stats = need("scipy.stats", "studies")

WORTH = 0.5  # points of error: a rung that gains less, with 95 % confidence, was not needed
_SAMPLES = 2000
_POWER, _MOST_SEEDS = 0.8, 1000

Word = Literal["better", "worse", "equivalent", "inconclusive"]


@dataclass(frozen=True)
class Point:
    """An arm on a rung.

    Attributes:
        epochs: Of each training.
        flops: Training FLOPs, mean over seeds, teachers' among them.
        errors: Test error in percent, by seed.
    """

    epochs: int
    flops: float
    errors: dict[int, float]

    @property
    def mean(self) -> float:
        """Of the errors."""
        return mean(self.errors.values())

    @property
    def half(self) -> float | None:
        """Half of the 95 % interval of the mean; None with one seed."""
        values = list(self.errors.values())
        if len(values) < 2:
            return None
        return float(stats.t.isf(LEVEL / 2, len(values) - 1)) * float(np.std(values, ddof=1)) / sqrt(len(values))


Curve = Mapping[int, Point]  # by rung


def read_curves(frontier: Frontier, results: Results, part: str = "target") -> dict[str, Curve]:
    """By arm, the measured rungs.

    Args:
        frontier: What was to be trained.
        results: What was measured.
        part: The deliverable whose error is looked at.
    """
    curves: dict[str, dict[int, Point]] = {arm: {} for arm in frontier.costs}
    for rung in frontier.ladder():
        for arm, epochs in rung.epochs.items():
            name = name_arm(arm, epochs)
            errors = results.values(frontier.data, frontier.network, name, part, "error")
            flops = [
                trial.training_flops
                for seed, trial in results.seeds(frontier.data, frontier.network, name).items()
                if seed in errors and trial.training_flops is not None
            ]
            if errors and len(flops) == len(errors):
                curves[arm][rung.number] = Point(epochs, mean(flops), errors)
    return {arm: curve for arm, curve in curves.items() if curve}


def pair(ours: Point, theirs: Point) -> Comparison | None:
    """Ours minus theirs, over the seeds that both have; None with fewer than two."""
    seeds = sorted(set(ours.errors) & set(theirs.errors))
    if len(seeds) < 2:
        return None
    return compare([ours.errors[seed] for seed in seeds], [theirs.errors[seed] for seed in seeds])


def bound_gain(curve: Curve, rung: int) -> float | None:
    """The upper 95 % bound of what the rung above gains, in points; None where fewer than two seeds have both."""
    if rung not in curve or rung + 1 not in curve:
        return None
    found = pair(curve[rung], curve[rung + 1])
    return None if found is None else found.difference + float(stats.t.isf(LEVEL, found.n - 1)) * found.error


def find_saturation(curve: Curve, worth: float = WORTH) -> int | None:
    """The lowest rung above which each rung gains less than that, with 95 % confidence; None where there is none."""
    bounds = {rung: bound_gain(curve, rung) for rung in sorted(curve)[:-1]}
    found = None
    for rung in sorted(bounds, reverse=True):
        bound = bounds[rung]
        if bound is None or bound >= worth:
            break
        found = rung
    return found


@dataclass(frozen=True)
class Crossing:
    """From which budget on one arm has the lower error.

    Attributes:
        flops: Where the means cross last; None where they do not.
        low: Lower end of the 95 % interval of that budget; None where it lies below the ladder.
        high: Upper end; None where it lies above the ladder.
        ahead: Whether the first arm has the lower error above it; without a crossing, on the highest rung.
    """

    flops: float | None
    low: float | None
    high: float | None
    ahead: bool


def find_crossing(ours: Curve, theirs: Curve) -> Crossing | None:
    """Where the means of two arms cross last, and how sure that is; None with fewer than two rungs of two pairs.

    Between rungs the difference is a straight line over the logarithm of the budget. For the interval each rung's mean
    difference is drawn anew from what its t-test leaves possible (few seeds are too few to be resampled themselves).
    """
    rungs = sorted(set(ours) & set(theirs))
    pairs = [found for rung in rungs if (found := pair(ours[rung], theirs[rung])) is not None]
    if len(rungs) < 2 or len(pairs) < len(rungs):
        return None
    places = [log((ours[rung].flops + theirs[rung].flops) / 2) for rung in rungs]
    ahead = pairs[-1].difference < 0
    random = np.random.default_rng(0)
    drawn = np.stack([each.difference + each.error * random.standard_t(each.n - 1, _SAMPLES) for each in pairs], 1)
    sampled = np.sort([_last_change(places, sample.tolist(), ahead) for sample in drawn])
    at = _last_change(places, [each.difference for each in pairs], ahead)
    outside = round(_SAMPLES * LEVEL / 2)
    return Crossing(_budget(at), _budget(sampled[outside]), _budget(sampled[-1 - outside]), ahead)


def _budget(place: float) -> float | None:
    return exp(place) if isfinite(place) else None


def _last_change(places: Sequence[float], differences: Sequence[float], ahead: bool) -> float:
    """From where on the differences have one sign to the end, the wanted one.

    Minus infinity where they have it everywhere, infinity where they do not have it at the end.
    """
    signs = [(each < 0) == ahead and each != 0 for each in differences]
    if not signs[-1]:
        return float("inf")
    for (low, high), (before, after), (first, _) in reversed(
        list(zip(pairwise(places), pairwise(differences), pairwise(signs), strict=True))
    ):
        if not first:
            return low + (high - low) * before / (before - after)
    return float("-inf")


@dataclass(frozen=True)
class Judgement:
    """What a comparison of test errors says.

    Attributes:
        word: ``equivalent`` where the difference is shown to lie within the margin, ``better`` and ``worse`` where
            one is shown that may be larger, else ``inconclusive``.
        comparison: Ours minus theirs.
        adjusted: p after Holm's correction over the comparisons that were judged together: of a difference, or of
            equivalence where that is the word.
        seeds: How many would tell a difference of the margin in four of five repetitions, at the corrected level; None
            beyond a thousand.
    """

    word: Word
    comparison: Comparison
    adjusted: float
    seeds: int | None


def judge(comparisons: Sequence[Comparison], margin: float = WORTH) -> list[Judgement]:
    """Judge comparisons together: differences and equivalences are each corrected by Holm over all of them.

    Args:
        comparisons: Ours minus theirs, of errors.
        margin: Points within which two arms count as equal.
    """
    different = holm([each.p for each in comparisons])
    equal = holm([each.equivalence(margin) for each in comparisons])
    judged = []
    for each, apart, alike in zip(comparisons, different, equal, strict=True):
        seeds = count_seeds(each.sd, margin, LEVEL / len(comparisons))
        if alike < LEVEL:  # first: a difference may be sure and yet too small to matter
            judged.append(Judgement("equivalent", each, alike, seeds))
        elif apart < LEVEL and each.difference != 0:
            judged.append(Judgement("better" if each.difference < 0 else "worse", each, apart, seeds))
        else:
            judged.append(Judgement("inconclusive", each, apart, seeds))
    return judged


def count_seeds(sd: float, difference: float, level: float = LEVEL) -> int | None:
    """How many pairs see a true difference in four of five repetitions; None where a thousand do not.

    Args:
        sd: The standard deviation of the pairs' differences.
        difference: The true one.
        level: Of the test.
    """
    low, high = 2, _MOST_SEEDS
    if power(difference, sd, high, level) < _POWER:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if power(difference, sd, middle, level) >= _POWER else (middle + 1, high)
    return low


def find_uneven(curves: Mapping[str, Curve]) -> list[tuple[int, str, float]]:
    """Rung, arm, and by which share its measured cost differs from the rung's first arm's, where that is over 1 %."""
    found: list[tuple[int, str, float]] = []
    if not curves:
        return found
    first, *others = curves
    for rung, point in curves[first].items():
        for arm in others:
            if rung in curves[arm] and abs(share := curves[arm][rung].flops / point.flops - 1) > TOLERANCE:
                found.append((rung, arm, share))
    return found
