"""A step that is recorded once as a CUDA graph and replayed.

An eager step of a small network with branches is thousands of kernels, and a card waits for the processor to launch
each of them. A recording launches them all at once. Batches are made and copied into fixed tensors before a replay;
schedules, hooks, averages, measurements and checkpoints are between replays, as they always are.

The first step on batches of a shape is an ordinary one. The second is too, but every operation of it is looked at
(:class:`Watch`): one that asks the device for a value, or that touches another device, could not be replayed, and then
no step of the stage is recorded. From the third on the recording is replayed. So nothing has to be undone: the steps
that warm the device up are steps of the training.

What a recording cannot know is what Python keeps from step to step, such as a counter in a module. Every method here is
tested for that; a method of your own may read the batch, and what its hooks write into tensors.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from coterie.errors import in_a_line
from coterie.outputs import Batch

Step = Callable[[Batch], None]
Replay = Callable[[], None]

_BY_VALUE = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
# Their shapes do not depend on values unless an index is a mask, which Watch looks for itself.
_INDEXING = ("aten::index.Tensor", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within the block, finds the first operation that a recording could not replay.

    Args:
        device: Where everything should be.

    Attributes:
        reason: What was found; None for nothing.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device
        self.reason: str | None = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation, and look at it."""
        result = func(*args, **(kwargs or {}))
        if self.reason is None:
            self.reason = self._fault(func, [*tree_leaves((args, kwargs)), *tree_leaves(result)])
        return result

    def _fault(self, func: Any, leaves: Sequence[Any]) -> str | None:
        name = func.name()
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if name == "aten::lift_fresh":
            return "a number of the processor's becomes a tensor"  # by a copy, which a step waits for
        if name.startswith(_INDEXING):
            by_value = any(tensor.dtype in (torch.bool, torch.uint8) for tensor in tensors[1:-1])
        else:
            by_value = any(tag in func.tags for tag in _BY_VALUE)
        if by_value:
            return f"the processor waits for a value ({name})"
        elsewhere = {tensor.device.type for tensor in tensors} - {self.device.type}
        return f"{name} is on the device '{elsewhere.pop()}'" if elsewhere else None


def record_graph(step: Step, batch: Batch) -> Replay:
    """Record a step on a batch as a CUDA graph; nothing is computed until the replay."""
    graph = torch.cuda.CUDAGraph()
    # Another thread makes the next batch meanwhile: what it does is no part of the recording, and is allowed.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        step(batch)
    return graph.replay


@dataclass
class _Shape:
    """Batches of one shape.

    Attributes:
        steps: How many there were.
        batch: The fixed tensors that the recording reads.
        replay: The recording.
    """

    steps: int = 0
    batch: Batch | None = None
    replay: Replay | None = None


class Recorder:
    """Runs a stage's step on batches: the first two of a shape as they are, later ones by a recording.

    Args:
        step: All turns of a batch: forward, backward, optimiser, and sums into tensors that stay the same.
        optimisers: Of the turns.
        device: Where the stage trains.
        say: Is told once, if the step is not recorded.
        record: Makes the recording.
    """

    def __init__(
        self,
        step: Step,
        optimisers: Sequence[Optimizer],
        device: torch.device,
        say: Callable[[str], None],
        record: Callable[[Step, Batch], Replay] = record_graph,
    ) -> None:
        self._step, self._device, self._say, self._record = step, device, say, record
        fused = [_fuse(optimiser) for optimiser in optimisers]
        self._optimisers = optimisers
        self._rates = [torch.zeros((), device=device) for _ in self._groups]
        self._known: list[float | None] = [None] * len(self._groups)  # what the tensors hold
        self._shapes: dict[Any, _Shape] = {}
        self.declined: str | None = None
        if not all(fused):
            self._decline("its optimiser is none of SGD, Adam and AdamW")

    def __call__(self, batch: Batch) -> None:
        """One step."""
        shape = self._shapes.setdefault(_signature(batch), _Shape())
        shape.steps += 1
        if self.declined is not None or shape.steps == 1:
            self._step(batch)
            return
        shape.batch = _copied(batch, shape.batch, self._device)
        if shape.steps == 2:
            self._watch(shape.batch)
            return
        self._set_rates()
        if shape.replay is None:
            shape.replay = self._recorded(shape.batch)
        if shape.replay is None:
            self._step(batch)
        else:
            shape.replay()

    @property
    def _groups(self) -> list[dict[str, Any]]:
        """The optimisers' groups: others, once a checkpoint was loaded."""
        return [group for optimiser in self._optimisers for group in optimiser.param_groups]

    def _watch(self, batch: Batch) -> None:
        with Watch(self._device) as watch:
            self._step(batch)
        if watch.reason is not None:
            self._decline(watch.reason)

    def _recorded(self, batch: Batch) -> Replay | None:
        try:
            with self._rates_in_tensors():
                return self._record(self._step, batch)
        except RuntimeError as error:
            self._decline(in_a_line(error))
            return None

    def _set_rates(self) -> None:
        for number, (group, rate) in enumerate(zip(self._groups, self._rates, strict=True)):
            if group["lr"] != self._known[number]:
                rate.fill_(group["lr"])
                self._known[number] = group["lr"]

    @contextmanager
    def _rates_in_tensors(self) -> Iterator[None]:
        """Within the block the optimisers read their rates from tensors, so that a recording follows the schedule."""
        before = [dict(group) for group in self._groups]
        for group, rate in zip(self._groups, self._rates, strict=True):
            group["lr"] = rate
            if "capturable" in group:
                group["capturable"] = True
        try:
            yield
        finally:
            for group, old in zip(self._groups, before, strict=True):
                group.update({name: old[name] for name in ("lr", "capturable") if name in old})

    def _decline(self, reason: str) -> None:
        self.declined = reason
        self._say(f"the step is not captured: {reason}")


def _fuse(optimiser: Optimizer) -> bool:
    """Have an optimiser that has made no step yet read its rate from a tensor, which fused ones do; whether it can."""
    if type(optimiser) not in (SGD, Adam, AdamW):
        return False
    for group in optimiser.param_groups:
        group.update(fused=True, foreach=False)
    return True


def _signature(batch: Batch) -> Any:
    """What a recording is fixed to."""
    return tuple((tensor.shape, tensor.dtype) for tensor in (*batch.views, batch.labels, batch.indices))


def _copied(batch: Batch, fixed: Batch | None, device: torch.device) -> Batch:
    """The batch in fixed tensors, new ones if there are none; its progress too, so that a recording can follow it."""
    if fixed is None:
        progress = torch.full((), float(batch.progress), device=device)
        return replace(
            batch,
            views=tuple(view.clone() for view in batch.views),
            labels=batch.labels.clone(),
            indices=batch.indices.clone(),
            progress=progress,
        )
    for own, other in zip(fixed.views, batch.views, strict=True):
        own.copy_(other)
    fixed.labels.copy_(batch.labels)
    fixed.indices.copy_(batch.indices)
    assert isinstance(fixed.progress, Tensor)
    fixed.progress.fill_(float(batch.progress))
    return fixed
