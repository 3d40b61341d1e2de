"""Numerical precision by a fixed rule from processor, network and support, never by a clock."""

import copy
import time
from typing import Literal

import torch
from torch import nn

from coterie import processor
from coterie.data import ImageData, training_batches
from coterie.errors import UserError
from coterie.evaluation.costs import cost
from coterie.methods import Method, Stage, Task
from coterie.networks.observe.calls import record
from coterie.outputs import Batch

Precision = Literal["bf16", "fp32"]
PrecisionChoice = Literal["auto", "trial", "bf16", "fp32"]

# Below this many FLOPs an image, casting and small kernels are taken to cost a CPU more than bfloat16 saves: a rule of
# thumb, no measurement of which is committed. ``--precision trial`` measures.
_WORTH_IT = 1e7


def has_native_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and processor.has_native_bfloat16()


def choose_precision(
    choice: PrecisionChoice, stage: Stage, method: Method, task: Task, data: ImageData, device: torch.device
) -> Precision:
    """The precision of a run.

    Args:
        choice: What the user asked for.
        stage: The first one.
        method: What is trained.
        task: Its task.
        data: Images of their size are computed.
        device: Where the run trains.

    Raises:
        UserError: bfloat16 was asked for where PyTorch cannot compute it.
    """
    if device.type == "cpu" and choice != "fp32" and (layer := find_unwritten(_network(stage, method, task), data)):
        if choice == "bf16":
            raise UserError(
                f"⟨precision bf16⟩: layer '{layer}' is a strided convolution on maps of one pixel, and part of its "
                "gradient is never written in bfloat16 on a CPU; use ⟨precision fp32⟩ or a larger ⟨data.image_size⟩"
            )
        return "fp32"
    if choice == "trial":
        module = copy.deepcopy(stage.turns[0].module).to(device)  # a trial must leave no trace in the run
        size = min(64, len(data.train))
        batch = next(iter(training_batches(data, batch_size=size, seed=0, stage=0, epoch=0, views=stage.views)))
        return try_precisions(module, batch.to(device))
    return resolve_precision(choice, device, cost(_network(stage, method, task), data.channels, data.image_size).flops)


def _network(stage: Stage, method: Method, task: Task) -> nn.Module:
    """What the first stage trains; where that is no classifier, what is delivered: it is as large."""
    if stage.network is not None:
        return stage.network
    with torch.random.fork_rng(devices=[]):
        return next(iter(method.deliverables(task).values()))


def find_unwritten(network: nn.Module, data: ImageData) -> str | None:
    """The path of a convolution of which oneDNN leaves part of the bfloat16 gradient unwritten; None without one.

    It has a stride and a kernel larger than 1, and its input is one pixel (``benchmarks/onednn_gradient.py``).
    """
    for call in record(network, torch.zeros(2, data.channels, *data.image_size)):
        layer, images = call.module, call.input
        if not isinstance(layer, nn.Conv2d) or not isinstance(images, torch.Tensor) or images.shape[-2:] != (1, 1):
            continue
        if max(layer.stride) > 1 and max(layer.kernel_size) > 1:
            return call.path
    return None


def resolve_precision(choice: PrecisionChoice, device: torch.device, flops: int) -> Precision:
    """The precision of a run: ``auto`` takes bfloat16 where the device has it and the network is large enough.

    Args:
        choice: What the user asked for; ``trial`` is resolved by :func:`try_precisions`.
        device: Where the run trains.
        flops: Of one image's forward through what is trained.

    Raises:
        UserError: bfloat16 was asked for where PyTorch cannot compute it.
    """
    if choice == "bf16" and device.type == "mps":
        raise UserError("⟨precision bf16⟩: not used on this device (mps); use ⟨precision fp32⟩ or ⟨device cpu⟩")
    if choice in ("bf16", "fp32"):
        return "bf16" if choice == "bf16" else "fp32"
    return "bf16" if has_native_bfloat16(device) and flops >= _WORTH_IT else "fp32"


def try_precisions(module: nn.Module, batch: Batch, steps: int = 5) -> Precision:
    """The faster of bfloat16 and float32 for a few forwards and backwards of a turn's module (on request only)."""
    seconds: dict[Precision, float] = {}
    device = batch.images.device
    for precision in ("fp32", "bf16"):
        for step in range(steps + 2):
            if step == 2:  # the first steps choose kernels
                started = time.perf_counter()
            with autocast(device, precision):
                result = module(batch)
            result.loss.total.backward()
            module.zero_grad()
            if device.type == "cuda":
                torch.cuda.synchronize()
        seconds[precision] = time.perf_counter() - started
    return min(seconds, key=lambda precision: seconds[precision])


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which a turn runs forward."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
