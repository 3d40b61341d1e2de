"""What several processes must agree on: gradients, buffers, answers, and when to stop.

Each process trains on its share of every batch. Gradients are averaged by DistributedDataParallel; all else that a step
changes is a function of the first process's state, so that one checkpoint holds for all.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
    broadcast,
    broadcast_object_list,
    gather_object,
)
from torch import Tensor, nn

from coterie.data import ImageData, evaluation_batches
from coterie.errors import UserError
from coterie.evaluation.predictions import Predictions, predict_batches
from coterie.files import locked
from coterie.outputs import Batch, StepResult
from coterie.training.folder.run_folder import LOCK, RunFolder
from coterie.training.options import TrainingOptions

# Steps between two questions whether a signal came to any process: each costs a wait for the slowest.
_ASK_EVERY = 10

# What torch.distributed raises where another process is gone or silent: RuntimeErrors, known by their words alone.
_LOST = re.compile(
    r"gloo|nccl|connection (closed|reset)|connection was|timed out|timeout|pair closure|broken pipe|heartbeat",
    re.IGNORECASE,
)


def make_accelerator(options: TrainingOptions) -> Accelerator:
    """The process's device and its place among the others.

    Raises:
        UserError: The device is not there, or there are more processes than CUDA devices.
    """
    device = options.device
    _check_cards(device)
    wait = InitProcessGroupKwargs(timeout=timedelta(minutes=options.timeout_minutes))
    # A step need not use all parameters; buffers are shared after a step, by share_buffers, not before the next.
    ddp = DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)
    # Accelerate joins processes without a GPU only where it is told that they have none.
    cpu = device == "cpu" or (device == "auto" and not torch.accelerator.is_available())
    _forget_device(cpu)
    accelerator = Accelerator(cpu=cpu, kwargs_handlers=[ddp, wait])
    if device in ("cuda", "mps") and accelerator.device.type != device:
        raise UserError(f"⟨device {device}⟩: not available here; use ⟨device auto⟩ or ⟨device cpu⟩")
    if options.capture and (accelerator.device.type != "cuda" or accelerator.num_processes > 1):
        here = f"{accelerator.num_processes} processes" if accelerator.num_processes > 1 else accelerator.device.type
        raise UserError(f"⟨capture⟩ is for one process on a CUDA device, and this is {here}; leave it out")
    if options.sync_batch_norm and accelerator.num_processes == 1:
        raise UserError("⟨sync_batch_norm⟩ is for several processes, and this is one; leave it out")
    return accelerator


def _check_cards(device: str) -> None:
    # In every process alike, before any waits for the others: NCCL dies where two share a device.
    if device == "cpu" or not torch.cuda.is_available():
        return
    processes = int(os.environ.get("LOCAL_WORLD_SIZE") or int(os.environ.get("LOCAL_RANK", 0)) + 1)
    cards = torch.cuda.device_count()
    if processes > cards:
        devices = "1 CUDA device" if cards == 1 else f"{cards} CUDA devices"
        raise UserError(f"{processes} processes share {devices} here; start {cards} at most, or use ⟨device cpu⟩")


def _forget_device(cpu: bool) -> None:
    """Let a process that trains alone train on another device than before: Accelerate keeps its first one for good."""
    if PartialState._shared_state:
        state = PartialState()
        if state.num_processes == 1 and (state.device.type == "cpu") != cpu:
            AcceleratorState._reset_state(reset_partial_state=True)


@contextmanager
def only_training(path: Path, accelerator: Accelerator) -> Iterator[RunFolder]:
    """Keep other commands out of a Run's folder while all processes train into it.

    The first process holds the lock, and the others do not go on before it has it.

    Yields:
        The folder.

    Raises:
        UserError: Another command trains into it, or it cannot be written: in every process. Later: another process has
            ended, or does not answer.
    """
    with ExitStack() as stack:
        held: Callable[[], bool] = path.is_dir
        refusal = ""
        if accelerator.is_main_process:
            wanted = f"{path}: another coterie command trains into it; wait for it, or choose another ⟨out⟩"
            try:
                held = stack.enter_context(locked(path / LOCK, wanted))
            except UserError as error:
                refusal = str(error.args[0])  # options stay marked
        try:
            refusal = share_choice(refusal)
            if refusal:
                raise UserError(refusal)
            yield RunFolder(path, accelerator.is_main_process, held)
        except RuntimeError as error:
            if accelerator.num_processes == 1 or not _LOST.search(str(error)):
                raise
            raise UserError(
                f"{path}: another process of this training has ended or does not answer; see what it said, then go on "
                "with ⟨resume true⟩ (⟨timeout_minutes⟩ sets how long to wait)"
            ) from error


def leave_processes() -> None:
    """End the connection to the other processes: one that ends while it is open may be aborted by its own threads."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        with suppress(RuntimeError):  # one of them is gone or silent, which has been said
            torch.distributed.destroy_process_group()


def share_gradients(module: nn.Module, accelerator: Accelerator) -> nn.Module:
    """A turn's module, its gradients averaged over all processes."""
    if accelerator.num_processes == 1:
        return module
    wrapped: nn.Module = accelerator.prepare_model(_LossOnly(module), device_placement=False)
    return wrapped


class _LossOnly(nn.Module):
    """A turn whose loss alone carries gradients: DDP waits for one from all that its outputs depend on."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: Batch) -> StepResult:
        result: StepResult = self.module(batch)
        return replace(result, output=None if result.output is None else result.output.detach())


@torch.no_grad()
def share_buffers(modules: Iterable[nn.Module], accelerator: Accelerator) -> None:
    """Every process takes the first one's buffers, batch norm's statistics among them."""
    if accelerator.num_processes == 1:
        return
    groups: dict[torch.dtype, dict[int, Tensor]] = {}
    for module in modules:
        for buffer in module.buffers():
            groups.setdefault(buffer.dtype, {})[id(buffer)] = buffer
    for buffers in groups.values():
        values = broadcast(torch.cat([buffer.flatten() for buffer in buffers.values()]))
        parts = values.split([buffer.numel() for buffer in buffers.values()])
        for buffer, part in zip(buffers.values(), parts, strict=True):
            buffer.copy_(part.view_as(buffer))


def sum_over_processes(sums: dict[str, Tensor], accelerator: Accelerator) -> dict[str, Tensor]:
    """Sums over all processes."""
    if accelerator.num_processes == 1:
        return dict(sums)
    return {name: accelerator.reduce(value, "sum") for name, value in sums.items()}


def find_signal(signals: Sequence[int], step: int, accelerator: Accelerator) -> int | None:
    """The signal by which all processes stop after this step, if any; with several of them, within a few steps."""
    if accelerator.num_processes == 1:
        return signals[0] if signals else None
    if step % _ASK_EVERY:
        return None
    mine = torch.tensor([signals[0] if signals else 0], device=accelerator.device)
    return int(accelerator.gather(mine).max()) or None


def share_choice(choice: str) -> str:
    """What the first process chose."""
    return str(broadcast_object_list([choice])[0])


def predict_split(network: nn.Module, data: ImageData, split: str, accelerator: Accelerator) -> Predictions:
    """A network's answers to every image of a split, each exactly once, gathered from all processes."""
    images = getattr(data, split)
    rank, world = accelerator.process_index, accelerator.num_processes
    if len(images) < world:
        rank, world = 0, 1
    batches = evaluation_batches(data, images, device=accelerator.device.type, rank=rank, world=world)
    mine = predict_batches(network, batches, accelerator.device)
    if world == 1:
        return mine
    parts: Sequence[Predictions] = gather_object([Predictions.joined([mine])])
    return Predictions.joined(parts)
