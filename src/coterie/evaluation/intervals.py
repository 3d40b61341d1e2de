"""How sure a share is that was counted."""

from math import sqrt
from statistics import NormalDist


def wilson(count: float, total: float, level: float = 0.95) -> tuple[float, float]:
    """The score interval of a share, after Wilson (Journal of the American Statistical Association 22, 1927).

    It stays within [0, 1], and says something where nothing or everything was counted. Images are taken as drawn
    independently; what another training would give is not in it.

    Args:
        count: Of those counted, from 0 to ``total``; a mean of several countings need be no whole number.
        total: Of all.
        level: How often it covers the true share, in (0, 1).

    Returns:
        Its ends, in [0, 1]; the whole of it where ``total`` is 0.
    """
    if total == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = count / total
    middle = share + z * z / (2 * total)
    half = z * sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    low = 0.0 if count == 0 else (middle - half) / scale
    high = 1.0 if count == total else (middle + half) / scale
    return low, high
