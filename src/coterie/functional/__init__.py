"""The field's losses on plain tensors, one file each: means over the batch, in float32 at least and in log space."""

from coterie.functional.feature_distance import mean_squared_error
from coterie.functional.labels import cross_entropy, heaviest_labels, label_mean
from coterie.functional.soft_targets import DIVERGENCES, divergence, kl_divergence, ramp_up

__all__ = [
    "DIVERGENCES",
    "cross_entropy",
    "divergence",
    "heaviest_labels",
    "kl_divergence",
    "label_mean",
    "mean_squared_error",
    "ramp_up",
]
