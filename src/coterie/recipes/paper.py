"""ONE's own protocol, as its paper words it and as its released scripts run it."""

from dataclasses import dataclass
from typing import Literal

from coterie.recipes.base import Decay, Recipe


@dataclass(kw_only=True)
class Paper(Recipe):
    """ONE's protocol as the paper words it: Nesterov SGD, step schedule, weight decay 1e-4.

    The Nesterov wording and the paper's own weight decay are unverified; 1e-4 is the released scripts'.
    """

    name = "paper"
    schedule: Literal["one-cycle", "cosine", "step", "constant"] = "step"
    weight_decay: Decay = 1e-4


@dataclass(kw_only=True)
class OfficialCode(Paper):
    """ONE's protocol as its released scripts run it: like ``paper``, without Nesterov."""

    name = "official-code"
    nesterov: bool = False
