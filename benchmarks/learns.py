"""Does it learn? ResNet-14 alone and with ONE on 10,000 Fashion-MNIST images, 15 epochs, three seeds.

python benchmarks/learns.py            # resumes where it stopped; writes benchmarks/learns.json
"""

import json
from pathlib import Path

import coterie
from coterie.files import write_text
from coterie.methods import One, Vanilla
from coterie.recipes import Recipe

RESULTS = Path(__file__).with_suffix(".json")
RUNS = Path("runs/learns")


def main() -> None:
    """Train what is missing, and rewrite the results after every run."""
    rows = []
    for seed in range(3):
        for method in (Vanilla(network="resnet14"), One(network="resnet14")):
            data = coterie.data.load("fashion_mnist", train_samples=10_000)
            out = RUNS / f"{method.name}-{seed}"
            run = coterie.train(method, data, recipe=Recipe(), epochs=15, seed=seed, out=out, resume=True)
            errors = {name: round(figures["error"], 2) for name, figures in run.card["test"].items()}
            rows.append({"method": method.name, "seed": seed, "test_error": errors, "seconds": run.card["seconds"]})
            write_text(RESULTS, json.dumps({"command": "python benchmarks/learns.py", "runs": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
