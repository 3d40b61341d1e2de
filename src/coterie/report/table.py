"""The table of a report: every peer and ensemble of every run, with errors and costs."""

from collections.abc import Iterable
from dataclasses import dataclass

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
    found = []
    for run in runs:
        card = run.card
        default = card["deliverables"][0]
        for peer, figures in sorted(card["test"].items(), key=lambda item: _place(item[0])):
            cost = card["cost"].get(peer, card["cost"][default])
            name = (
                f"{card['network'] or 'own module'} alone"
                if card["method"] == "vanilla"
                else f"{card['method']}: {peer}"
            )
            found.append(
                TableRow(
                    name=name,
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


def _place(peer: str) -> tuple[int, str]:
    return ({"target": 0, "ensemble": 2}.get(peer, 1), peer)
