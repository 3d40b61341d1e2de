"""Small samples, honestly: paired tests over seeds, what they could have seen, and many of them at once.

Everything is of differences over seeds, since a seed gives both sides the same order of images and augmentations. Where
all differences are equal there is no spread to judge by: p is the sign test's, and all other figures are the limits of
their formulas.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import copysign, exp, inf, lgamma, nan, pi, sqrt
from statistics import mean, stdev

from coterie.extras import need

integrate, optimize, special, stats = (
    need(f"scipy.{name}", "studies") for name in ("integrate", "optimize", "special", "stats")
)

LEVEL = 0.05  # of all tests; intervals cover 1 - LEVEL
_FAR = 9.0  # standard deviations: a normal variable is never so far out
_ROUNDING = 1e-9  # differences below this share of the values are of floating point


@dataclass(frozen=True)
class Comparison:
    """Differences over seeds, ours minus theirs.

    Attributes:
        n: How many pairs, at least 2.
        difference: Their mean.
        sd: Their standard deviation (n - 1).
        low: Lower end of the 95 % confidence interval of the mean.
        high: Its upper end.
        p: Two-sided p of the paired t-test; without any spread, of the sign test.
    """

    n: int
    difference: float
    sd: float
    low: float
    high: float
    p: float

    @property
    def error(self) -> float:
        """Standard error of the mean difference."""
        return self.sd / sqrt(self.n)

    @property
    def effect(self) -> float:
        """Cohen's d_z (mean over standard deviation of the differences), corrected for small samples.

        The correction is Hedges' exact one (1981), which n = 2 does not have: nan. Without any spread it is infinite.
        """
        if self.n < 3:
            return nan
        if self.sd == 0:
            return copysign(inf, self.difference) if self.difference else 0.0
        return hedges(self.n - 1) * self.difference / self.sd

    def equivalence(self, margin: float) -> float:
        """The p of two one-sided t-tests (TOST; Schuirmann 1987): small where the mean lies within ± ``margin``."""
        inside = margin - abs(self.difference)
        if self.error == 0:
            return 0.0 if inside > 0 else 1.0
        return float(stats.t.sf(inside / self.error, self.n - 1))  # of the nearer end: the larger p

    def difference_beyond(self, margin: float) -> float:
        """The two-sided p that the mean lies outside of ± ``margin``: small where it does; 1 where it does not."""
        outside = abs(self.difference) - margin
        if outside <= 0:
            return 1.0
        if self.error == 0:
            return _sign_test(self.n)
        return min(1.0, 2 * float(stats.t.sf(outside / self.error, self.n - 1)))

    def shown_margin(self, level: float = LEVEL) -> float:
        """The smallest margin within which :meth:`equivalence` would have been shown at this level."""
        return abs(self.difference) + float(stats.t.isf(level, self.n - 1)) * self.error

    def power(self, difference: float, level: float = LEVEL) -> float:
        """See :func:`power`, for this spread and so many seeds."""
        return power(difference, self.sd, self.n, level)

    def seen(self, level: float = LEVEL) -> float:
        """See :func:`smallest_difference`, for this spread and so many seeds."""
        return smallest_difference(self.sd, self.n, level=level)


def compare(ours: Sequence[float], theirs: Sequence[float] | float) -> Comparison:
    """Paired t-test; against a number, the one-sample t-test.

    Args:
        ours: A value for each seed.
        theirs: A value for each of the same seeds in the same order, or a number.

    Raises:
        ValueError: There are fewer than two pairs, or they do not pair.
    """
    others = [theirs] * len(ours) if isinstance(theirs, int | float) else theirs
    scale = max((abs(value) for value in (*ours, *others)), default=0.0)
    differences = [one - other for one, other in zip(ours, others, strict=True)]
    n = len(differences)
    if n < 2:
        raise ValueError(f"{n} pairs; a spread needs two")
    difference, sd = mean(differences), stdev(differences)
    if sd <= _ROUNDING * scale:
        difference = 0.0 if abs(difference) <= _ROUNDING * scale else difference
        return Comparison(n, difference, 0.0, difference, difference, _sign_test(n) if difference else 1.0)
    error = sd / sqrt(n)
    half = float(stats.t.isf(LEVEL / 2, n - 1)) * error
    p = 2 * float(stats.t.sf(abs(difference) / error, n - 1))
    return Comparison(n, difference, sd, difference - half, difference + half, p)


def _sign_test(n: int) -> float:
    """The two-sided p of differences that all have one sign: errors are counts, and two are often equal by chance."""
    return 2.0 ** (1 - n)


def hedges(freedom: int) -> float:
    """What Cohen's d is multiplied by so that its mean is the true effect (Hedges 1981, equation 6e)."""
    return exp(lgamma(freedom / 2) - lgamma((freedom - 1) / 2)) / sqrt(freedom / 2)


def holm(ps: Sequence[float]) -> list[float]:
    """Each p adjusted for that many tests at once (Holm 1979), in the given order."""
    adjusted, largest = [0.0] * len(ps), 0.0
    for place, index in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        largest = max(largest, min(1.0, (len(ps) - place) * ps[index]))
        adjusted[index] = largest
    return adjusted


def holm_levels(ps: Sequence[float], level: float = LEVEL) -> list[float]:
    """For each test the p up to which Holm's procedure would have rejected it, the others being as they are."""
    found = []
    for place in range(len(ps)):
        # It turns at the level over a whole number; that over the number of tests is always low enough.
        levels = (level / left * (1 - _ROUNDING) for left in range(1, len(ps) + 1))
        found.append(next(p for p in levels if holm([*ps[:place], p, *ps[place + 1 :]])[place] <= level))
    return found


def power(difference: float, sd: float, n: int, level: float = LEVEL) -> float:
    """How often a paired t-test (two-sided) would see a true difference.

    Args:
        difference: The true mean of the differences.
        sd: Their standard deviation.
        n: How many pairs.
        level: Of the test.
    """
    if sd == 0:
        return 1.0 if difference else level
    shift, critical = abs(difference) / sd * sqrt(n), float(stats.t.isf(level / 2, n - 1))

    # |T| > critical for T = (Z + shift) / sqrt(V / f), the noncentral t: given Z, a chi-square's distribution function.
    # (SciPy's own noncentral t is nan far out in the tails, where a corrected level leads on few seeds.)
    def seen(z: float) -> float:
        return exp(-z * z / 2) / sqrt(2 * pi) * float(special.chdtr(n - 1, (n - 1) * ((z + shift) / critical) ** 2))

    ends = [end for end in (-shift - critical, -shift, critical - shift) if abs(end) < _FAR]
    return min(1.0, float(integrate.quad(seen, -_FAR, _FAR, points=ends or None, limit=200)[0]))


def smallest_difference(sd: float, n: int, power_wanted: float = 0.8, level: float = LEVEL) -> float:
    """The true difference that a paired t-test (two-sided) sees with this power."""
    if sd == 0:
        return 0.0
    high = 1.0
    while power(high, 1.0, n, level) < power_wanted:
        high *= 2
    return sd * float(optimize.brentq(lambda effect: power(effect, 1.0, n, level) - power_wanted, 0.0, high))
