"""How long the package takes to be there, beside torch and timm: pairs of fresh processes, one after the other.

    python benchmarks/imports.py          # prints; with --write it writes imports.json too

`branch` is `import coterie` and `coterie.branch` of a hand-written network; `help` is `coterie --help`; both are set
against `import torch`. `train` is `coterie train` of ONE on digits up to the end of its first step, against `import
torch, timm`. `pool` is four workers of a study from their start to their first answer, against workers that import for
themselves. Each pair runs one after the other; the figure is the median of the pairs' ratios.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BRANCH = """
import coterie
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.last, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3, stride=2), nn.Linear(16, 10)

    def forward(self, images):
        return self.fc(self.last(self.stem(images).relu()).relu().mean((2, 3)))

coterie.branch(Net(), 3, example=torch.zeros(2, 3, 16, 16))
"""
TRAIN = """
import os
import sys
from coterie.training.stages.running import StageRun

step = StageRun._train

def last(self, batch):
    step(self, batch)
    os._exit(0)

StageRun._train = last
options = "--method one --network resnet8 --data digits --recipe short --out".split()
sys.argv = ["coterie", "train", *options, sys.argv[1]]
from coterie.__main__ import main
main()
"""
POOL = """
import sys
from concurrent.futures import wait
from coterie.studies import pools

if sys.argv[1] == "spawn":
    pools.get_all_start_methods = lambda: ["spawn"]
with pools.make_process_pool(4) as pool:
    wait([pool.submit(pools.count_cores) for _ in range(8)])
"""
TORCH, LIBRARIES = ([sys.executable, "-c", f"import {names}"] for names in ("torch", "torch, timm"))
SIDES = {
    "branch": ([sys.executable, "-c", BRANCH], TORCH),
    "help": (
        [sys.executable, "-c", "import sys; sys.argv[1:] = ['--help']; from coterie.__main__ import main; main()"],
        TORCH,
    ),
    "train": ([sys.executable, "-c", TRAIN], LIBRARIES),
    "pool": ([sys.executable, "-c", POOL, "fork"], [sys.executable, "-c", POOL, "spawn"]),
}


def seconds(command: list[str]) -> float:
    """How long a process takes from its start to its end."""
    with tempfile.TemporaryDirectory() as place:
        started = time.perf_counter()
        subprocess.run([*command, f"{place}/run"], check=True, capture_output=True)
        return time.perf_counter() - started


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=9, help="pairs of processes (9)")
    parser.add_argument("--write", action="store_true", help="write imports.json")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), help="these alone; others are kept")
    options = parser.parse_args()
    results = Path(__file__).with_suffix(".json")
    figures = json.loads(results.read_text())["ratios"] if results.is_file() else {}
    for name in options.sides:
        command, alone = SIDES[name]
        seconds(command), seconds(alone)  # files come into memory
        ratios = [seconds(command) / seconds(alone) for _ in range(options.pairs)]
        figures[name] = {
            "median": statistics.median(ratios),
            "lowest": min(ratios),
            "highest": max(ratios),
            "pairs": len(ratios),
        }
        print(
            f"{name:6} {figures[name]['median']:.3f} x {alone[-1].strip()} ({min(ratios):.3f} to {max(ratios):.3f})",
            flush=True,
        )
    if options.write:
        record = {"command": "python benchmarks/imports.py --write", "ratios": figures}
        record["machine"] = {
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
        }
        results.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
