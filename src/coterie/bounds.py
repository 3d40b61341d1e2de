"""Ranges of numbers, as parts of type hints: ``Annotated[float, Bounds(above=0)]``, and the usual ones by name."""

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Bounds:
    """The range of a number, as ``Annotated[float, Bounds(above=0)]``.

    Attributes:
        least: The smallest value; None without.
        most: The largest value; None without.
        above: What the value must exceed; None without.
        below: What the value must stay below; None without.
        finite: False lets infinities and NaN pass, for figures that were measured.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    finite: bool = True

    def hold(self, value: float) -> bool:
        """Whether the value lies within."""
        return (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __repr__(self) -> str:
        """In words, for error lines and ``--help``."""
        if self.least is not None and self.most is not None:
            return f"from {_round(self.least)} to {_round(self.most)}"
        parts = []
        if self.above is not None:
            parts.append(f"above {_round(self.above)}")
        if self.below is not None:
            parts.append(f"below {_round(self.below)}")
        if self.least is not None:
            parts.insert(0, f"{_round(self.least)} or more")
        if self.most is not None:
            parts.append(f"{_round(self.most)} or less")
        return " and ".join(parts)


def _round(number: float) -> str:
    return str(int(number)) if number == int(number) else f"{number:g}"


Positive = Annotated[float, Bounds(above=0)]
NonNegative = Annotated[float, Bounds(least=0)]
Share = Annotated[float, Bounds(least=0, most=1)]
PositiveShare = Annotated[float, Bounds(above=0, most=1)]
PositiveInt = Annotated[int, Bounds(least=1)]
Count = Annotated[int, Bounds(least=1, most=100)]  # of networks, which each take memory and time
NonNegativeInt = Annotated[int, Bounds(least=0)]
# exp(z / T) of any larger T is 1 to the last bit of float32, and T² would overflow long before 1e308; z / T of a much
# smaller one would overflow.
Temperature = Annotated[float, Bounds(least=1e-6, most=1e6)]
