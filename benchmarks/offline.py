"""Do the methods with trained teachers learn, and what do they cost? ResNet-8 on 180 handwritten digits, 40 epochs.

python benchmarks/offline.py            # resumes where it stopped; writes benchmarks/offline.json

Three seeds, 1,617 test images, one thread. Every stage has 40 epochs; a method's cost is that of all its stages,
teachers included: FLOPs of a step counted while it runs, times the steps, and seconds.
"""

import json
from itertools import islice
from pathlib import Path
from statistics import mean, stdev

import torch
from accelerate import Accelerator
from torch.utils.flop_counter import FlopCounterMode

import coterie
from coterie.console.progress import Reporter
from coterie.data import ImageData
from coterie.files import write_text
from coterie.methods import Ensemble, Kd, Meal, Method, One, SelfDistillation, Snapshot, Srm, Task, Vanilla
from coterie.recipes import Recipe
from coterie.teachers import open_teacher
from coterie.training.options import TrainingOptions
from coterie.training.stages import Setting, StageRun

RESULTS = Path(__file__).with_suffix(".json")
RUNS = Path("runs/offline")
NETWORK, EPOCHS, BATCH, SEEDS = "resnet8", 40, 32, (0, 1, 2)


def methods(seed: int) -> dict[str, Method]:
    """By the name of the row."""
    ensemble = f"{RUNS / f'ensemble-{seed}'}:ensemble"
    born_again = {"generations": 2, "temperature": 1.0, "label_weight": 1.0, "ensemble": True}
    return {
        "alone": Vanilla(network=NETWORK),
        "one": One(network=NETWORK),
        "ensemble": Ensemble(network=NETWORK),
        "snapshot": Snapshot(network=NETWORK),
        "kd": Kd(network=NETWORK),
        "kd, three teachers": Kd(network=NETWORK, teachers=3),
        "kd from the ensemble": Kd(network=NETWORK, teacher=ensemble),
        "self-distillation": SelfDistillation(network=NETWORK),
        "born again": SelfDistillation(network=NETWORK, **born_again),
        "srm": Srm(network=NETWORK, initial_rate=1e-2),
        "srm, probe without labels": Srm(network=NETWORK, initial_rate=1e-2, last="probe"),
        **{
            f"meal, {mode}": Meal(network=NETWORK, adversarial=mode) for mode in ("none", "joint", "grl", "alternating")
        },
    }


def training_flops(method: Method, data: ImageData) -> float:
    """FLOPs of all steps of all stages; teachers that are given cost their own training beside."""
    task = Task(len(data.classes), data.channels, data.image_size, EPOCHS, lambda source: open_teacher(source, data))
    total = 0.0
    for index, stage in enumerate(method.stages(task)):
        setting = Setting(
            data, Accelerator(cpu=True), Recipe(), TrainingOptions(batch_size=BATCH, precision="fp32"), Reporter(False)
        )
        running = StageRun(stage, index, stage.epochs or EPOCHS, setting)
        with FlopCounterMode(display=False) as counter:
            next(islice(running.run_epoch(), 1))
        total += counter.get_total_flops() * running.total_steps
        if stage.finish is not None:
            stage.finish()
    return total


def main() -> None:
    """Train what is missing, and rewrite the results after every run."""
    torch.set_num_threads(1)
    data = coterie.data.load("digits", test_fraction=0.9)
    cards: dict[str, list[dict]] = {}
    flops: dict[str, float] = {}
    for seed in SEEDS:
        for name, method in methods(seed).items():
            out = RUNS / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
            run = coterie.train(
                method,
                data,
                recipe=Recipe(),
                epochs=EPOCHS,
                batch_size=BATCH,
                seed=seed,
                out=out,
                resume=True,
                threads=1,
            )
            cards.setdefault(name, []).append(run.card)
            if name not in flops:
                flops[name] = training_flops(method, data)
            write(cards, flops)


def write(cards: dict[str, list[dict]], flops: dict[str, float]) -> None:
    """The table of what is done."""
    total = dict(flops)
    if "kd from the ensemble" in total:
        total["kd from the ensemble"] += total["ensemble"]
    rows = []
    for name, runs in cards.items():
        errors = [card["test"][card["deliverables"][0]]["error"] for card in runs]
        seconds = [card["seconds"] for card in runs]
        if name == "kd from the ensemble":
            seconds = [own + before["seconds"] for own, before in zip(seconds, cards["ensemble"], strict=False)]
        gains = [base["test"]["target"]["error"] - error for base, error in zip(cards["alone"], errors, strict=False)]
        rows.append(
            {
                "method": name,
                "test_error": [round(error, 2) for error in errors],
                "mean": round(mean(errors), 2),
                "gain_over_alone": round(mean(gains), 2),
                "gain_std": round(stdev(gains), 2) if len(gains) > 1 else None,
                "deployed_parameters": runs[0]["cost"][runs[0]["deliverables"][0]]["parameters"],
                "training_flops_over_alone": round(total[name] / total["alone"], 2),
                "seconds": [round(value, 1) for value in seconds],
            }
        )
    result = {"command": "python benchmarks/offline.py", "network": NETWORK, "epochs": EPOCHS, "rows": rows}
    write_text(RESULTS, json.dumps(result, indent=1) + "\n")
    print(json.dumps(rows[len(cards) - 1]), flush=True)


if __name__ == "__main__":
    main()
