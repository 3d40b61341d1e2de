"""Channels-last against contiguous memory on a processor with AVX2 alone: how fast it is, and what does not crash.

    python benchmarks/layouts.py             # images a second in both layouts, side by side; benchmarks/layouts.json
    python benchmarks/layouts.py --proof     # convolutions of drawn shapes in both; on Linux with glibc

Speed: a step (forward, backward, fused SGD) of a network, and of ONE with it, in either layout in turn, five pairs, two
threads, images as ``coterie`` lays them out.

Proof: some channels-last convolutions write beyond their memory there (``benchmarks/onednn_crash.py``). Here shapes
are drawn of each kind that ``coterie.processor.layout_of`` takes for proven, and of some that it declines. Each runs
forward and backward in both layouts under glibc's checks of the heap, in a process whose death is counted; outputs and
gradients must agree to 1e-4 of their largest. Stems get images as coterie lays them out, and in channels-last too.
"""

import argparse
import copy
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

import coterie
from coterie.processor import STEMS, laid_out, uses_avx2
from coterie.studies.pools import describe_machine

RESULTS = Path(__file__).with_suffix(".json")
CHECKED = {"LD_PRELOAD": "libc_malloc_debug.so.0", "MALLOC_CHECK_": "3", "OMP_NUM_THREADS": "1"}
SHAPES, IN_A_PROCESS, PAIRS = 1000, 100, 5
# Network, side of the images, their channels, batch.
NETWORKS = (
    ("resnet8", 16, 1, 128),
    ("resnet20", 28, 1, 128),
    ("resnet32", 32, 3, 128),
    ("timm/resnet10t", 64, 3, 64),
    ("timm/resnet18", 64, 3, 32),
    ("timm/tf_efficientnet_lite0", 64, 3, 32),
    ("timm/mobilenetv3_small_100", 64, 3, 32),
    ("timm/densenet121", 64, 3, 16),
)
LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
COMBINED = (("contiguous", "contiguous"), ("channels-last", "channels-last"), ("channels-last", "contiguous"))
SIDES = (1, 2, 3, 4, 5, 7, 8, 9, 14, 16, 17, 28, 32)
WIDTHS = (1, 1, 2, 3, 4, 5, 6, 8, 9, 12)


def draw(kind: str, chance: random.Random) -> dict[str, Any]:
    """A convolution of a kind, and what goes into it."""
    side = chance.choice(SIDES)
    other = chance.choice([side, side, side, chance.randint(1, 20)])
    kernel, stride, groups = chance.choice([1, 1, 3, 3, 3, 5, 7]), chance.choice([1, 1, 2, 2, 3]), 1
    padding = chance.choice([kernel // 2, kernel // 2, 0])
    eights = 1 if kind == "any" else 8
    ins, outs = eights * chance.choice(WIDTHS), eights * chance.choice(WIDTHS)
    if kind == "depthwise":
        ins = outs = groups = 8 * chance.choice([1, 2, 3, 4, 6, 9, 12, 24])
    elif kind == "grouped":
        groups = chance.choice([2, 4])
        ins, outs = (8 * groups * chance.choice([1, 2, 3]) for _ in range(2))
    elif kind in ("stem", "stem of any kernel"):
        ins = chance.choice([1, 3])
        if kind == "stem":
            side, other = (max(8, each) for each in (side, other))
            kernel, stride, padding = chance.choice([STEMS[0], *STEMS])
    if min(side, other) + 2 * padding < kernel:
        padding = kernel // 2
    return {
        "ins": ins, "outs": outs, "kernel": kernel, "stride": stride, "padding": padding, "groups": groups,
        "bias": chance.random() < 0.3, "batch": chance.choice([1, 2, 3, 5, 16, 31, 32, 64, 128]),
        "height": side, "width": other, "of_images": kind.startswith("stem"),
    }  # fmt: skip


def compare(shapes: list[dict[str, Any]]) -> None:
    """In a process of its own: print the number of each shape before it is run, and those that differ."""
    torch.set_num_threads(1)
    for number, shape in enumerate(shapes):
        print(number, flush=True)
        torch.manual_seed(number)
        conv = nn.Conv2d(
            shape["ins"], shape["outs"], shape["kernel"], shape["stride"], shape["padding"],
            groups=shape["groups"], bias=shape["bias"],
        )  # fmt: skip
        images = torch.randn(shape["batch"], shape["ins"], shape["height"], shape["width"])
        plain, *others = (both_ways(conv, images, not shape["of_images"], *forms) for forms in COMBINED)
        for one, other in ((one, each) for found in others for one, each in zip(plain, found, strict=True)):
            if not (one - other).abs().max() <= 1e-4 * one.abs().max().clamp_min(1e-6):
                print("differ", number, flush=True)
    print("end", flush=True)


def both_ways(conv: nn.Conv2d, images: torch.Tensor, needs: bool, weights: str, inputs: str) -> list[torch.Tensor]:
    """Output and gradients, the weights in a layout and what they are given in another."""
    conv = copy.deepcopy(conv).to(memory_format=LAYOUTS[weights])  # type: ignore[call-overload]
    images = images.clone(memory_format=LAYOUTS[inputs]).requires_grad_(needs)
    out = conv(images)
    out.square().sum().backward()
    return [each for each in (out.detach(), conv.weight.grad, images.grad) if each is not None]


def prove(kind: str, count: int) -> dict[str, Any]:
    """How many shapes of a kind ran, killed their process, or differed."""
    chance = random.Random(kind)
    left = [draw(kind, chance) for _ in range(count)]
    died, differ = list[dict[str, Any]](), 0
    while left:
        some = left[:IN_A_PROCESS]
        done = subprocess.run(
            [sys.executable, __file__, "--shapes", json.dumps(some)],
            env=os.environ | CHECKED,
            capture_output=True,
            text=True,
            check=False,
        )
        lines = done.stdout.split("\n")
        differ += sum(line.startswith("differ") for line in lines)
        ran = len(some)
        if "end" not in lines:
            ran = 1 + max(int(line) for line in lines if line.isdigit())
            died.append(some[ran - 1])
        left = left[ran:]
    return {"kind": kind, "shapes": count, "died": len(died), "differ": differ, "first that died": died[:3]}


def measure(name: str, side: int, channels: int, batch: int, branches: int) -> dict[str, Any]:
    """Images a second in both layouts, the median of pairs, and the range of their ratios."""
    torch.manual_seed(0)
    network: nn.Module = coterie.networks.build(name, num_classes=10, in_channels=channels, image_size=(side, side))
    if branches > 1:
        network = coterie.branch(network, branches)
    images, labels = laid_out(torch.randn(batch, channels, side, side)), torch.randint(0, 10, (batch,))
    steps = {
        form: stepper(copy.deepcopy(network).to(memory_format=layout), images, labels)  # type: ignore[call-overload]
        for form, layout in LAYOUTS.items()
    }
    seconds: dict[str, list[float]] = {form: [] for form in steps}
    for pair in range(PAIRS + 1):
        for form, step in steps.items():
            started = time.perf_counter()
            step()
            step()
            if pair:  # the first one chooses kernels
                seconds[form].append((time.perf_counter() - started) / 2)
    ratios = [plain / last for plain, last in zip(*seconds.values(), strict=True)]
    return {
        "network": name, "side": side, "batch": batch, "branches": branches,
        **{form: round(batch / median(each), 1) for form, each in seconds.items()},
        "ratio": round(median(ratios), 3), "low": round(min(ratios), 3), "high": round(max(ratios), 3),
    }  # fmt: skip


def stepper(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    """A step of training."""
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True, fused=True)

    def step() -> None:
        optimiser.zero_grad()
        out = network(images)
        if isinstance(out, torch.Tensor):
            nn.functional.cross_entropy(out, labels).backward()
        else:
            coterie.losses.one(out, labels, temperature=3.0).total.backward()
        optimiser.step()

    return step


def main() -> None:
    """Measure, or prove."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proof", action="store_true", help="draw convolutions, and see which crash or differ")
    parser.add_argument("--shapes", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.shapes:
        compare(json.loads(arguments.shapes))
        return
    if not uses_avx2():
        sys.exit("layouts.py: this processor has other kernels than AVX2's; set ONEDNN_MAX_CPU_ISA=AVX2")
    found = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    found |= {"machine": describe_machine(), "torch": torch.__version__}
    if arguments.proof:
        kinds = {"proven": ("eights", "depthwise", "grouped", "stem"), "declined": ("any", "stem of any kernel")}
        found["proof"] = {word: [prove(kind, SHAPES) for kind in some] for word, some in kinds.items()}
        print(json.dumps(found["proof"], indent=1))
    else:
        torch.set_num_threads(2)
        found["speed"] = []
        for *network, batch in NETWORKS:
            for branches in (1, 3):
                found["speed"].append(measure(*network, batch, branches))
                print(found["speed"][-1], flush=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
