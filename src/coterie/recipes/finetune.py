"""A recipe for networks that come with published weights."""

from dataclasses import dataclass
from typing import Annotated, Literal

from coterie.bounds import Bounds, Positive, PositiveShare, Share
from coterie.recipes.base import Decay, Recipe, TrainingFacts, scaled_rate

# Of batches of 128. Chosen, with first_layer_rate, on validation images of one data set and one network
# (benchmarks/finetune_rates.json): a quarter of it under-fits in ten epochs.
_RATE = 2e-3


@dataclass(kw_only=True)
class Finetune(Recipe):
    """AdamW for published weights: small rates, smaller still next to the images, averaged weights, drop path.

    What is None here the rule sets: the peak rate is 0.002 at batches of 128 and grows with the square root of the
    batch. Layers learn the more slowly the nearer they are to the images, whose filters published weights have already.
    """

    name = "finetune"
    optimiser: Literal["sgd", "adam", "adamw"] = "adamw"
    learning_rate: Positive | None = None  # type: ignore[assignment]
    weight_decay: Decay = 0.05
    decay_everything: bool = False
    clip_norm: Positive | None = 1.0
    label_smoothing: Annotated[float, Bounds(least=0, below=1)] = 0.1
    average: Literal["none", "ema", "tail"] = "ema"
    average_window: PositiveShare = 0.1
    deliver: Literal["last", "average"] | None = None  # type: ignore[assignment]
    warm_up: Share = 0.1
    first_layer_rate: PositiveShare = 0.3
    drop_path: Annotated[float, Bounds(least=0, below=1)] = 0.1

    def fit_to(self, facts: TrainingFacts) -> Recipe:
        """The recipe for this training, with nothing left open."""
        return self.settle(scaled_rate(_RATE, facts.batch_size))
