"""Which adversarial mode of MEAL is best here? The same three teachers, student and order for each mode of a seed.

ResNet-8 on 300 digits, 40 epochs, six seeds; errors on 500 test images.

python benchmarks/meal_modes.py            # resumes where it stopped; writes benchmarks/meal_modes.json
"""

import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import coterie
from coterie.data import ImageData
from coterie.files import write_text
from coterie.methods import Ensemble, Meal, Method
from coterie.recipes import Recipe

RESULTS = Path(__file__).with_suffix(".json")
RUNS = Path("runs/meal_modes")
COMMAND = "OMP_NUM_THREADS=1 python benchmarks/meal_modes.py"
VARIANTS: dict[str, dict[str, Any]] = {
    "joint": {"adversarial": "joint"},
    "joint, final ReLU": {"adversarial": "joint", "final_relu": True},
    "grl": {"adversarial": "grl"},
    "alternating": {"adversarial": "alternating"},
    "none": {"adversarial": "none"},
    "none, mean of teachers": {"adversarial": "none", "teacher_choice": "mean"},
}


def main() -> None:
    """Train what is missing, and rewrite the results after every run."""
    rows: list[dict[str, Any]] = []
    data = coterie.data.load("digits", train_samples=300)
    ensemble = Ensemble(network="resnet8")
    for seed in range(6):
        place = RUNS / "digits" / str(seed)
        teachers = trained(ensemble, data, place / "teachers", seed)
        add(rows, "one teacher", seed, teachers, "member1")
        add(rows, "ensemble of teachers", seed, teachers, "ensemble")
        sources = [f"{teachers.path}:{member}" for member in ensemble.stage_names()]
        for variant, options in VARIANTS.items():
            method = Meal(network="resnet8", teacher=sources, **options)
            run = trained(method, data, place / variant.replace(", ", "-").replace(" ", "_"), seed)
            add(rows, variant, seed, run, "target")


def trained(method: Method, data: ImageData, out: Path, seed: int) -> coterie.Run:
    """The run, trained if it is not there."""
    return coterie.train(
        method, data, recipe=Recipe(), epochs=40, seed=seed, out=out, resume=True, threads=1, progress=False
    )


def add(rows: list[dict[str, Any]], variant: str, seed: int, run: coterie.Run, student: str) -> None:
    """Add a run's test figures, and write what there is."""
    figures = run.card["test"][student]
    rows.append({"variant": variant, "seed": seed, "error": figures["error"], "nll": figures["nll"]})
    write_text(RESULTS, json.dumps({"command": COMMAND, "summary": summary(rows), "runs": rows}, indent=1) + "\n")


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds, their spread, and the paired difference to no discriminators."""
    found = []
    alone = _by_seed(rows, "none", "error")
    for variant in dict.fromkeys(row["variant"] for row in rows):
        errors = _by_seed(rows, variant, "error")
        differences = [errors[seed] - alone[seed] for seed in errors if seed in alone]
        found.append(
            {
                "variant": variant,
                "seeds": len(errors),
                "error": round(mean(errors.values()), 2),
                "error_std": _spread(list(errors.values())),
                "nll": round(mean(_by_seed(rows, variant, "nll").values()), 4),
                "error_less_none": round(mean(differences), 2) if differences else None,
                "error_less_none_std": _spread(differences),
            }
        )
    return found


def _by_seed(rows: list[dict[str, Any]], variant: str, figure: str) -> dict[int, float]:
    return {row["seed"]: row[figure] for row in rows if row["variant"] == variant}


def _spread(values: list[float]) -> float | None:
    return round(stdev(values), 2) if len(values) > 1 else None


if __name__ == "__main__":
    main()
