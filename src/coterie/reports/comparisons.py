"""Each experiment beside the network alone, in a sentence."""

from collections.abc import Sequence
from math import sqrt
from statistics import mean, stdev

from coterie.reports.groups import find_baseline
from coterie.reports.measured import Experiment, Measured


def compare_to_baselines(experiments: Sequence[Experiment]) -> list[str]:
    """A line for each experiment that has a baseline, over the seeds that both have."""
    groups = [each.group for each in experiments]
    lines = []
    for experiment in experiments:
        found = find_baseline(experiment.group, groups)
        if found is None or experiment.group.delivers.endswith("-alone"):  # a slimmer network's own baseline
            continue
        baseline, differing = found
        alone = next(each for each in experiments if each.group is baseline)
        pairs = _pairs(experiment, alone)
        if pairs:
            lines.append(_line(experiment, alone, pairs, differing))
    return lines


def _pairs(ours: Experiment, alone: Experiment) -> list[tuple[Measured, Measured]]:
    base = {run.run.config["seed"]: run for run in alone.runs}
    return [(run, base[seed]) for run in ours.runs if (seed := run.run.config["seed"]) in base]


def _line(
    experiment: Experiment, alone: Experiment, pairs: Sequence[tuple[Measured, Measured]], differing: Sequence[str]
) -> str:
    ours, base = ([each.error for each in side] for side in zip(*pairs, strict=True))
    gain = mean(base) - mean(ours)
    what = "an ensemble of the same network" if experiment.group.delivers == "ensemble" else "the same network"
    card = experiment.group.card
    if card.get("pruned"):
        share = card["cost"]["target"]["flops"] / alone.group.card["cost"]["target"]["flops"]
        what = f"the same network, cut to {share:.0%} of its FLOPs,"
    options = experiment.group.settings, alone.group.settings
    but = ", ".join(
        f"{key} {options[1].get(key, 'default')} instead of {options[0].get(key, 'default')}" for key in differing
    )
    return (
        f"Trained by {experiment.group.name}, {what} has a test error of {mean(ours):.2f} %; alone"
        f"{f' (trained otherwise: {but})' if but else ''} it has {mean(base):.2f} %: {abs(gain):.2f} points "
        f"{'fewer' if gain >= 0 else 'more'} ({_doubt(pairs)})."
    )


def _doubt(pairs: Sequence[tuple[Measured, Measured]]) -> str:
    if len(pairs) > 1:
        gains = [base.error - ours.error for ours, base in pairs]
        return f"± {stdev(gains) / sqrt(len(gains)):.2f}, the standard error over {len(gains)} seeds"
    ours, base = pairs[0]
    if ours.predictions is None or base.predictions is None or ours.deployed is None or base.deployed is None:
        return "one seed, inconclusive without the images"
    labels = ours.predictions.labels
    # The two err on the same images: only those on which exactly one errs tell them apart (McNemar).
    apart = int(((ours.deployed.argmax(1) != labels) != (base.deployed.argmax(1) != labels)).sum())
    return f"± {196 * sqrt(apart) / len(labels):.2f} from the choice of test images"
