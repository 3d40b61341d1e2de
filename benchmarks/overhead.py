"""What branching itself costs: a branched network with one branch against the model that it wraps.

    python benchmarks/overhead.py        # about three minutes on two cores; writes benchmarks/overhead.json

One branch computes what the model computes; added are the gate, which is a pool and a linear layer, and the calls of
the cut forward. A step is forward and backward in training mode: of the sum of the model's logits on one side, of the
ensemble's on the other, so that the gate learns too. A pair is one step of each on the same images, and the sides take
turns at going first; ratios are taken pair by pair, because machines drift. Each side has weights of its own.
"""

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import timm
import torch
from torch import Tensor, nn

from coterie.files import write_text
from coterie.peers import branch

RESULTS = Path(__file__).with_suffix(".json")
WARM, PAIRS = 4, 40
NETWORKS = {
    "resnet18": {"size": 96, "batch": 16, "options": {}},
    "vit_tiny_patch16_224": {"size": 96, "batch": 16, "options": {"img_size": 96}},
    "mobilenetv3_large_100": {"size": 96, "batch": 16, "options": {}},
}


def seconds(forward: Callable[[Tensor], Tensor], module: nn.Module, images: Tensor) -> float:
    """Of one forward and backward."""
    module.zero_grad()
    started = time.perf_counter()
    forward(images).sum().backward()
    return time.perf_counter() - started


def measure(name: str, size: int, batch: int, options: dict[str, int]) -> dict[str, float | int | str]:
    """Medians of ``PAIRS`` interleaved pairs of one network."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=100, **options)
    images = torch.randn(batch, 3, size, size)
    net = branch(copy.deepcopy(model), 1, example=images[:2]).train()
    sides: list[tuple[Callable[[Tensor], Tensor], nn.Module]] = [
        (model.train(), model),
        (lambda images: net(images).ensemble, net),
    ]
    pairs = []
    for number in range(WARM + PAIRS):
        times = {}
        for side in (0, 1) if number % 2 else (1, 0):
            times[side] = seconds(*sides[side], images)
        pairs.append((times[0], times[1]))
    ratios = sorted(branched / alone for alone, branched in pairs[WARM:])
    return {
        "network": name,
        "image_size": size,
        "batch": batch,
        "cut": " ".join(net.at),
        "model_ms": round(1000 * median(alone for alone, _ in pairs[WARM:]), 2),
        "branched_ms": round(1000 * median(branched for _, branched in pairs[WARM:]), 2),
        "ratio": round(median(ratios), 4),
        "ratio_quartiles": [round(ratios[PAIRS // 4], 4), round(ratios[3 * PAIRS // 4], 4)],
        "dispatch_us": round(1e6 * dispatch(net, images), 1),
    }


def dispatch(net: nn.Module, images: Tensor) -> float:
    """Seconds in which a forward finds its graph, best of a hundred: it is the same however large the network."""
    best = float("inf")
    for _ in range(100):
        started = time.perf_counter()
        net.splits.of(net.target, images)
        best = min(best, time.perf_counter() - started)
    return best


def main() -> None:
    """Measure, print and write."""
    results = []
    for name, setting in NETWORKS.items():
        results.append(measure(name, **setting))
        print(json.dumps(results[-1]), flush=True)
    result = {
        "command": "python benchmarks/overhead.py",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "pairs": PAIRS,
        "networks": results,
    }
    write_text(RESULTS, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
