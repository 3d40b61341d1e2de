"""AdamW with a small rate, for vision transformers."""

from dataclasses import dataclass
from typing import Literal

from coterie.bounds import Positive
from coterie.recipes.base import Decay, Recipe


@dataclass(kw_only=True)
class Transformer(Recipe):
    """AdamW for vision transformers and fine-tuning: small rate, no decay of norms and biases, clipped gradients."""

    name = "transformer"
    optimiser: Literal["sgd", "adam", "adamw"] = "adamw"
    learning_rate: Positive = 5e-4
    weight_decay: Decay = 0.05
    decay_everything: bool = False
    clip_norm: Positive | None = 1.0
