"""The table of a report: every peer and ensemble of every run, with errors and costs."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from coterie.records import AVERAGE, Card
from coterie.reports.groups import Group, group_runs
from coterie.run import Run


@dataclass(frozen=True)
class TableRow:
    """One network.

    Attributes:
        name: Which peer of which run.
        error: On the test images, in percent.
        nll: In nats.
        ece: Expected calibration error.
        parameters: As deployed.
        flops: Of one image, as deployed.
        training_flops: Of one image's forward while training.
        seconds: Of the whole training.
    """

    name: str
    error: float
    nll: float
    ece: float
    parameters: int
    flops: int
    training_flops: int
    seconds: float


def make_rows(runs: Iterable[Run]) -> list[TableRow]:
    """Every peer and ensemble of the runs, in the order of their experiments."""
    found = []
    for group in group_runs(runs):
        for run in group.runs:
            card, suffix = run.card, _suffix(run, group)
            default = card["deliverables"][0]
            for peer, figures in sorted(card["test"].items(), key=_place(card)):
                # A peer that is not delivered, a branch or a snapshot, costs what the network costs.
                cost = card["cost"].get(peer) or card["cost"].get("target") or card["cost"][default]
                found.append(
                    TableRow(
                        name=group.row(peer) + suffix,
                        error=figures["error"],
                        nll=figures["nll"],
                        ece=figures["ece"],
                        parameters=cost["parameters"],
                        flops=cost["flops"],
                        training_flops=card["cost"].get("training", cost)["flops"],
                        seconds=card["seconds"],
                    )
                )
    return found


def describe_means(runs: Iterable[Run]) -> list[str]:
    """A line for each peer that has several seeds: its mean test error over them and their standard deviation."""
    lines = []
    for group in group_runs(runs):
        if len(group.by_seed) < 2:
            continue
        errors: dict[str, list[float]] = {}
        for card in (run.card for run in group.by_seed.values()):
            for peer, figures in sorted(card["test"].items(), key=_place(card)):
                errors.setdefault(peer, []).append(figures["error"])
        lines += [
            f"{group.row(peer)}: {mean(values):.2f} % error, mean of {len(values)} runs of different seeds "
            f"(standard deviation {stdev(values):.2f})"
            for peer, values in errors.items()
            if len(values) > 1
        ]
    return lines


def _suffix(run: Run, group: Group) -> str:
    """What tells a run from the others of its experiment."""
    if len(group.runs) == 1:
        return ""
    seed = run.config["seed"]
    repeated = sum(other.config["seed"] == seed for other in group.runs) > 1
    return f", seed {seed}" + (f", {run.path}" if repeated else "")


def _place(card: Card) -> Callable[[tuple[str, Any]], int]:
    """Sorts a card's figures: its peers in their order, then what is combined of them."""
    peers: list[str] = card["peers"]
    names = [*peers, *(peer + AVERAGE for peer in peers)]
    return lambda item: names.index(item[0]) if item[0] in names else len(names)
