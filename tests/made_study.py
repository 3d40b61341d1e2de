"""A study of ONE's shape with figures that are made up, seeded: two data sets, six arms, five seeds, an experiment."""

import random
from pathlib import Path

from coterie.studies.results import Result, Results, save_results

STUDY = (Path(__file__).parent / "made_study.yaml").read_text(encoding="utf-8")

# Test error on glyphs and fashion, FLOPs of a training and of the deployed network, in units of the network alone.
_ARMS = {
    "alone": {"target": (38.5, 15.2, 1.0, 1.0)},
    "one": {"target": (34.8, 14.7, 2.2, 1.0), "ensemble": (33.5, 14.3, 2.2, 2.2)},
    "one-without-kl": {"target": (37.7, 14.9, 2.2, 1.0), "ensemble": (33.6, 14.3, 2.2, 2.2)},
    "kd": {"target": (35.4, 14.8, 4.1, 1.0)},
    "dml": {"target": (36.2, 14.9, 2.0, 1.0), "ensemble": (34.4, 14.5, 2.0, 2.0)},
    "okddip <leader>": {"target": (35.0, 14.8, 2.9, 1.0)},
}


def trials():
    noise, found = random.Random(0), []
    for place, data in enumerate(("glyphs", "fashion")):
        for seed in range(5):
            shared = noise.gauss(0, 0.5)
            for arm, parts in _ARMS.items():
                options = {"configuration": {"method": {"name": arm}, "threads": 1, "seed": seed}}
                options["command"] = f"coterie train --config {arm}.yaml --seed {seed}"
                if (arm, data, seed) == ("dml", "fashion", 3):
                    found.append(Result(data, "resnet8", arm, seed, **options, failed="the loss is <nan> at step 7"))
                    continue
                errors = {
                    part: round(figures[place] + shared + noise.gauss(0, 0.4), 2) for part, figures in parts.items()
                }
                measured = {part: {"error": error, "nll": error / 30} for part, error in errors.items()}
                measured["target"] |= {f"flatness_{d}": d * d * (2 if arm == "one" else 3) for d in (0.5, 1.0, 2.0)}
                measured["target"]["generalisation_gap"] = errors["target"] - 5
                if "ensemble" in parts:
                    measured["ensemble"] |= {"disagreement": 20 + noise.gauss(0, 1), "divergence": 0.3}
                    measured["branch1"] = {"error": errors["target"] + 0.2}
                curves = dict[str, dict[str, list[list[float]]]]()
                if data == "glyphs" and arm in ("alone", "one"):
                    end = errors["target"]
                    tested, learned = [[2, end + 30], [4, end]], [[2, end + 20], [4, end - 10]]
                    curves["target"] = {"train_error": learned, "test_error": tested}
                cost = {part: {"parameters": int(78042 * f[3]), "flops": 2.46e7 * f[3]} for part, f in parts.items()}
                total = 1.2e13 * parts["target"][2]
                found.append(
                    Result(
                        data,
                        "resnet8",
                        arm,
                        seed,
                        **options,
                        measured=measured,
                        curves=curves,
                        cost=cost,
                        training_flops=total,
                        seconds=40.0,
                    )
                )
    for seed in range(5):
        theorem = {"single": {"single_view_error": 50 + noise.gauss(0, 1.5)}, "ensemble": {"single_view_error": 0.0}}
        found.append(Result("multi-view", "theorem", "theorems", seed, measured=theorem, seconds=12.0))
    return found


def made(folder, name="made", **changes):
    """Write the study and its results into a folder; the path of the results."""
    study = folder / f"{name}.yaml"
    study.write_text(STUDY, encoding="utf-8")
    head = {"command": f"coterie study {name} --scale small", "version": "0.1.0", "torch": "2.14.1"}
    head |= {"machine": "two cores, one thread", "trials": trials()}
    save_results(folder / f"{name}.json", Results(str(study), "small", **head | changes))
    return folder / f"{name}.json"
