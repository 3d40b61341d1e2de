"""What the modern recipe costs in time: images a second with all its parts against the short recipe's, in one run.

    python benchmarks/recipe_throughput.py           # about two minutes on two cores
    python benchmarks/recipe_throughput.py --device cuda

ResNet-20 alone and ONE with three branches of it, resident random images of 32x32, batch 128. All parts are on: label
smoothing, mixup and cutmix, TrivialAugment, random erasing, an exponential average. Both sides take turns; a ratio is
of one pair. The results of each device stand in benchmarks/recipe_throughput.json.
"""

import argparse
import json
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from statistics import median

import torch
from accelerate import Accelerator

from coterie.console.progress import Reporter
from coterie.data import ImageData
from coterie.evaluation import cost
from coterie.files import write_text
from coterie.methods import Method, One, Task, Vanilla
from coterie.recipes import Recipe
from coterie.training.options import TrainingOptions
from coterie.training.precision import resolve_precision
from coterie.training.stages import Setting, StageRun
from throughput import images

RESULTS = Path(__file__).with_suffix(".json")
BATCH, WARM, STEPS, PAIRS = 128, 10, 30, 5
ALL_PARTS = Recipe(
    label_smoothing=0.1,
    mixup=0.2,
    cutmix=1.0,
    policy="trivial-augment",
    erasing=0.25,
    average="ema",
    average_window=0.05,
)
METHODS = {"vanilla": Vanilla, "one": One}


def steps_of(method: Method, data: ImageData, recipe: Recipe, accelerator: Accelerator) -> Iterator[None]:
    """The steps of one long epoch, as ``coterie train`` runs them."""
    torch.manual_seed(0)
    stage = next(method.stages(Task(10, 3, (32, 32), epochs=1)))
    assert stage.network is not None
    precision = resolve_precision("auto", accelerator.device, cost(stage.network, 3, (32, 32)).flops)
    options = TrainingOptions(batch_size=BATCH, precision=precision)
    return StageRun(stage, 0, 1, Setting(data, accelerator, recipe, options, Reporter(False))).run_epoch()


def seconds_a_step(steps: Iterator[None], device: torch.device) -> float:
    """Mean over the steps after the warm-up, data included."""
    for _ in islice(steps, WARM):
        pass
    _wait(device)
    started = time.perf_counter()
    for _ in islice(steps, STEPS):
        pass
    _wait(device)
    return (time.perf_counter() - started) / STEPS


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    device = parser.parse_args().device
    accelerator = Accelerator(cpu=device == "cpu")
    data = images(BATCH * (WARM + STEPS + 1))
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    where = torch.cuda.get_device_name() if device == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    entry: dict[str, object] = {"torch": torch.__version__}
    for name, method in METHODS.items():
        pairs = []
        for _ in range(PAIRS):
            pair = {
                recipe_name: seconds_a_step(
                    steps_of(method(network="resnet20"), data, recipe, accelerator), accelerator.device
                )
                for recipe_name, recipe in (("short", Recipe()), ("modern", ALL_PARTS))
            }
            pairs.append(pair)
        ratios = sorted(pair["short"] / pair["modern"] for pair in pairs)
        entry[name] = {
            "images_per_second_short": round(BATCH / median(pair["short"] for pair in pairs), 1),
            "images_per_second_modern": round(BATCH / median(pair["modern"] for pair in pairs), 1),
            "modern_over_short": round(median(ratios), 3),
            "range": [round(ratios[0], 3), round(ratios[-1], 3)],
        }
        print(where, name, entry[name], flush=True)
    results[where] = entry
    write_text(RESULTS, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
