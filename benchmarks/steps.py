"""What a training step of each online method costs, beside ONE's step and the FLOPs of both.

    python benchmarks/steps.py             # some minutes on two cores; writes benchmarks/steps.json

A step's FLOPs are counted while it runs: forwards, backwards, extra views, averaged peers and fusion heads. Rounds are
interleaved: in each every method runs a few steps, and its seconds are divided by ONE's of the same round.
"""

import json
import time
from itertools import islice
from pathlib import Path
from statistics import median

import torch
from accelerate import Accelerator
from torch.utils.flop_counter import FlopCounterMode

from coterie.evaluation import cost
from coterie.files import write_text
from coterie.methods import METHODS, Method, OnlineMethod, Spec
from coterie.training.precision import resolve_precision
from coterie.training.progress import Reporter
from coterie.training.recipes import Recipe
from coterie.training.stages import Setting, StageRun
from throughput import images

RESULTS = Path(__file__).with_suffix(".json")
NETWORK, BATCH, WARM, STEPS, ROUNDS = "resnet20", 128, 2, 4, 7


class Stepping:
    """A method's stage, a few steps at a time."""

    def __init__(self, method: Method) -> None:
        torch.manual_seed(0)
        self.data = images(BATCH * 64)
        stage = next(method.stages(Spec(10, 3, (32, 32), epochs=1)))
        assert stage.network is not None
        accelerator = Accelerator()
        precision = resolve_precision("auto", accelerator.device, cost(stage.network, 3, (32, 32)).flops)
        setting = Setting(self.data, accelerator, Recipe(), BATCH, 0, precision, Reporter(False))
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


def main() -> None:
    """Measure, print and write."""
    online = [name for name, method in METHODS.items() if issubclass(method, OnlineMethod) and name != "online"]
    names = [*online, "oem"]
    stepping = {name: Stepping(METHODS[name](network=NETWORK)) for name in names}
    flops = {name: each.flops() for name, each in stepping.items()}
    rounds = [{name: each.take(STEPS) for name, each in stepping.items()} for _ in range(ROUNDS)]
    rows = []
    for name in names:
        ratio = flops[name] / flops["one"]
        seconds = median(each[name] / each["one"] for each in rounds)
        rows.append(
            {
                "method": name,
                "flops_of_a_step": flops[name],
                "flops_over_one": round(ratio, 3),
                "seconds_over_one": round(seconds, 3),
                "seconds_over_flops": round(seconds / ratio, 3),
            }
        )
        print(rows[-1], flush=True)
    result = {
        "command": "python benchmarks/steps.py",
        "network": NETWORK,
        "batch": BATCH,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "rows": rows,
        "rounds": [{name: round(value, 4) for name, value in each.items()} for each in rounds],
    }
    write_text(RESULTS, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
