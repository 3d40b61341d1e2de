"""Which of a class's two features a network learns, and for which powers of the activation it learns one only."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from coterie.errors import UserError
from coterie.studies.multiview.descent import Objective, descend
from coterie.studies.multiview.distribution import MultiView
from coterie.studies.multiview.instance import Instance, Problem, Results, winner
from coterie.studies.multiview.options import read_options


@dataclass(frozen=True, kw_only=True)
class Selection(Instance):
    """Sizes of the experiment; training has no single-view samples.

    Attributes:
        powers: q, one run each.
        scales: σ_0 of each.
        widths: m of each.
        members: K.
        steps: Of training.
    """

    data: MultiView = field(
        default_factory=lambda: MultiView(dimension=300, patches=7, off=(0.3, 0.4), off_count=2.0, background=0.6)
    )
    single: float = 0.0
    test_single: int = 500
    test_multi: int = 300
    powers: tuple[float, ...] = (4, 3, 2)
    # That of q = 2 is not known of the first trials: q = 3's.
    scales: tuple[float, ...] = (0.02, 0.005, 0.005)
    widths: tuple[float, ...] = (5, 5, 3)
    members: int = 6
    steps: int = 1500

    def __post_init__(self) -> None:
        if not len(self.powers) == len(self.scales) == len(self.widths) > 0:
            raise UserError("multiview-selection: powers, scales and widths are not of one length; give one of each")


def run_selection(options: Mapping[str, Any], seed: int) -> Results:
    """Single networks and their ensemble for each power of the activation.

    Parts: ``single_q4`` and ``ensemble_q4``, and so on for each power.

    Args:
        options: Of :class:`Selection`, by name.
        seed: From 0 up.

    Returns:
        For each part ``single_view_error``, ``multi_view_error``, ``train_error``, and ``gain``, which the ensemble has
        over the single networks (points); for single networks also ``both``, and ``winner``: how often the feature seen
        best before training is the one that is learned.
    """
    size = read_options(Selection, options, "multiview-selection")
    results: Results = {}
    for power, scale, width in zip(size.powers, size.scales, size.widths, strict=True):
        problem = Problem(replace(size, power=power, scale=scale, filters=int(width)), seed)
        members = problem.networks(size.members, 4)
        before = members.seen(problem.features)
        descend(members, problem.train, Objective(), size.steps, size.rate, size.boost)
        share = winner(before, members.seen(problem.features))
        single, ensemble = problem.measure(members), problem.measure_mean(members)
        gained = single["single_view_error"] - ensemble["single_view_error"]
        results[f"single_q{power:g}"] = {**single, "winner": 100 * share}
        results[f"ensemble_q{power:g}"] = {**ensemble, "gain": gained}
    return results
