"""The ladder that strong trainings climb, its strength chosen by the training's length and the network's size.

What is strong for ResNet-50 in 600 epochs under-fits ResNet-8 in 100: regularisers take off error where a network can
fit its images without them, and add it where it cannot. The rule reads how many epochs and steps there are, how many
parameters the network has, and whether its norms are batch norms or layer norms.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from coterie.bounds import Bounds, NonNegative, Positive, PositiveInt, Share
from coterie.data.policies import Policy
from coterie.recipes.base import Decay, Recipe, TrainingFacts, scaled_rate

# Of SGD, of batches of 128. The high one is for networks with batch norms, which make a layer's output the same
# whatever the size of its weights, and for trainings of so many steps: in 27 and 45 it was far worse, from 90 on as
# good or better.
_RATE, _CAREFUL_RATE, _STEPS = 0.8, 0.2, 200
# Of Adam and AdamW, which is for transformers, ConvNeXts and networks without norms.
_ADAM_RATE = 7e-4
_DECAY, _ADAMW_DECAY = 5e-4, 0.05

# What is drawn on, the strongest that a training has the epochs and parameters for: (epochs, parameters, settings).
_STRENGTHS: tuple[tuple[int, int, dict[str, Any]], ...] = (
    (
        200,
        1_000_000,
        {"mixup": 0.2, "mix_probability": 1.0, "policy": "trivial-augment", "policy_strength": 1.0, "erasing": 0.25},
    ),
    (
        60,
        200_000,
        {"mixup": 0.0, "mix_probability": 0.5, "policy": "trivial-augment", "policy_strength": 0.3, "erasing": 0.1},
    ),
    (0, 0, {"mixup": 0.0, "mix_probability": 0.0, "policy": "none", "policy_strength": 0.0, "erasing": 0.0}),
)


@dataclass(kw_only=True)
class Modern(Recipe):
    """SGD or AdamW with soft and mixed labels, strong augmentation and averaged weights, as strong as pays.

    The default for networks that start untrained.

    What is None here the rule sets. Networks with batch norms get SGD, whose peak rate is 0.8 at batches of 128, 0.2 in
    fewer than 200 steps; those without, or with layer norms, get AdamW, with 0.0007 and a weight decay of 0.05. Rates
    grow with the square root of the batch; mixing, policy and erasing grow with the epochs and the parameters, in
    three steps.

    Attributes:
        strength_epochs: How many epochs the rule reads; None for those of a stage. Trainings of other lengths that
            cost the same have one recipe where all are given those of the network alone, as on a frontier.
    """

    name = "modern"
    strength_epochs: PositiveInt | None = None
    optimiser: Literal["sgd", "adam", "adamw"] | None = None  # type: ignore[assignment]
    learning_rate: Positive | None = None  # type: ignore[assignment]
    weight_decay: Decay | None = None  # type: ignore[assignment]
    label_smoothing: Annotated[float, Bounds(least=0, below=1)] = 0.1
    mixup: NonNegative | None = None  # type: ignore[assignment]
    cutmix: NonNegative = 1.0
    mix_probability: Share | None = None  # type: ignore[assignment]
    policy: Policy | None = None  # type: ignore[assignment]
    policy_strength: Share | None = None  # type: ignore[assignment]
    erasing: Share | None = None  # type: ignore[assignment]
    average: Literal["none", "ema", "tail"] = "ema"
    average_window: Annotated[float, Bounds(above=0, most=1)] = 0.02
    deliver: Literal["last", "average"] | None = None  # type: ignore[assignment]

    def fit_to(self, facts: TrainingFacts) -> Recipe:
        """The recipe for this training, with nothing left open."""
        facts = replace(facts, epochs=self.strength_epochs or facts.epochs)
        optimiser = self.optimiser or ("sgd" if facts.batch_norm and not facts.layer_norm else "adamw")
        rate = _RATE if facts.batch_norm and facts.steps >= _STEPS else _CAREFUL_RATE
        chosen = {
            "strength_epochs": facts.epochs,
            "optimiser": optimiser,
            "weight_decay": _ADAMW_DECAY if optimiser == "adamw" else _DECAY,
            **strength(facts),
        }
        return self.settle(scaled_rate(rate if optimiser == "sgd" else _ADAM_RATE, facts.batch_size), **chosen)


def strength(facts: TrainingFacts) -> dict[str, Any]:
    """How much is drawn on in this training: fields of :class:`Modern` and their values."""
    for epochs, parameters, settings in _STRENGTHS:
        if facts.epochs >= epochs and facts.parameters >= parameters:
            return settings
    raise AssertionError("the last step is for every training")
