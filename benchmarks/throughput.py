"""How fast ONE trains, against a plain loop on the same machine in the same run.

    python benchmarks/throughput.py        # about four minutes on two cores; writes benchmarks/throughput.json

The reference is what one would write at first: PIL images, per-sample torchvision transforms, a DataLoader with two
workers, float32, default memory format, eager. Both sides train ONE with three branches on ResNet-32 at 32x32, batch
128, crop and flip. Pairs are interleaved, and ratios are taken pair by pair, because machines drift.
"""

import json
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from coterie.console.progress import Reporter
from coterie.data import ImageData, Resident, training_batches
from coterie.evaluation import cost
from coterie.files import write_text
from coterie.losses import one
from coterie.methods import Method, One, Task, Vanilla
from coterie.networks import build
from coterie.peers import branch
from coterie.recipes import Recipe
from coterie.training.options import TrainingOptions
from coterie.training.precision import resolve_precision
from coterie.training.stages import Setting, StageRun

RESULTS = Path(__file__).with_suffix(".json")
BATCH, WARM, STEPS, PAIRS = 128, 3, 12, 5
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def images(count: int) -> ImageData:
    """Random images of CIFAR's shape."""
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8))
    split = Resident(pixels, np.arange(count) % 10)
    names = tuple(str(index) for index in range(10))
    return ImageData("random", names, (32, 32), 3, MEAN, STD, split, split, None, "crop-flip", {})


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """The same images as PIL pictures with per-sample transforms."""

    def __init__(self, data: ImageData) -> None:
        assert isinstance(data.train, Resident)
        self.pictures = [Image.fromarray(pixels.numpy()) for pixels in data.train.data]
        self.labels = data.train.labels
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.pictures[index]), int(self.labels[index])


def reference(data: ImageData) -> Iterator[None]:
    """The plain loop; yields after every step."""
    torch.manual_seed(0)
    net = branch(build("resnet32", 10), 3, example=torch.zeros(2, 3, 32, 32))
    optimiser = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    for pictures, labels in DataLoader(Pictures(data), BATCH, shuffle=True, num_workers=2):
        optimiser.zero_grad()
        one(net(pictures), labels).total.backward()
        optimiser.step()
        yield


def product(method: Method, data: ImageData) -> Iterator[None]:
    """What ``coterie train`` runs; yields after every step."""
    torch.manual_seed(0)
    accelerator = Accelerator()
    task = Task(10, 3, (32, 32), epochs=1)
    stage = next(method.stages(task))
    assert stage.network is not None
    flops = cost(stage.network, 3, (32, 32)).flops
    precision = resolve_precision("auto", accelerator.device, flops)
    setting = Setting(
        data, accelerator, Recipe(), TrainingOptions(batch_size=BATCH, precision=precision), Reporter(False)
    )
    return StageRun(stage, 0, 1, setting).run_epoch()


def seconds_a_step(steps: Iterator[Any]) -> float:
    """Mean over the steps after the warm-up, data included."""
    for _ in islice(steps, WARM):
        pass
    started = time.perf_counter()
    for _ in islice(steps, STEPS):
        pass
    return (time.perf_counter() - started) / STEPS


def loader_rates(data: ImageData) -> tuple[float, float]:
    """Images a second of the resident loader alone and of the reference loader alone."""

    def rate(batches: Callable[[], Iterator[Any]], count: int) -> float:
        stream = batches()
        next(stream)
        started = time.perf_counter()
        done = sum(1 for _ in islice(stream, count))
        return done * BATCH / (time.perf_counter() - started)

    ours = rate(lambda: training_batches(data, batch_size=BATCH, seed=0, stage=0, epoch=0), 300)
    theirs = rate(lambda: iter(DataLoader(Pictures(data), BATCH, shuffle=True, num_workers=2)), 300)
    return ours, theirs


def matmul_peak(dtype: torch.dtype, size: int = 2048) -> float:
    """This machine's best matrix multiplication in GFLOP/s, of twenty."""
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    best = float("inf")
    for _ in range(20):
        started = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best / 1e9


def main() -> None:
    """Measure, print and write."""
    data = images(BATCH * 320)
    one = One(network="resnet32")
    pairs = []
    for number in range(PAIRS):
        ours = seconds_a_step(product(one, data))
        theirs = seconds_a_step(reference(data))
        alone = seconds_a_step(product(Vanilla(network="resnet32"), data))
        pairs.append({"coterie_s": ours, "reference_s": theirs, "alone_s": alone})
        print(f"pair {number + 1}: {theirs / ours:.2f} x the reference, {ours / alone:.2f} x alone", flush=True)
    rates = [loader_rates(data) for _ in range(3)]
    net = branch(build("resnet32", 10), 3, example=torch.zeros(2, 3, 32, 32))
    step_flops = 3 * cost(net, 3, (32, 32)).flops * BATCH  # forward, and twice as much backward
    step = median(pair["coterie_s"] for pair in pairs)
    precision = resolve_precision("auto", torch.device("cpu"), cost(net, 3, (32, 32)).flops)
    peak = matmul_peak(torch.bfloat16 if precision == "bf16" else torch.float32)
    result = {
        "command": "python benchmarks/throughput.py",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "precision": precision,
        "speedup_over_reference": round(median(p["reference_s"] / p["coterie_s"] for p in pairs), 3),
        "one_step_over_alone": round(median(p["coterie_s"] / p["alone_s"] for p in pairs), 3),
        "images_per_second": round(BATCH / step, 1),
        "gflop_per_second": round(step_flops / step / 1e9, 1),
        "matmul_peak_gflop_per_second": round(peak, 1),
        "share_of_peak": round(step_flops / step / 1e9 / peak, 3),
        "loader_images_per_second": round(median(ours for ours, _ in rates)),
        "loader_over_reference": round(median(ours / theirs for ours, theirs in rates), 1),
        "pairs": [{name: round(value, 4) for name, value in pair.items()} for pair in pairs],
    }
    write_text(RESULTS, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
