"""How fast this machine trains with coterie: beside its own peaks, and beside a plain loop in the same run.

    python benchmarks/machine.py                       # all cases, about twenty minutes on two cores
    python benchmarks/machine.py --cases resnet32      # some
    python benchmarks/machine.py --table               # the table of all machines that were measured

Cases: the network alone, ONE with three branches, DML with two networks, and KD's student, of ResNet-20 and ResNet-32
at 32x32, of timm's resnet18 and of a ViT-tiny with patches of 16 at 64x64; random images, crop and flip. The plain loop
is what one would write at first: PIL images, per-sample transforms, a DataLoader without workers and one with as many
as cores (the better counts), float32 on a processor, autocast on a card. coterie runs what ``coterie train`` runs. Data
are included on both sides. A round measures all sides one after another; a ratio is of one round, and five rounds give
its median and range.

FLOPs are counted in a step of coterie's: a share of the peak is of the best matrix multiplication in the precision that
coterie chose. Results stand in benchmarks/machine.json by kind of machine; a case that is measured again is replaced. A
processor is held to AVX2 by ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2, a kind of
its own.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice, product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from cells import surroundings
from coterie import processor
from coterie.console.progress import Reporter
from coterie.data import ImageData, Resident
from coterie.evaluation.costs import cost
from coterie.files import write_text
from coterie.losses import one
from coterie.methods import Dml, Kd, Method, One, Task, Vanilla
from coterie.networks import Backbone
from coterie.peers import branch
from coterie.recipes import Recipe
from coterie.training.options import TrainingOptions
from coterie.training.precision import resolve_precision
from coterie.training.stages import Setting, StageRun

RESULTS = Path(__file__).with_suffix(".json")
ROUNDS, WARM, SECONDS, MOST, CLASSES = 5, 2, 2.0, 200, 10
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
METHODS: dict[str, Callable[..., Method]] = {
    "vanilla": Vanilla,
    "one": One,
    "dml": partial(Dml, updates="simultaneous"),
    "kd": Kd,
}


@dataclass(frozen=True)
class Network:
    """A network, the side of its images, and the images in a step."""

    name: str
    side: int
    batch: int


NETWORKS = {
    "resnet20": Network("resnet20", 32, 128),
    "resnet32": Network("resnet32", 32, 128),
    "resnet18": Network("timm/resnet18", 64, 64),
    "vit-tiny": Network("timm/vit_tiny_patch16_224", 64, 64),
}


# What both sides train --------------------------------------------------------------------------------------------


def images(network: Network) -> ImageData:
    """Random images, enough for the longest measurement."""
    count, side = network.batch * (WARM + MOST), network.side
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8))
    split = Resident(pixels, np.arange(count) % CLASSES)
    names = tuple(str(index) for index in range(CLASSES))
    return ImageData("random", names, (side, side), 3, MEAN, STD, split, split, None, "crop-flip", {})


def build(network: Network) -> nn.Module:
    """The network, untrained."""
    return Backbone(network.name).build(CLASSES, 3, (network.side, network.side))


class Pictures(Dataset[tuple[Tensor, int]]):
    """The same images as PIL pictures with per-sample transforms."""

    def __init__(self, data: ImageData) -> None:
        assert isinstance(data.train, Resident)
        self.pictures = [Image.fromarray(pixels.numpy()) for pixels in data.train.data]
        self.labels = data.train.labels
        side = data.image_size[0]
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(side, padding=side // 8),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(data.mean, data.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.pictures[index]), int(self.labels[index])


def plain_loss(
    method: str, network: Network, device: torch.device
) -> tuple[Callable[[Tensor, Tensor], Tensor], list[nn.Parameter]]:
    """A method as one would write it in a loop of one's own, and what it trains."""
    ours = build(network).to(device)
    if method == "vanilla":
        return lambda x, y: functional.cross_entropy(ours(x), y), list(ours.parameters())
    if method == "one":
        net = branch(ours, 3, example=torch.zeros(2, 3, network.side, network.side, device=device)).to(device)
        return lambda x, y: one(net(x), y).total, list(net.parameters())
    other = build(network).to(device)

    def apart(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        pair = functional.log_softmax(student / temperature, 1), functional.softmax(teacher.detach() / temperature, 1)
        return temperature**2 * functional.kl_div(*pair, reduction="batchmean")

    if method == "dml":

        def mutual(x: Tensor, y: Tensor) -> Tensor:
            first, second = ours(x), other(x)
            labels = functional.cross_entropy(first, y) + functional.cross_entropy(second, y)
            return labels + apart(first, second, 1.0) + apart(second, first, 1.0)

        return mutual, [*ours.parameters(), *other.parameters()]
    other.eval()

    def taught(x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            soft = other(x)
        logits = ours(x)
        return 0.1 * functional.cross_entropy(logits, y) + 0.9 * apart(logits, soft, 4.0)

    return taught, list(ours.parameters())


def plain(method: str, network: Network, pictures: Pictures, device: torch.device, workers: int) -> Iterator[None]:
    """The plain loop; yields after every step."""
    torch.manual_seed(0)
    loss, parameters = plain_loss(method, network, device)
    optimiser = torch.optim.SGD(parameters, 0.01, momentum=0.9, weight_decay=5e-4, nesterov=True)
    for x, y in DataLoader(pictures, network.batch, shuffle=True, num_workers=workers):
        optimiser.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            total = loss(x.to(device), y.to(device))
        total.backward()
        optimiser.step()
        yield


def coterie_run(method: str, network: Network, data: ImageData, accelerator: Accelerator) -> StageRun:
    """The stage in which a method's network learns, as ``coterie train`` runs it."""
    torch.manual_seed(0)
    made = METHODS[method](network=network.name)
    *_, stage = made.stages(Task(CLASSES, 3, data.image_size, epochs=1))
    assert stage.network is not None
    flops = cost(stage.network, 3, data.image_size).flops
    precision = resolve_precision("auto", accelerator.device, flops)
    options = TrainingOptions(batch_size=network.batch, precision=precision)
    return StageRun(stage, 0, 1, Setting(data, accelerator, Recipe(learning_rate=0.01), options, Reporter(False)))


# Measuring ----------------------------------------------------------------------------------------------------------


def steps_a_second(steps: Iterator[None], device: torch.device) -> float:
    """Of steps after the warm-up, for about two seconds, data included."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    for _ in islice(steps, WARM):
        pass
    wait()
    started, done = time.perf_counter(), 0
    for _ in islice(steps, MOST):
        done += 1
        if done % 10 == 0 or device.type == "cpu":
            wait()
            if time.perf_counter() - started > SECONDS:
                break
    wait()
    return done / (time.perf_counter() - started)


def measure(
    method: str, network: Network, device: torch.device, rounds: int, peaks: dict[str, float]
) -> dict[str, Any]:
    """A case: images a second of both sides, and the ratio of every round."""
    data, accelerator = images(network), Accelerator(cpu=device.type == "cpu")
    pictures, cores = Pictures(data), os.cpu_count() or 1
    rows, run = [], coterie_run(method, network, data, accelerator)
    for _ in range(rounds):
        run = coterie_run(method, network, data, accelerator)
        ours = steps_a_second(run.run_epoch(), device)
        loops = {count: steps_a_second(plain(method, network, pictures, device, count), device) for count in (0, cores)}
        rows.append({"coterie": ours, "plain": max(loops.values()), "workers": max(loops, key=lambda c: loops[c])})
    precision, flops = run.setting.options.precision, run.flops_per_image
    assert flops is not None
    rate = median(row["coterie"] for row in rows) * network.batch
    ratios = [row["coterie"] / row["plain"] for row in rows]
    return {
        "network": network.name,
        "pixels": network.side,
        "method": method,
        "batch": network.batch,
        "precision": precision,
        "images_per_second": round(rate, 1),
        "plain_images_per_second": round(median(row["plain"] for row in rows) * network.batch, 1),
        "over_plain": round(median(ratios), 2),
        "range": [round(min(ratios), 2), round(max(ratios), 2)],
        "plain_workers": rows[-1]["workers"],
        "gflop_per_image": round(flops / 1e9, 3),
        "share_of_peak": round(rate * flops / 1e9 / peaks[f"matmul {precision}"], 3),
    }


def find_peaks(device: torch.device) -> dict[str, float]:
    """The best of twenty matrix multiplications in GFLOP/s, and of twenty copies in GB/s read and written."""
    size = 8192 if device.type == "cuda" else 2048
    peaks = {}
    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if device.type == "cpu" and not processor.has_native_bfloat16():
        del kinds["bf16"]
    for name, dtype in kinds.items():
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        peaks[f"matmul {name}"] = round(2 * size**3 / _best(lambda: torch.mm(a, b), device) / 1e9, 1)  # noqa: B023
    source = torch.zeros(2**28, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    peaks["memory GB/s"] = round(2 * source.nbytes / _best(lambda: target.copy_(source), device) / 1e9, 1)
    return peaks


def _best(run: Callable[[], Any], device: torch.device) -> float:
    best = float("inf")
    for _ in range(20):
        started = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return best


def kind_of_machine(device: torch.device) -> str:
    """What the figures are of: a card, or a processor with what PyTorch uses of it."""
    name = surroundings(device.type)["device"].removeprefix("cpu, ")
    if device.type == "cuda":
        return name
    sets = torch.backends.cpu.get_cpu_capability() + (" with bfloat16" if processor.has_native_bfloat16() else "")
    return f"{name}, {sets}, {torch.get_num_threads()} threads"


# Command ------------------------------------------------------------------------------------------------------------


def table(results: dict[str, Any]) -> str:
    """All machines, as the guide shows them."""
    lines = [
        "| machine | network | method | images/s | over the plain loop | share of the peak |",
        "|---|---|---|---|---|---|",
    ]
    for kind, found in results.items():
        for row in found["cases"]:
            low, high = row["range"]
            lines.append(
                f"| {kind} | {row['network']} at {row['pixels']}, {row['precision']} | {row['method']} | "
                f"{row['images_per_second']:,.0f} | {row['over_plain']:.2f} ({low:.2f} to {high:.2f}) | "
                f"{row['share_of_peak']:.0%} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--cases", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="networks")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--table", action="store_true", help="print what was measured, and measure nothing")
    arguments = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    if arguments.table:
        print(table(results))
        return
    device = torch.device(arguments.device)
    kind, peaks = kind_of_machine(device), find_peaks(device)
    print(kind, peaks, flush=True)
    before = {(row["network"], row["method"]): row for row in results.get(kind, {}).get("cases", [])}
    for name, method in product(arguments.cases, arguments.methods):
        row = measure(method, NETWORKS[name], device, arguments.rounds, peaks)
        before[row["network"], method] = row
        print(json.dumps(row), flush=True)
        results[kind] = {
            "command": "python benchmarks/machine.py",
            **surroundings(device.type),
            "rounds": arguments.rounds,
            "peaks": peaks,
            "cases": list(before.values()),
        }
        write_text(RESULTS, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
