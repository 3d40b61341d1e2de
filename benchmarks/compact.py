"""How fast a network runs when it is cut to a budget: latency against FLOPs and parameters.

    python benchmarks/compact.py        # about two minutes on two cores; writes benchmarks/compact.json

MobileNet-V2 at 160 x 160 pixels and ResNet-20 at 32 x 32, both of 10 classes, are cut to budgets without any training:
latency knows nothing of what weights say. They run as ONNX Runtime runs an exported network, on one thread, one image
at a time, and what counts is that thread's processor time, which is the clock's where nothing else runs. Networks take
turns, round by round, because machines drift, and a ratio is the median of the rounds' ratios.
"""

import json
import logging
import platform
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median
from typing import Any

import onnxruntime
import torch
from torch import nn

from coterie.evaluation import cost
from coterie.files import write_text
from coterie.methods.compact.costs import ChannelCosts
from coterie.networks import build
from coterie.networks.prune.channel_groups import Resource, find_channel_groups
from coterie.networks.prune.removal import prune_channels, select_within_budget

RESULTS = Path(__file__).with_suffix(".json")
NETWORKS = {"torchvision/mobilenet_v2": 160, "resnet20": 32}
BUDGETS: list[tuple[Resource, float]] = [
    ("flops", 1.0),
    ("flops", 0.7),
    ("flops", 0.5),
    ("flops", 0.3),
    ("params", 0.5),
    ("params", 0.2),
]
MULTIPLE, ROUNDS, SECONDS = 8, 15, 0.1  # the method's own default


def slim(name: str, size: int, target: Resource, budget: float) -> nn.Module:
    """A network pruned to a budget by the pressure that the penalty would put on its channels."""
    torch.manual_seed(0)
    network = build(name, 10, 3, image_size=(size, size)).eval()
    if budget == 1:
        return normalised(network, size)
    images = torch.zeros(1, 3, size, size)
    groups = find_channel_groups(network, images)
    everything = torch.ones(groups.num_channels, dtype=torch.bool)
    weights = ChannelCosts(groups, target).weights(everything)
    values = torch.rand(groups.num_channels) * (weights.mean() / weights).clamp(0.25, 1)
    prune_channels(network, groups, select_within_budget(values, groups, target, budget, 0.1, MULTIPLE), images)
    return normalised(network, size)


@torch.no_grad()
def normalised(network: nn.Module, size: int) -> nn.Module:
    """Batch norms with statistics of their own, as after training: values that vanish are slow to compute with."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    network.train()(torch.randn(8, 3, size, size))
    return network.eval()


def session(network: nn.Module, size: int) -> onnxruntime.InferenceSession:
    """The network in ONNX Runtime, on one thread."""
    images = torch.zeros(1, 3, size, size)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "model.onnx"
        torch.onnx.export(network, (images,), path, dynamo=True, input_names=["images"], verbose=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def milliseconds(runner: onnxruntime.InferenceSession, images: Any) -> float:
    """Median time of one image over a stretch of about ``SECONDS``."""
    times = []
    started = time.perf_counter()
    while time.perf_counter() - started < SECONDS or len(times) < 3:
        before = time.thread_time()
        runner.run(None, {"images": images})
        times.append(time.thread_time() - before)
    return 1e3 * median(times)


def measured(name: str, size: int) -> list[dict[str, Any]]:
    """One row a budget; the first is the whole network."""
    networks = [slim(name, size, *budget) for budget in BUDGETS]
    sessions = [session(network, size) for network in networks]
    images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0)).numpy()
    rounds = [[milliseconds(each, images) for each in sessions] for _ in range(ROUNDS)]
    costs = [cost(network, 3, (size, size)) for network in networks]
    return [
        {
            "target": target,
            "budget": budget,
            "flops": costs[index].flops,
            "flops_share": round(costs[index].flops / costs[0].flops, 4),
            "parameters": costs[index].parameters,
            "parameters_share": round(costs[index].parameters / costs[0].parameters, 4),
            "milliseconds": round(median(each[index] for each in rounds), 4),
            "latency_share": round(median(each[index] / each[0] for each in rounds), 3),
        }
        for index, (target, budget) in enumerate(BUDGETS)
    ]


def main() -> None:
    """Measure, print and write."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    results: dict[str, Any] = {
        "command": "python benchmarks/compact.py",
        "onnxruntime": onnxruntime.__version__,
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "threads": 1,
        "multiple": MULTIPLE,
        "networks": {},
    }
    for name, size in NETWORKS.items():
        results["networks"][f"{name} at {size}x{size}"] = rows = measured(name, size)
        for row in rows:
            print(name, row, flush=True)
    write_text(RESULTS, json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
