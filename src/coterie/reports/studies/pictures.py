"""Which pictures a study's page has, and what is drawn in each."""

import re
from collections import Counter
from collections.abc import Sequence
from statistics import mean

from coterie.reports.drawing.colours import Palette, name_arm
from coterie.reports.studies.plots import (
    CostPoint,
    Prediction,
    draw_costs,
    draw_curves,
    draw_flatness,
    draw_predictions,
)
from coterie.reports.studies.tables import deployed_parts
from coterie.studies.claims import Side
from coterie.studies.results import Result, Results
from coterie.studies.study import Study
from coterie.studies.verdicts import Verdict


def draw_pictures(
    study: Study, results: Results, verdicts: Sequence[Verdict]
) -> list[tuple[str, list[tuple[str, str]]]]:
    """All pictures of a page.

    Args:
        study: The study.
        results: Of one scale.
        verdicts: On its claims.

    Returns:
        (heading, (caption, SVG) of each picture).
    """
    name, found = f"{study.name} {results.scale}", list[tuple[str, list[tuple[str, str]]]]()
    palette = Palette({trial.arm: name_arm(trial.arm) for trial in results.trials})
    for data in dict.fromkeys(trial.data for trial in results.trials):
        trials = [trial for trial in results.trials if trial.data == data]
        usual, pictures = _usual(trials), []
        for caption, label, training in (
            ("Error against all training, teachers included", "FLOPs of all training", True),
            ("Error against the deployed network", "FLOPs of one image, as deployed", False),
        ):
            points = _points(trials, training, palette)
            if points:
                pictures.append((caption, draw_costs(points, f"{name}, {data}: {caption}", label)))
        learned = _curves(trials)
        if learned:
            caption = "Errors in the course of training: test images solid, training images dashed"
            pictures.append((caption, draw_curves(learned, _colours(trials, palette), f"{name}, {data}: {caption}")))
        moved = _flatness_of(trials)
        if moved:
            caption = "Flatness: what moving the parameters costs"
            pictures.append((caption, draw_flatness(moved, _colours(trials, palette), f"{name}, {data}: flatness")))
        if pictures:
            several = usual is not None and any(trial.network != usual for trial in trials)
            found.append((f"{data}; {usual} where no other is named" if several else data, pictures))
    numbered = _predictions(verdicts, results)
    if numbered:
        pictures = [
            (
                metric.replace("_", " "),
                draw_predictions(rows, f"{name}: {metric} against the claims' numbers", metric),
            )
            for metric, rows in numbered.items()
        ]
        found.append(("Measured against the numbers that claims name", pictures))
    return found


def _colours(trials: Sequence[Result], palette: Palette) -> dict[str, str]:
    """Label to its arm's colour."""
    return {
        _label(trial.arm, trial.network, part, trials): palette.colour(trial.arm)
        for trial in trials
        for part in trial.measured
    }


def _points(trials: Sequence[Result], training: bool, palette: Palette) -> list[CostPoint]:
    """A point for each network that can be deployed, where its cost is known, in the colour of its arm."""
    found = dict[tuple[str, str, str], list[tuple[float, float]]]()
    for trial in trials:
        # One of several that are alike says no more than the network alone.
        for part in (
            deployed_part
            for deployed_part in deployed_parts(trial)
            if not re.fullmatch(r"(member|peer|snapshot)\d+", deployed_part)
        ):
            cost = trial.training_flops if training else trial.cost.get(part, {}).get("flops")
            error = trial.figure(part, "error")
            if cost and error is not None:
                found.setdefault((trial.arm, trial.network, part), []).append((cost, error))
    return [
        CostPoint(
            label=_label(arm, network, part, trials),
            part=part,
            colour=palette.colour(arm),
            x=mean(cost for cost, _ in pairs),
            errors=[error for _, error in pairs],
        )
        for (arm, network, part), pairs in found.items()
    ]


def _label(arm: str, network: str, part: str, trials: Sequence[Result]) -> str:
    """What is said of a network beside those of other trials: no more than tells it from them."""
    named = [network] if network != _usual(trials) else []
    return ", ".join([arm, *named, *([part] if part != "target" else [])])


def _usual(trials: Sequence[Result]) -> str | None:
    """The network of four of five trials, if there is one: it need not be named."""
    network, times = Counter(trial.network for trial in trials).most_common(1)[0]
    return network if times >= 0.8 * len(trials) else None


def _flatness_of(trials: Sequence[Result]) -> dict[str, dict[float, list[float]]]:
    """Arm and part to distance to the accuracy lost, a value for each seed."""
    found = dict[str, dict[float, list[float]]]()
    for trial in trials:
        for part, figures in trial.measured.items():
            for metric in figures:
                at, value = re.fullmatch(r"flatness_(\d+(?:\.\d+)?)", metric), trial.figure(part, metric)
                if at is not None and value is not None:
                    name = _label(trial.arm, trial.network, part, trials)
                    found.setdefault(name, {}).setdefault(float(at[1]), []).append(value)
    return found


def _curves(trials: Sequence[Result]) -> dict[str, dict[str, dict[float, list[float]]]]:
    """Arm to metric to epoch to a value for each seed, of the part that is deployed."""
    found = dict[str, dict[str, dict[float, list[float]]]]()
    for trial in trials:
        for part in [deployed_part for deployed_part in deployed_parts(trial) if deployed_part in trial.curves][:1]:
            named = found.setdefault(_label(trial.arm, trial.network, part, trials), {})
            for metric, curve in trial.curves[part].items():
                for epoch, value in curve:
                    named.setdefault(metric, {}).setdefault(epoch, []).append(value)
    return found


def _predictions(verdicts: Sequence[Verdict], results: Results) -> dict[str, list[Prediction]]:
    """By metric, what claims compare with a number."""
    rows = dict[str, list[Prediction]]()
    for verdict in verdicts:
        claim, found = verdict.claim, verdict.comparison
        if found is not None and not isinstance(claim.than, Side):
            by = claim.by
            seeds = results.values(verdict.data, verdict.network, by.arm, by.part, claim.metric)
            ends = claim.than + found.low, claim.than + found.high
            label = f"{by.arm}, {by.part} ({verdict.data})"
            rows.setdefault(claim.metric, []).append(Prediction(label, list(seeds.values()), claim.than, *ends))
    return rows
