"""What a recipe is: how weights are updated, how labels and images are varied, how weights are averaged."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import cos, pi
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from coterie.bounds import Bounds, NonNegative, Positive, PositiveShare, Share
from coterie.checking import check_fields
from coterie.data.loader import Sampling
from coterie.data.mixing import Mixing
from coterie.data.policies import Policy, Variation
from coterie.errors import UserError
from coterie.methods.base import parameter_groups

# Beyond it nothing is trained: one step would undo the weights.
Decay = Annotated[float, Bounds(least=0, most=100)]


@dataclass(frozen=True)
class TrainingFacts:
    """What a recipe may be fitted to.

    Attributes:
        images: How many there are to train on.
        epochs: The length of a stage.
        batch_size: Images in a step, over all processes.
        parameters: Of the network.
        batch_norm: Whether the network has batch norms.
        layer_norm: Whether the network has layer norms.
    """

    images: int
    epochs: int
    batch_size: int
    parameters: int
    batch_norm: bool
    layer_norm: bool = False

    @property
    def steps(self) -> int:
        """Of a stage."""
        return self.epochs * -(-self.images // self.batch_size)

    @classmethod
    def of(cls, network: nn.Module, images: int, epochs: int, batch_size: int) -> "TrainingFacts":
        """The facts of a training of this network."""
        parameters = sum(parameter.numel() for parameter in network.parameters())
        norms = (any(isinstance(m, kind) for m in network.modules()) for kind in (_BatchNorm, nn.LayerNorm))
        return cls(images, epochs, batch_size, parameters, *norms)


def scaled_rate(rate: float, batch_size: int) -> float:
    """A peak rate that is stated for batches of 128, for batches of another size: it grows with the square root.

    Twice the images halve the variance of a step's gradient; its noise stays the same with √2 times the rate.
    """
    return round(rate * (batch_size / 128) ** 0.5, 6)


@dataclass(kw_only=True)
class Recipe:
    """One-cycle SGD for short budgets: labels and images as they are, nothing averaged.

    Attributes:
        optimiser: ``sgd`` (momentum), ``adam`` or ``adamw``.
        learning_rate: The schedule's peak.
        schedule: ``one-cycle`` (linear rise over ``warm_up``, cosine to 0), ``cosine`` (from the peak to 0),
            ``step`` (x0.1 at each of ``drops``) or ``constant``.
        drops: Shares of a stage after which ``step`` divides the rate by 10 (ONE: 50 and 75 %).
        momentum: Of SGD.
        nesterov: Whether SGD's momentum is Nesterov's.
        weight_decay: L2 strength (decoupled with adamw).
        decay_everything: False spares biases and the scales of norms, which weight decay does not help.
        clip_norm: Largest gradient norm; None for no clipping.
        label_smoothing: ε; labels become (1 − ε) y + ε / C (Szegedy et al. 2016).
        mixup: α of Beta(α, α), from which mixup draws the share λ of an image (Zhang et al. 2018); 0 for none.
        cutmix: α of Beta(α, α), from which cutmix draws it (Yun et al. 2019); 0 for none. Where both are on, half of
            the mixed batches take each.
        mix_probability: Share of the batches that are mixed.
        mix_until: Share of a stage's epochs after which no batch is mixed.
        class_weights: ``balanced`` multiplies the labels, and so an image's cross-entropy, by N / (k N_c), for N images
            of k classes, N_c of its own; or ``none``.
        sampling: ``all`` images once an epoch; or ``balanced``: as many, each class as often as the others.
        policy: ``trivial-augment`` or ``rand-augment``, beside what the data's ``augment`` does; or ``none``.
        policy_strength: How far the policy goes, from 0 to 1, the published range.
        jitter: How far brightness, contrast, saturation and hue are changed, from 0 to 1.
        erasing: Share of the images of which a box is erased.
        average: What is averaged over time: ``ema``, the weights of all steps, the older the less; ``tail``, those of
            the last epochs' ends alike; or ``none``.
        average_window: Share of a stage that the average looks back on.
        deliver: What is deployed by default, and what later stages go on from: the ``last`` weights, or their
            ``average``. Where a validation split chooses the epoch it chooses among these two as well.
        warm_up: Share of a stage in which ``one-cycle`` rises.
        first_layer_rate: The peak rate of the layer next to the images as a share of the classifier's; those between
            lie geometrically in between, by their depth (:func:`coterie.networks.depth.find_depths`).
        layer_rates: Factors of the rate for parameters by patterns of their names in the method's network, as in
            ``{"fc.*": 10, "layer1.*": 0.1}``; for every branch's and peer's copy of them. Where several patterns match
            a parameter, and beside ``first_layer_rate``, factors multiply.
        drop_path: Share of the images that skip a residual block (Huang et al. 2016), the last one's; in networks of
            timm that have it.
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
    label_smoothing: Annotated[float, Bounds(least=0, below=1)] = 0.0
    mixup: NonNegative = 0.0
    cutmix: NonNegative = 0.0
    mix_probability: Share = 1.0
    mix_until: Share = 1.0
    class_weights: Literal["none", "balanced"] = "none"
    sampling: Sampling = "all"
    policy: Policy = "none"
    policy_strength: Share = 1.0
    jitter: Share = 0.0
    erasing: Share = 0.0
    average: Literal["none", "ema", "tail"] = "none"
    average_window: PositiveShare = 0.05
    deliver: Literal["last", "average"] = "last"
    warm_up: Share = 0.2
    first_layer_rate: PositiveShare = 1.0
    layer_rates: dict[str, Annotated[float, Bounds(most=1e6)]] = field(default_factory=dict)
    drop_path: Annotated[float, Bounds(least=0, below=1)] = 0.0

    def __post_init__(self) -> None:
        check_fields(self, "recipe")
        if self.deliver == "average" and self.average == "none":
            raise UserError(
                "⟨recipe.deliver average⟩: there is no average; give ⟨recipe.average ema⟩, or ⟨recipe.deliver last⟩"
            )
        for pattern, factor in self.layer_rates.items():
            if factor <= 0:
                raise UserError(
                    f"⟨recipe.layer_rates⟩: the factor of '{pattern}' is {factor:g}; use one above 0, or "
                    f"⟨network.freeze {pattern}⟩ for what is not to be trained"
                )

    def fit_to(self, facts: TrainingFacts) -> "Recipe":
        """The recipe for this training, with nothing left open: what a subclass leaves at None is chosen here."""
        return self

    def settle(self, rate: float, **chosen: Any) -> "Recipe":
        """The recipe with these values where it leaves them open; what is averaged is delivered.

        Args:
            rate: The peak rate.
            **chosen: Fields and their values.
        """
        chosen |= {"learning_rate": rate, "deliver": "last" if self.average == "none" else "average"}
        return replace(self, **{name: value for name, value in chosen.items() if getattr(self, name) is None})

    @property
    def mixing(self) -> Mixing:
        """How labels are smoothed and images mixed."""
        weighs = self.class_weights == "balanced"
        return Mixing(self.label_smoothing, self.mixup, self.cutmix, self.mix_probability, self.mix_until, weighs)

    @property
    def variation(self) -> Variation:
        """How images are varied beside what the data's ``augment`` does."""
        return Variation(self.policy, self.policy_strength, self.jitter, self.erasing)

    def make_optimiser(
        self, parameters: Iterable[Any], factors: Mapping[nn.Parameter, float] | None = None
    ) -> Optimizer:
        """The optimiser of these parameters (fused where the device has it).

        Args:
            parameters: Parameters, or groups with a peak ``lr`` or a ``decay_factor`` of their own, see
                :class:`~coterie.methods.base.ParameterGroup`. What needs no gradient is left out.
            factors: Of the peak rates, by parameter; 1 for those that are not named.
        """
        alike: dict[tuple[float, float], list[nn.Parameter]] = {}
        for group in parameter_groups(parameters):
            for parameter in group["params"]:
                rate = group.get("lr", self.learning_rate) * (factors or {}).get(parameter, 1.0)
                decay = (
                    self.weight_decay * group.get("decay_factor", 1.0)
                    if self.decay_everything or parameter.dim() > 1
                    else 0.0
                )
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
        shapes: dict[str, Callable[[float], float]] = {
            "one-cycle": self._one_cycle,
            "cosine": _cosine,
            "step": self._step,
            "constant": lambda done: 1.0,
        }
        shape = shapes[self.schedule]
        return LambdaLR(optimiser, lambda step: shape(step / steps))

    def _step(self, done: float) -> float:
        return 1 / 10 ** sum(done >= drop for drop in self.drops)

    def _one_cycle(self, done: float) -> float:
        if done < self.warm_up:
            return 0.04 + 0.96 * done / self.warm_up
        return _cosine((done - self.warm_up) / (1 - self.warm_up)) if self.warm_up < 1 else 1.0


def _cosine(done: float) -> float:
    return 0.5 * (1 + cos(pi * min(done, 1.0)))
