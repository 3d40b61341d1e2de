"""Experiments by name: what a study's arm may be instead of a training of the harness."""

from collections.abc import Callable, Mapping
from typing import Any

from coterie.studies.multiview.gaussian import run_gaussian
from coterie.studies.multiview.kernels import run_random_features, run_tangent_kernel
from coterie.studies.multiview.selection import run_selection
from coterie.studies.multiview.theorems import run_theorems

# Options and a seed to, for each part, its metrics.
EXPERIMENTS: dict[str, Callable[[Mapping[str, Any], int], dict[str, dict[str, float | None]]]] = {
    "multiview-gaussian": run_gaussian,
    "multiview-random-features": run_random_features,
    "multiview-selection": run_selection,
    "multiview-tangent-kernel": run_tangent_kernel,
    "multiview-theorems": run_theorems,
}
