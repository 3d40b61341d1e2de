"""How weights are updated: optimiser, learning-rate schedule, weight decay. Named presets, each field overridable."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import cos, pi
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from coterie.bounds import Bounds, Positive, Share
from coterie.checking import check_fields
from coterie.errors import unknown_name
from coterie.methods.base import parameter_groups

# Beyond it nothing is trained: one step would undo the weights.
Decay = Annotated[float, Bounds(least=0, most=100)]


@dataclass(kw_only=True)
class Recipe:
    """One-cycle SGD for short budgets: the default.

    Attributes:
        optimiser: ``sgd`` (momentum), ``adam`` or ``adamw``.
        learning_rate: The schedule's peak.
        schedule: ``one-cycle`` (linear rise over the first 20 %, cosine to 0), ``cosine`` (from the peak to 0),
            ``step`` (x0.1 at each of ``drops``) or ``constant``.
        drops: Shares of a stage after which ``step`` divides the rate by 10 (ONE: 50 and 75 %).
        momentum: Of SGD.
        nesterov: Whether SGD's momentum is Nesterov's.
        weight_decay: L2 strength (decoupled with adamw).
        decay_everything: False spares biases and the scales of norms, which weight decay does not help.
        clip_norm: Largest gradient norm; None for no clipping.
    """

    name: ClassVar[str] = "short"

    optimiser: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: Positive = 0.1
    schedule: Literal["one-cycle", "cosine", "step", "constant"] = "one-cycle"
    drops: tuple[Share, ...] = (0.5, 0.75)
    momentum: Annotated[float, Bounds(least=0, below=1)] = 0.9
    nesterov: bool = True
    weight_decay: Decay = 5e-4
    decay_everything: bool = True
    clip_norm: Positive | None = None

    def __post_init__(self) -> None:
        check_fields(self, "recipe")

    def make_optimiser(self, parameters: Iterable[Any]) -> Optimizer:
        """The optimiser of these parameters (fused where the device has it).

        Args:
            parameters: Parameters, or groups with a peak ``lr`` or a ``decay_factor`` of their own, see
                :class:`~coterie.methods.base.ParameterGroup`. What needs no gradient is left out.
        """
        alike: dict[tuple[float, float], list[nn.Parameter]] = {}
        for group in parameter_groups(parameters):
            for parameter in group["params"]:
                factor = group.get("decay_factor", 1.0)
                rate = group.get("lr", self.learning_rate)
                decay = self.weight_decay * factor if self.decay_everything or parameter.dim() > 1 else 0.0
                alike.setdefault((rate, decay), []).append(parameter)
        groups = [{"params": group, "lr": rate, "weight_decay": decay} for (rate, decay), group in alike.items()]
        fused = all(parameter.device.type in ("cpu", "cuda") for group in alike.values() for parameter in group)
        if self.optimiser != "sgd":
            adam = torch.optim.AdamW if self.optimiser == "adamw" else torch.optim.Adam
            return adam(groups, lr=self.learning_rate, fused=fused)
        nesterov = self.nesterov and self.momentum > 0
        return torch.optim.SGD(groups, lr=self.learning_rate, momentum=self.momentum, nesterov=nesterov, fused=fused)

    def make_schedule(self, optimiser: Optimizer, steps: int) -> LambdaLR:
        """The schedule over a stage of so many steps, stepped once a batch."""
        shape = self._step if self.schedule == "step" else _SHAPES[self.schedule]
        return LambdaLR(optimiser, lambda step: shape(step / steps))

    def _step(self, done: float) -> float:
        return 1 / 10 ** sum(done >= drop for drop in self.drops)


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


@dataclass(kw_only=True)
class Transformer(Recipe):
    """AdamW for vision transformers and fine-tuning: small rate, no decay of norms and biases, clipped gradients."""

    name = "transformer"
    optimiser: Literal["sgd", "adam", "adamw"] = "adamw"
    learning_rate: Positive = 5e-4
    weight_decay: Decay = 0.05
    decay_everything: bool = False
    clip_norm: Positive | None = 1.0


RECIPES: dict[str, type[Recipe]] = {recipe.name: recipe for recipe in (Recipe, Paper, OfficialCode, Transformer)}


def recipe_class(name: str) -> type[Recipe]:
    """The recipe of this name.

    Raises:
        UserError: There is none; names the nearest.
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name]


def _one_cycle(done: float) -> float:
    rise = 0.2
    if done < rise:
        return 0.04 + 0.96 * done / rise
    return _cosine((done - rise) / (1 - rise))


def _cosine(done: float) -> float:
    return 0.5 * (1 + cos(pi * min(done, 1.0)))


_SHAPES: dict[str, Callable[[float], float]] = {
    "one-cycle": _one_cycle,
    "cosine": _cosine,
    "constant": lambda done: 1.0,
}
