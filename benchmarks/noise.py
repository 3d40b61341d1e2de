"""What distillation repairs of noisy labels: ResNet-8 on 300 digits, 0, 20 and 40 % of the labels wrong, three seeds.

Three networks are trained alone on the noisy labels, the first of them being ``vanilla``. Students learn from them and
see no label: ``kd`` (α = 1, T = 1, from the first or from all three) and ``meal`` (MEAL soft-label refinement,
reconstruction) in its modes. ``one`` learns from the noisy labels. Errors are those of the last epoch on 500 clean test
images, and on the training images against their clean labels.

python benchmarks/noise.py            # resumes where it stopped; writes benchmarks/noise.json
"""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import coterie
from coterie.data import ImageData
from coterie.files import write_text
from coterie.methods import Ensemble, Kd, Meal, Method, One
from coterie.recipes import Recipe

RESULTS = Path(__file__).with_suffix(".json")
RUNS = Path("runs/noise")
COMMAND = "OMP_NUM_THREADS=1 python benchmarks/noise.py"
NETWORK, EPOCHS = "resnet8", 40
MEMBERS = Ensemble(network=NETWORK, members=3).stage_names()


def students(teachers: Sequence[str]) -> dict[str, Method]:
    """What is trained beside the teachers, by name."""
    modes: dict[str, Method] = {
        f"meal {mode}": Meal(network=NETWORK, teacher=teachers, adversarial=mode)
        for mode in ("none", "joint", "grl", "alternating")
    }
    return {
        "kd, one teacher": Kd(network=NETWORK, teacher=teachers[:1], alpha=1.0, temperature=1.0),
        "kd, three teachers": Kd(network=NETWORK, teacher=teachers, alpha=1.0, temperature=1.0),
        **modes,
        "one": One(network=NETWORK),
    }


def main() -> None:
    """Train what is missing, and rewrite the results after every run."""
    rows: list[dict[str, Any]] = []
    for seed in range(3):
        for noise in (0.0, 0.2, 0.4):
            data = coterie.data.load("digits", train_samples=300, noise=noise)
            place = RUNS / f"{round(100 * noise)}" / f"{seed}"
            alone = trained(Ensemble(network=NETWORK), data, place / "teachers", seed)
            add(rows, noise, "vanilla", seed, alone, MEMBERS[0])
            add(rows, noise, "ensemble of three", seed, alone, "ensemble")
            for name, method in students([f"{alone.path}:{member}" for member in MEMBERS]).items():
                run = trained(method, data, place / name.replace(", ", "-").replace(" ", "_"), seed)
                add(rows, noise, name, seed, run, "target")


def trained(method: Method, data: ImageData, out: Path, seed: int) -> coterie.Run:
    """The run, trained if it is not there."""
    return coterie.train(
        method, data, recipe=Recipe(), epochs=EPOCHS, seed=seed, out=out, resume=True, threads=1, progress=False
    )


def add(rows: list[dict[str, Any]], noise: float, method: str, seed: int, run: coterie.Run, student: str) -> None:
    """Add a run's errors, and write what there is."""
    rows.append(
        {
            "noise": noise,
            "method": method,
            "seed": seed,
            "test_error": round(run.card["test"][student]["error"], 2),
            "train_error_clean": round(coterie.evaluate(run, student=student, split="train")["error"], 2),
        }
    )
    write_text(RESULTS, json.dumps({"command": COMMAND, "summary": summary(rows), "runs": rows}, indent=1) + "\n")


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds with their standard deviations, and the paired difference to ``vanilla``."""
    found = []
    for noise, method in sorted(dict.fromkeys((row["noise"], row["method"]) for row in rows), key=lambda pair: pair[0]):
        errors, alone = _by_seed(rows, noise, method), _by_seed(rows, noise, "vanilla")
        differences = [errors[seed] - alone[seed] for seed in errors]
        clean = [row["train_error_clean"] for row in rows if (row["noise"], row["method"]) == (noise, method)]
        found.append(
            {
                "noise": noise,
                "method": method,
                "seeds": len(errors),
                "test_error": round(mean(errors.values()), 2),
                "test_error_std": _spread(list(errors.values())),
                "less_vanilla": round(mean(differences), 2),
                "less_vanilla_std": _spread(differences),
                "train_error_clean": round(mean(clean), 2),
            }
        )
    return found


def _by_seed(rows: list[dict[str, Any]], noise: float, method: str) -> dict[int, float]:
    return {row["seed"]: row["test_error"] for row in rows if (row["noise"], row["method"]) == (noise, method)}


def _spread(values: list[float]) -> float | None:
    return round(stdev(values), 2) if len(values) > 1 else None


if __name__ == "__main__":
    main()
