"""The field's losses on plain tensors, one file each: means over the batch, in float32 at least and in log space."""

from coterie.functional.correlation import correlation_distance
from coterie.functional.decoupled import decoupled_divergence
from coterie.functional.divergences import DIVERGENCES, check_divergence, check_soft_labels, distil
from coterie.functional.feature_distance import mean_squared_error
from coterie.functional.labels import cross_entropy, heaviest_labels, label_mean
from coterie.functional.soft_targets import divergence, kl_divergence, ramp_up
from coterie.functional.standardised import standardise, standardised_divergence

__all__ = [
    "DIVERGENCES",
    "check_divergence",
    "check_soft_labels",
    "correlation_distance",
    "cross_entropy",
    "decoupled_divergence",
    "distil",
    "divergence",
    "heaviest_labels",
    "kl_divergence",
    "label_mean",
    "mean_squared_error",
    "ramp_up",
    "standardise",
    "standardised_divergence",
]
