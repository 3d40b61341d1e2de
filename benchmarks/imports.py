"""How long the package takes to be there, beside torch: pairs of fresh processes, one after the other.

    python benchmarks/imports.py          # prints; with --write it writes imports.json too

`branch` is `import coterie` and `coterie.branch` of a hand-written network; `help` is `coterie --help`. Each is set
against `import torch` in a process of its own, right before it; the figure is the median of the pairs' ratios.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
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
SIDES = {
    "branch": [sys.executable, "-c", BRANCH],
    "help": [sys.executable, "-m", "coterie", "--help"],
}


def seconds(command: list[str]) -> float:
    """How long a process takes from its start to its end."""
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=9, help="pairs of processes (9)")
    parser.add_argument("--write", action="store_true", help="write imports.json")
    options = parser.parse_args()
    torch_alone = [sys.executable, "-c", "import torch"]
    figures = {}
    for name, command in SIDES.items():
        seconds(command), seconds(torch_alone)  # files come into memory
        ratios = [seconds(command) / seconds(torch_alone) for _ in range(options.pairs)]
        figures[name] = {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}
        print(
            f"{name:6} {figures[name]['median']:.3f} x import torch ({min(ratios):.3f} to {max(ratios):.3f})",
            flush=True,
        )
    if options.write:
        record = {"command": "python benchmarks/imports.py --write", "pairs": options.pairs, "ratios": figures}
        record["machine"] = {
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
        }
        Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
