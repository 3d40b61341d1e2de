"""What exported files keep: 8 bits against float32, and preprocessing inside a graph against `coterie predict`.

    python benchmarks/exported.py --root DATA        # trains for about eight minutes, then measures for three
    python benchmarks/exported.py --root DATA --run runs/exported    # goes on from that training

ResNet-32 is trained shortly on 20,000 images of Fashion-MNIST, whose idx files are in DATA. Its float32 and its 8-bit
ONNX run in one process, on one thread, in turns; what counts is the process's own time, which is the clock's where
nothing else runs, and a ratio is the median of the rounds' ratios. Errors are on all 10,000 test images.

For the preprocessing, 1,000 test images are brought to sizes from 12 to 400 pixels a side, of all proportions, once for
a network that takes the whole of an image and once for one that takes a crop of 0.875.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime
import torch
from PIL import Image

import coterie
from coterie.data import ImageData, evaluation_batches
from coterie.files import write_text
from coterie.methods import Vanilla
from coterie.recipes import Recipe

RESULTS = Path(__file__).with_suffix(".json")
ROUNDS = 30
BATCHES = (1, 32, 256)
WHOLE = 1000


def main() -> None:
    """Train where it is not done, measure, and write the results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", required=True)
    parser.add_argument("--run", default="runs/exported")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if not (Path(given.run) / "model.json").is_file():
        data = coterie.data.load("fashion_mnist", root=given.root, train_samples=20_000)
        coterie.train(Vanilla(network="resnet32"), data, recipe=Recipe(), epochs=3, out=given.run, threads=1)
    run = coterie.Run(given.run)
    with tempfile.TemporaryDirectory() as place:
        results = {
            "command": "python benchmarks/exported.py --root DATA",
            "processor": processor(),
            "onnxruntime": onnxruntime.__version__,
            "int8": compare_int8(run, Path(place)),
            "whole_images": [compare_whole(run, Path(place), ratio) for ratio in (1.0, 0.875)],
        }
    write_text(RESULTS, json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


def processor() -> str:
    """Its maker and what it has for 8 bits."""
    about = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    name = next((line.partition(": ")[2] for line in about.splitlines() if line.startswith("model name")), "unknown")
    return f"{name}, {'with' if 'avx512_vnni' in about or 'avx_vnni' in about else 'without'} VNNI"


def compare_int8(run: coterie.Run, place: Path) -> dict[str, Any]:
    """Errors of both files, and how many times as fast the one of 8 bits is."""
    sessions, errors, root = {}, {}, run.config["data"]["root"]
    for format in ("onnx", "onnx-int8"):
        path = coterie.export(run, format, place / f"{format}.onnx").path
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        sessions[format] = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        measured = coterie.measure(path, name="fashion_mnist", root=root)
        errors[format] = round(measured.measures["error"], 2)
    data = run.data()
    images = next(evaluation_batches(data, data.test, batch_size=max(BATCHES))).images.contiguous().numpy()
    speed = [time_batch(sessions, images[:size]) for size in BATCHES]
    return {"error": errors, "lost": round(errors["onnx-int8"] - errors["onnx"], 2), "speed": speed}


def time_batch(sessions: dict[str, Any], images: np.ndarray) -> dict[str, Any]:
    """Milliseconds of a call of each, and their ratio."""
    taken: dict[str, list[float]] = {name: [] for name in sessions}
    calls = max(1, 64 // len(images))
    for number in range(ROUNDS + 1):  # the first one does not count
        for name, session in sessions.items():
            started = time.process_time()
            for _ in range(calls):
                session.run(None, {"images": images})
            if number:
                taken[name].append((time.process_time() - started) / calls)
    ratios = sorted(before / now for before, now in zip(taken["onnx"], taken["onnx-int8"], strict=True))
    return {
        "batch": len(images),
        "milliseconds": {name: round(1000 * median(times), 3) for name, times in taken.items()},
        "times_as_fast": round(median(ratios), 2),
        "range": [round(ratios[0], 2), round(ratios[-1], 2)],
    }


def compare_whole(run: coterie.Run, place: Path, ratio: float) -> dict[str, Any]:
    """On how many images of mixed sizes the graph names the class that `coterie predict` names."""
    copy = place / f"run at {ratio}"
    shutil.copytree(run.path, copy, ignore=shutil.ignore_patterns("checkpoints"))
    card = json.loads((copy / "model.json").read_text())
    (copy / "model.json").write_text(json.dumps(card | {"crop_ratio": ratio}))
    path = coterie.export(copy, "onnx", place / f"whole-{ratio}.onnx", with_preprocessing=True).path
    data = run.data()
    theirs = list(coterie.predictions(copy, mixed(data)))
    ours = list(coterie.predictions(path, mixed(data)))
    agree = sum(one.classes[0] == other.classes[0] for one, other in zip(theirs, ours, strict=True))
    apart = max(abs(one.probabilities[0] - other.probabilities[0]) for one, other in zip(theirs, ours, strict=True))
    return {
        "crop_ratio": ratio,
        "images": len(ours),
        "top1_agreement": agree / len(ours),
        "largest_change": round(apart, 5),
    }


def mixed(data: ImageData) -> Iterator[np.ndarray]:
    """Test images at sizes of all proportions."""
    sides = np.random.default_rng(0).integers(12, 401, (WHOLE, 2))
    for pixels, (height, width) in zip(data.test.pixels(np.arange(WHOLE)), sides, strict=True):
        image = Image.fromarray(pixels[:, :, 0].numpy()).resize((int(width), int(height)), Image.Resampling.BICUBIC)
        yield np.asarray(image)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
