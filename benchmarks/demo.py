"""Which digits show what ONE does? Candidates for ``make demo``, ten seeds each, none of them the demo's own.

python benchmarks/demo.py            # resumes where it stopped; writes benchmarks/demo.json

Each row of the results: test error in % of the network alone and of ONE's target, seed by seed in pairs, the mean gain
and its standard error. One thread; every setting sees the same split of the digits, as the demo does. The order in
which a version of the code or a processor adds numbers moves a single error by half a point: read the means.
"""

import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import coterie
from coterie.files import write_text
from coterie.methods import Method, One, Vanilla

RESULTS = Path(__file__).with_suffix(".json")
RUNS = Path("runs/demo-settings")
SEEDS = range(100, 110)  # the demo's are 0 to 4: it must show what was found here, on seeds that chose nothing

# Name: data options, epochs, batch size, where ONE branches (None: the last stage).
SETTINGS: dict[str, tuple[dict[str, Any], int, int, str | None]] = {
    "300 train, 500 test, layer3": ({"train_samples": 300}, 60, 128, None),
    "180 train, 1617 test, layer3": ({"test_fraction": 0.9}, 40, 32, None),
    "180 train, 1617 test, layer2": ({"test_fraction": 0.9}, 40, 32, "layer2"),
    "359 train, 1438 test, layer2": ({"test_fraction": 0.8}, 30, 32, "layer2"),
}


def main() -> None:
    """Train what is missing, and rewrite the results after every seed."""
    found: dict[str, dict[str, list[float]]] = {name: {"alone": [], "one": []} for name in SETTINGS}
    for seed in SEEDS:
        for name, (options, epochs, batch_size, at) in SETTINGS.items():
            methods: dict[str, Method] = {"alone": Vanilla(network="resnet8"), "one": One(network="resnet8", at=at)}
            for kind, method in methods.items():
                run = coterie.train(
                    method,
                    coterie.data.load("digits", **options),
                    epochs=epochs,
                    batch_size=batch_size,
                    seed=seed,
                    threads=1,
                    out=RUNS / f"{name}-{kind}-{seed}".replace(" ", "-").replace(",", ""),
                    resume=True,
                    progress=False,
                )
                found[name][kind].append(round(run.card["test"]["target"]["error"], 2))
        write_text(RESULTS, json.dumps(_results(found), indent=1) + "\n")


def _results(found: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    settings = []
    for name, errors in found.items():
        gains = [alone - one for alone, one in zip(errors["alone"], errors["one"], strict=True)]
        row: dict[str, Any] = {"setting": name, "epochs": SETTINGS[name][1], "batch_size": SETTINGS[name][2], **errors}
        row |= {"mean_alone": round(mean(errors["alone"]), 2), "mean_one": round(mean(errors["one"]), 2)}
        row["gain"] = round(mean(gains), 2)
        row["standard_error"] = round(stdev(gains) / len(gains) ** 0.5, 2) if len(gains) > 1 else None
        settings.append(row)
    return {"command": "python benchmarks/demo.py", "seeds": f"{SEEDS[0]}-{SEEDS[-1]}", "settings": settings}


if __name__ == "__main__":
    main()
