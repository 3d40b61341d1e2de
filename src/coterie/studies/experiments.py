"""Experiments by name: what a study's arm may be instead of a training of the harness."""

from collections.abc import Callable, Mapping
from typing import Any

from coterie.studies.multiview.gaussian import gaussian
from coterie.studies.multiview.kernels import random_features, tangent_kernel
from coterie.studies.multiview.selection import selection
from coterie.studies.multiview.theorems import theorems

# Options and a seed to, for each part, its metrics.
EXPERIMENTS: dict[str, Callable[[Mapping[str, Any], int], dict[str, dict[str, float | None]]]] = {
    "multiview-gaussian": gaussian,
    "multiview-random-features": random_features,
    "multiview-selection": selection,
    "multiview-tangent-kernel": tangent_kernel,
    "multiview-theorems": theorems,
}
