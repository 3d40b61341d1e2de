"""Whether a change of the code changed a training: digests of the weights of every method, from two seeds.

    python benchmarks/digests.py            # compares with digests.json; exit code 1 where a method differs
    python benchmarks/digests.py --write    # writes digests.json: say in the commit which methods changed, and why
    python benchmarks/digests.py one kdcl   # these methods alone

Each training is small: resnet8 on 539 images of the digits, two epochs a stage, one thread, float32. A digest is taken
over the sorted digests of all delivered tensors, so that a tensor's name and a file's name do not matter. The figures
hold for one processor kind and one PyTorch: compare before and after a change on one machine. All methods take about
four minutes on two cores.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors.torch import load_file

METHODS = (
    *("vanilla", "one", "dml", "cl-ilr", "kdcl", "okddip", "ffl", "pcl", "oem"),
    *("ensemble", "snapshot", "kd", "self-distillation", "srm", "meal", "compact"),
)
SEEDS = (0, 1)
COMMAND = (
    *("train", "--network", "resnet8", "--data", "digits", "--data.test_fraction", "0.7", "--epochs", "2"),
    *("--batch_size", "32", "--threads", "1", "--precision", "fp32", "--recipe", "short"),
)


def digest(run: Path) -> str:
    """A digest of all tensors that a Run delivers, whatever their names."""
    tensors = [
        tensor
        for file in run.rglob("*.safetensors")
        if "checkpoints" not in file.parts
        for tensor in load_file(file).values()
    ]
    each = sorted(hashlib.sha256(tensor.contiguous().numpy().tobytes()).digest() for tensor in tensors)
    return hashlib.sha256(b"".join(each)).hexdigest()[:16]


def train(method: str, seed: int) -> str:
    """Trains in a process of its own and returns the digest."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [
            sys.executable,
            "-m",
            "coterie",
            *COMMAND,
            "--method",
            method,
            "--seed",
            str(seed),
            "--out",
            str(run),
        ]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        if done.returncode:
            raise SystemExit(f"{method}, seed {seed}: {done.stderr.strip().splitlines()[-1:]}")
        return digest(run)


def main() -> int:
    """Trains, then compares or writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", default=METHODS, help="names of methods; without: all")
    parser.add_argument("--write", action="store_true", help="write digests.json instead of comparing")
    options = parser.parse_args()
    file = Path(__file__).with_suffix(".json")
    known = json.loads(file.read_text())["digests"] if file.exists() else {}
    trainings = [(method, seed) for method in options.methods for seed in SEEDS]
    with ThreadPoolExecutor(2) as pool:
        digests = dict(zip(trainings, pool.map(lambda training: train(*training), trainings), strict=True))
    new = {method: [digests[method, seed] for seed in SEEDS] for method in options.methods}
    for method, values in new.items():
        print(f"{method:18} {' '.join(values)}  {'same' if known.get(method) == values else 'differs'}", flush=True)
    if options.write:
        machine = {"torch": torch.__version__, "processor": torch.backends.cpu.get_cpu_capability()}
        file.write_text(json.dumps({"machine": machine, "digests": known | new}, indent=2) + "\n")
        return 0
    return int(any(known.get(method) != values for method, values in new.items()))


if __name__ == "__main__":
    sys.exit(main())
