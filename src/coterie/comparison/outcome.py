"""What a comparison found: who is best by validation, and what the test images say of that."""

from dataclasses import dataclass
from statistics import mean
from typing import Any

from coterie.comparison.question import ALONE
from coterie.reports.studies.frontier import FrontierView, judgement_sentence
from coterie.studies.frontiers import Judged, judge_frontiers
from coterie.studies.ladder import name_arm
from coterie.studies.results import Result, Results
from coterie.studies.study import Scale


@dataclass(frozen=True)
class Outcome:
    """What was found on the highest rung that says anything.

    Attributes:
        judged: The curves, and the arms judged against the network alone on test images.
        chosen: The arm with the lowest mean validation error, over the seeds that it shares with the network alone.
        validation: By arm, that error in percent.
        delivered: The training of that arm with the lowest validation error of its own.
    """

    judged: Judged
    chosen: str
    validation: dict[str, float]
    delivered: Result

    @property
    def sentences(self) -> list[str]:
        """The verdict: first on the chosen arm, then on the others."""
        view, judged = FrontierView(self.judged), self.judged
        if not judged.judgements:
            return [f"Too little was trained to tell trainings apart; the best so far is that by {label(self.chosen)}."]
        first = (
            "No training had a lower validation error than that of the network alone."
            if self.chosen == ALONE
            else f"Of all trainings that by {label(self.chosen)} had the lowest validation error."
        )
        arms = sorted(judged.judgements, key=lambda arm: arm != self.chosen)
        said = [
            judgement_sentence(
                label(arm), label(ALONE), judged.judgements[arm], view.errors(arm), judged.frontier.margin
            )
            for arm in arms
        ]
        if self.chosen in judged.judgements:
            return [said[0], first, *said[1:]]
        return [first, *said]

    def to_json(self) -> dict[str, Any]:
        """The verdict in plain values."""
        judgements = self.judged.judgements
        return {
            "rung": self.judged.rung,
            "chosen": self.chosen,
            "validation_error": {arm: round(error, 4) for arm, error in self.validation.items()},
            "sentences": self.sentences,
            "arms": {
                arm: {
                    "word": each.word,
                    "difference": each.comparison.difference,
                    "interval": [each.comparison.low, each.comparison.high],
                    "p_corrected": each.adjusted,
                    "pairs": each.comparison.n,
                    "seeds_needed": each.seeds,
                }
                for arm, each in judgements.items()
            },
        }


def label(arm: str) -> str:
    """An arm in a sentence."""
    return "the network alone" if arm == ALONE else f"method '{arm}'"


def find_outcome(scale: Scale, results: Results) -> Outcome | None:
    """What has been found so far; None where nothing was measured."""
    (judged,) = judge_frontiers(scale.frontiers, results)
    measured = [max(curve) for curve in judged.curves.values()]
    number = judged.rung if judged.judgements else max(measured, default=None)
    if number is None:
        return None
    frontier, rung = judged.frontier, judged.frontier.ladder()[number]
    errors: dict[str, dict[int, float]] = {}
    for arm in (ALONE, *judged.judgements) if judged.judgements else frontier.costs:
        name = name_arm(arm, rung.epochs[arm])
        errors[arm] = results.values(frontier.data, frontier.network, name, "target", "validation_error")
    if judged.judgements:  # the same seeds for all
        errors = {arm: {seed: each[seed] for seed in each if seed in errors[ALONE]} for arm, each in errors.items()}
    validation = {arm: mean(each.values()) for arm, each in errors.items() if each}
    if not validation:
        return None
    chosen = min(validation, key=lambda arm: validation[arm])
    seed = min(errors[chosen], key=lambda seed: errors[chosen][seed])
    delivered = results.seeds(frontier.data, frontier.network, name_arm(chosen, rung.epochs[chosen]))[seed]
    return Outcome(judged, chosen, validation, delivered)


def validation_errors(results: Results, data: str, network: str, epochs: dict[str, int]) -> dict[str, list[float]]:
    """By arm, the validation errors of its trainings of this length."""
    return {
        arm: list(results.values(data, network, name_arm(arm, length), "target", "validation_error").values())
        for arm, length in epochs.items()
    }
