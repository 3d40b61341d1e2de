"""What ``--deterministic`` costs on a CUDA device, and what it gives: whether two trainings end with the same bits.

    python benchmarks/deterministic.py [METHOD…]   # on a machine with one; writes benchmarks/deterministic.json

Each training is a process of its own, as a command is. The two kinds take turns, after one of each to warm the disk,
and a training's time is the one that it writes into its card: of its steps, without building, measuring and start-up.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import load_file

import coterie
from coterie.files import write_text

RESULTS = Path(__file__).with_suffix(".json")
TURNS = 3
# Fashion-MNIST would be read from the network: digits in a larger size take as long.
SETTING = "--data digits --data.image_size 32 --recipe short --batch_size 128 --epochs 4 --test_every 4"
METHODS = {
    "vanilla": "--method vanilla --network resnet32",
    "one": "--method one --network resnet32",
    "srm": "--method srm --network resnet8 --method.features layer1,fc:in",
}


def trained(method: str, out: Path, deterministic: bool) -> coterie.Run:
    """The Run of one training in a process of its own."""
    options = [*METHODS[method].split(), *SETTING.split(), "--deterministic", str(deterministic).lower()]
    command = [sys.executable, "-m", "coterie.cli", "train", *options, "--device", "cuda", "--out", str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return coterie.Run(out)


def same(first: coterie.Run, second: coterie.Run) -> bool:
    """Whether two runs deliver the same bits."""
    ours, theirs = (load_file(run.path / "model.safetensors") for run in (first, second))
    return all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def measure(method: str, place: Path) -> dict[str, object]:
    """Seconds of both kinds, their ratio, and whether trainings of a kind end alike."""
    runs: dict[bool, list[coterie.Run]] = {False: [], True: []}
    for turn in range(TURNS + 1):
        for deterministic in (False, True) if turn % 2 else (True, False):
            runs[deterministic].append(trained(method, place / f"{turn}-{deterministic}", deterministic))
    seconds = {kind: [float(run.card["seconds"]) for run in runs[kind][1:]] for kind in runs}
    return {
        "method": METHODS[method],
        "seconds": seconds[False],
        "seconds_deterministic": seconds[True],
        "ratio": round(median(seconds[True]) / median(seconds[False]), 3),
        "same_bits": all(same(runs[False][0], run) for run in runs[False][1:]),
        "same_bits_deterministic": all(same(runs[True][0], run) for run in runs[True][1:]),
    }


def main() -> None:
    """Measure, print and write."""
    if not torch.cuda.is_available():
        sys.exit("benchmarks/deterministic.py: needs a CUDA device")
    methods = sys.argv[1:] or list(METHODS)
    result: dict[str, object] = {
        "command": " ".join(["python benchmarks/deterministic.py", *sys.argv[1:]]),
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "setting": SETTING,
    }
    trainings = []
    for method in methods:
        with tempfile.TemporaryDirectory() as place:
            trainings.append(measure(method, Path(place)))
        print(json.dumps(trainings[-1]), flush=True)
        write_text(RESULTS, json.dumps(result | {"trainings": trainings}, indent=1) + "\n")


if __name__ == "__main__":
    main()
