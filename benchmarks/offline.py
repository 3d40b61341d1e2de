"""Do the methods with trained teachers learn? ResNet-8 on 180 handwritten digits, 40 epochs, three seeds.

python benchmarks/offline.py            # resumes where it stopped; writes benchmarks/offline.json
"""

import json
from pathlib import Path

import coterie
from coterie.files import write_text
from coterie.methods import Ensemble, Kd, Method, SelfDistillation, Snapshot, Vanilla

RESULTS = Path(__file__).with_suffix(".json")
RUNS = Path("runs/offline")
NETWORK = "resnet8"


def methods(seed: int) -> dict[str, Method]:
    """By the name of the row."""
    ensemble = f"{RUNS / f'ensemble-{seed}'}:ensemble"
    born_again = {"generations": 2, "temperature": 1.0, "label_weight": 1.0, "ensemble": True}
    return {
        "alone": Vanilla(network=NETWORK),
        "ensemble": Ensemble(network=NETWORK),
        "snapshot": Snapshot(network=NETWORK),
        "kd": Kd(network=NETWORK),
        "kd, three teachers": Kd(network=NETWORK, teachers=3),
        "kd from the ensemble": Kd(network=NETWORK, teacher=ensemble),
        "self-distillation": SelfDistillation(network=NETWORK),
        "born again": SelfDistillation(network=NETWORK, **born_again),
    }


def main() -> None:
    """Train what is missing, and rewrite the results after every run."""
    rows = []
    data = coterie.data.load("digits", test_fraction=0.9)
    for seed in range(3):
        for name, method in methods(seed).items():
            out = RUNS / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
            run = coterie.train(
                method, data, epochs=40, batch_size=32, seed=seed, out=out, resume=True, threads=1, tensorboard=False
            )
            errors = {peer: round(figures["error"], 2) for peer, figures in run.card["test"].items()}
            rows.append({"method": name, "seed": seed, "test_error": errors, "seconds": run.card["seconds"]})
            write_text(RESULTS, json.dumps({"command": "python benchmarks/offline.py", "runs": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
