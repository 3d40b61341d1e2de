"""The table of a report: every peer and ensemble of every run, with errors and costs."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from coterie.records import Card
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


def rows(runs: Iterable[Run]) -> list[TableRow]:
    """Every peer and ensemble of the runs, in order."""
    cards = [(run, run.card) for run in runs]
    methods = [card["method"] for _, card in cards]
    found = []
    for run, card in cards:
        several = f", seed {run.config['seed']}" if methods.count(card["method"]) > 1 else ""
        default = card["deliverables"][0]
        for peer, figures in sorted(card["test"].items(), key=_place(card)):
            # A peer that is not delivered, a branch or a snapshot, costs what the network costs.
            cost = card["cost"].get(peer) or card["cost"].get("target") or card["cost"][default]
            found.append(
                TableRow(
                    name=_name(card, peer) + several,
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


def means(runs: Iterable[Run]) -> list[str]:
    """A line for each peer that several runs have: its mean test error and their standard deviation."""
    errors: dict[str, list[float]] = {}
    for card in (run.card for run in runs):
        for peer, figures in sorted(card["test"].items(), key=_place(card)):
            errors.setdefault(_name(card, peer), []).append(figures["error"])
    return [
        f"{name}: {mean(values):.2f} % error, mean of {len(values)} runs (standard deviation {stdev(values):.2f})"
        for name, values in errors.items()
        if len(values) > 1
    ]


def _name(card: Card, peer: str) -> str:
    return f"{card['network'] or 'own module'} alone" if card["method"] == "vanilla" else f"{card['method']}: {peer}"


def _place(card: Card) -> Callable[[tuple[str, Any]], int]:
    """Sorts a card's figures: its peers in their order, then what is combined of them."""
    peers: list[str] = card["peers"]
    return lambda item: peers.index(item[0]) if item[0] in peers else len(peers)
