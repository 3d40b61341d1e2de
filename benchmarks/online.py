"""Does each method learn? ResNet-8 on the bundled digits, 20 epochs, three seeds: targets, peers and ensembles.

    python benchmarks/online.py            # resumes where it stopped; writes benchmarks/online.json

One thread, so that two such processes may run side by side. For each method the test errors of its target in every
seed, the worst peer's (a collapsed one would show), and the paired difference to the network alone with its standard
error over the seeds.
"""

import json
from math import sqrt
from pathlib import Path
from statistics import mean, stdev

import coterie
from coterie.files import write_text
from coterie.methods import METHODS
from coterie.recipes import Recipe

RESULTS = Path(__file__).with_suffix(".json")
RUNS = Path("runs/online")
NAMES = ("vanilla", "one", "dml", "cl-ilr", "kdcl", "okddip", "ffl", "pcl", "oem", "ensemble", "snapshot")
SEEDS, EPOCHS, NETWORK = (0, 1, 2), 20, "resnet8"


def main() -> None:
    """Train what is missing, and rewrite the table after every run."""
    data = coterie.data.load("digits")
    cards: dict[str, list[dict]] = {}
    for name in NAMES:
        for seed in SEEDS:
            method = METHODS[name](network=NETWORK)
            out = RUNS / f"{name}-{seed}"
            run = coterie.train(
                method, data, recipe=Recipe(), epochs=EPOCHS, seed=seed, out=out, resume=True, threads=1
            )
            cards.setdefault(name, []).append(run.card)
        write(cards)


def write(cards: dict[str, list[dict]]) -> None:
    """The table of the methods that are done."""
    alone = [card["test"]["target"]["error"] for card in cards["vanilla"]]
    rows = []
    for name, runs in cards.items():
        targets = [card["test"][card["deliverables"][0]]["error"] for card in runs]
        gains = [base - error for base, error in zip(alone, targets, strict=True)]
        rows.append(
            {
                "method": name,
                "target_error": [round(error, 2) for error in targets],
                "mean": round(mean(targets), 2),
                "gain_over_alone": round(mean(gains), 2),
                "standard_error": round(stdev(gains) / sqrt(len(gains)), 2),
                "worst_peer_error": round(
                    max(card["test"][peer]["error"] for card in runs for peer in card["peers"]), 2
                ),
                "ensemble_error": [round(c["test"]["ensemble"]["error"], 2) for c in runs if "ensemble" in c["test"]],
                "seconds": [card["seconds"] for card in runs],
            }
        )
    result = {"command": "python benchmarks/online.py", "network": NETWORK, "epochs": EPOCHS, "rows": rows}
    write_text(RESULTS, json.dumps(result, indent=1) + "\n")
    print(json.dumps(rows[-1]), flush=True)


if __name__ == "__main__":
    main()
