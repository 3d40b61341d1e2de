"""What a training step of each online method costs, beside ONE's step and the FLOPs of both.

    python benchmarks/steps.py             # some minutes on two cores; writes benchmarks/steps.json

A step's FLOPs are counted while it runs: forwards, backwards, extra views, averaged peers and fusion heads. Rounds are
interleaved: in each every method runs a few steps, and its seconds are divided by ONE's of the same round.

FLOPs say little of thin layers, which run at few FLOPs a second. OEM's students are thin, so its step is compared with
the sum of its students' own steps too, each trained alone by the paper's baseline, and on a network of wide layers.
"""

import json
import time
from itertools import islice
from pathlib import Path
from statistics import median

import torch
from accelerate import Accelerator
from torch.utils.flop_counter import FlopCounterMode

from coterie.console.progress import Reporter
from coterie.evaluation import cost
from coterie.files import write_text
from coterie.methods import METHODS, Method, Oem, OnlineMethod, Task
from coterie.recipes import Recipe
from coterie.training.options import TrainingOptions
from coterie.training.precision import resolve_precision
from coterie.training.stages import Setting, StageRun
from throughput import images

RESULTS = Path(__file__).with_suffix(".json")
NETWORK, WIDE = "resnet20", "torchvision/resnet18"
BATCH, WARM, STEPS, ROUNDS = 128, 2, 4, 7


class Stepping:
    """A method's stage, a few steps at a time."""

    def __init__(self, method: Method) -> None:
        torch.manual_seed(0)
        self.data = images(BATCH * 64)
        stage = next(method.stages(Task(10, 3, (32, 32), epochs=1)))
        assert stage.network is not None
        accelerator = Accelerator()
        precision = resolve_precision("auto", accelerator.device, cost(stage.network, 3, (32, 32)).flops)
        setting = Setting(
            self.data, accelerator, Recipe(), TrainingOptions(batch_size=BATCH, precision=precision), Reporter(False)
        )
        self.running = StageRun(stage, 0, 1000, setting)
        self.steps = self.running.run_epoch()
        self.take(WARM)

    def take(self, count: int) -> float:
        """Seconds of a step."""
        started = time.perf_counter()
        for _ in islice(self.steps, count):
            pass
        return (time.perf_counter() - started) / count

    def flops(self) -> int:
        """FLOPs of one step, counted while it runs."""
        with FlopCounterMode(display=False) as counter:
            self.take(1)
        return counter.get_total_flops()


def measured(methods: dict[str, Method], base: str, count: int = STEPS) -> tuple[list[dict], dict[str, list[float]]]:
    """A row for each method beside ``base``, and the seconds of every round."""
    stepping = {name: Stepping(method) for name, method in methods.items()}
    flops = {name: each.flops() for name, each in stepping.items()}
    rounds: dict[str, list[float]] = {name: [] for name in stepping}
    for _ in range(ROUNDS):
        for name, each in stepping.items():
            rounds[name].append(round(each.take(count), 4))
    return [row(name, flops[name], flops[base], rounds[name], rounds[base]) for name in stepping], rounds


def row(name: str, flops: int, base_flops: int, seconds: list[float], base_seconds: list[float]) -> dict:
    """A method's step over another's: FLOPs, seconds, and the one over the other."""
    ratio = flops / base_flops
    time_ratio = median(own / other for own, other in zip(seconds, base_seconds, strict=True))
    found = {
        "method": name,
        "flops_of_a_step": flops,
        "flops_over_base": round(ratio, 3),
        "seconds_over_base": round(time_ratio, 3),
        "seconds_over_flops": round(time_ratio / ratio, 3),
    }
    print(found, flush=True)
    return found


def oem_beside_its_students(network: str) -> dict:
    """OEM's step over the sum of its students' steps when each is trained alone."""
    alone = {f"student {number} alone": Oem(network=network, alone=number) for number in range(1, 6)}
    rows, rounds = measured({"oem": Oem(network=network), "one": METHODS["one"](network=network), **alone}, "one", 2)
    flops = {each["method"]: each["flops_of_a_step"] for each in rows}
    summed = [sum(each) for each in zip(*(rounds[name] for name in alone), strict=True)]
    together = row(
        "oem over its students alone", flops["oem"], sum(flops[name] for name in alone), rounds["oem"], summed
    )
    return {"network": network, "base": "one", "rows": rows, "beside_its_students": together, "rounds": rounds}


def main() -> None:
    """Measure, print and write."""
    online = [name for name, method in METHODS.items() if issubclass(method, OnlineMethod) and name != "online"]
    rows, rounds = measured({name: METHODS[name](network=NETWORK) for name in [*online, "oem"]}, "one")
    result = {
        "command": "python benchmarks/steps.py",
        "network": NETWORK,
        "batch": BATCH,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "base": "one",
        "rows": rows,
        "rounds": rounds,
        "oem": [oem_beside_its_students(network) for network in (NETWORK, WIDE)],
    }
    write_text(RESULTS, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
