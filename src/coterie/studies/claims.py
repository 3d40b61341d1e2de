"""What publications claim, and the figures that they give."""

from dataclasses import dataclass
from typing import Literal

Expectation = Literal["lower", "higher", "same"]


@dataclass(frozen=True)
class Published:
    """A figure that a paper gives.

    Attributes:
        arm: Of this study.
        part: What of the arm was measured: a deliverable, or a peer.
        of: On which data and network.
        metric: For example ``error``, in percent.
        value: The figure.
        evidence: How sure it is: ``paper``, ``official code``, ``secondary: WHERE``, ``derived`` or ``unverified``.
        std: Its standard deviation where one is given.
        where: Table or figure.
    """

    arm: str
    part: str
    of: str
    metric: str
    value: float
    evidence: str
    std: float | None = None
    where: str = ""


@dataclass(frozen=True)
class Side:
    """One side of a claim: a part of an arm, such as a deliverable; of a network where the other side is of another."""

    part: str
    arm: str
    network: str | None = None


@dataclass(frozen=True)
class Claim:
    """What a paper says, to be told from what is measured.

    Attributes:
        says: In a sentence.
        by: What it is said of.
        than: What that is compared with: another part, or a number.
        metric: Of both sides.
        expect: Whether ``by`` is ``lower`` than ``than``, ``higher``, or the ``same`` within ``margin``.
        margin: In the metric's units, for ``same``.
        published: The difference that the paper found, unsigned, in the metric's units.
        evidence: How sure that figure is.
        where: Table or section of the paper.
        data: On which data; None for all that have both sides.
        control: Whether the study asks this of itself, and no paper says it so: it is counted apart.
    """

    says: str
    by: Side
    than: Side | float
    metric: str = "error"
    expect: Expectation = "lower"
    margin: float | None = None
    published: float | None = None
    evidence: str = ""
    where: str = ""
    data: tuple[str, ...] | None = None
    control: bool = False
