"""Where a network can be split, what each split costs, and which one is taken by default."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules import module as hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from coterie.errors import UserError
from coterie.networks.preserve import preserve_state

_SMALLEST_TAIL = 0.05  # of the FLOPs: a global pool and a classifier are no stage
_LARGEST_TAIL = 0.75  # more than this shares too little to be called the last stage
_WANTED_TAIL = 1 / 3
_MOST_USEFUL = 20  # lines: more are no overview


@dataclass(frozen=True)
class SplitPoint:
    """A legal split.

    Attributes:
        at: The module with which the branched tail begins.
        flops: The tail's share of the forward's FLOPs, in [0, 1].
        parameters: The tail's share of the parameters, in [0, 1].
        default: Whether this is the split taken where none is named.
        useful: Whether it begins a stage or a block, and leaves enough on both of its sides.
    """

    at: str
    flops: float
    parameters: float
    default: bool = False
    useful: bool = False


def list_split_points(model: nn.Module, example: Tensor) -> list[SplitPoint]:
    """Every module before which the network can be split, in the order of the forward.

    Args:
        model: In evaluation mode.
        example: Images of the shape that the model is for.
    """
    forward = _measured(model, example)
    default, held = _default(model, forward), _parameters_of_calls(model, forward)
    every = max(sum(p.numel() for p in model.parameters()), 1)
    useful = _useful(model, forward)
    return [
        SplitPoint(
            at=call.path,
            flops=forward.share(call),
            parameters=_parameters_from(held, call) / every,
            default=call.path == default,
            useful=call.path in useful,
        )
        for call in forward.candidates()
    ]


def default_split_point(model: nn.Module, example: Tensor) -> str:
    """The module with which the last stage begins.

    A network may name it itself (``last_stage``). Otherwise the last stage is what follows the last reduction of the
    feature map's area; where there are no such stages, the split whose tail carries closest to a third of the FLOPs.

    Args:
        model: In evaluation mode.
        example: Images of the shape that the model is for.

    Raises:
        UserError: The network has no module before which it could be split.
    """
    at = _default(model, _measured(model, example))
    if at is None:
        raise UserError(f"{type(model).__name__} runs no module after another, so it cannot be split")
    return at


@dataclass(eq=False)
class _Call:
    """One call of a module.

    Attributes:
        path: The module's.
        kind: The module's class.
        outer: The calls around it, from the outermost in.
        began: How many calls had ended when it began.
        flops_before: FLOPs of the forward before it.
        flops: Its own, with those of the modules that it calls.
        area: Places of the feature map that it gives; 0 where it gives none.
    """

    path: str
    kind: type[nn.Module]
    outer: tuple["_Call", ...]
    began: int
    flops_before: int
    flops: int = 0
    area: int = 0


@dataclass
class _Forward:
    """A forward as the calls of its modules, in the order in which they ended."""

    height: int
    width: int
    calls: list[_Call] = field(default_factory=list)
    flops: int = 0

    def share(self, call: _Call) -> float:
        """The share of the FLOPs from a call on."""
        return 1 - call.flops_before / max(self.flops, 1)

    def candidates(self) -> list[_Call]:
        """The first call of every module before which another has ended, from the outermost in."""
        first: dict[str, _Call] = {}
        for call in sorted(self.calls, key=lambda call: (call.began, len(call.outer))):
            if call.path:
                first.setdefault(call.path, call)
        return [call for call in first.values() if call.began]

    def in_repeated_block(self, call: _Call) -> bool:
        """Whether it stands inside one of three or more blocks of a kind: no stage begins there."""
        kinds = Counter((around.kind, around.outer[-1:]) for around in self.calls)
        return any(kinds[around.kind, around.outer[-1:]] > 2 for around in call.outer)

    def area(self, value: Any) -> int:
        """Places of a map, channels first or last; 0 for what has not the images' proportions (heads by tokens)."""
        if isinstance(value, Tensor) and value.dim() == 4:
            for height, width in (value.shape[2:], value.shape[1:3]):
                if abs(height * self.width - width * self.height) < max(self.height, self.width):
                    return height * width
        return 0


def _default(model: nn.Module, forward: _Forward) -> str | None:
    named = getattr(model, "last_stage", None)
    if isinstance(named, str):
        return named
    calls = forward.calls
    # The largest map from here on: a squeeze inside a block does not lower it, only the end of a resolution does.
    largest = [call.area for call in calls]
    for index in range(len(largest) - 2, -1, -1):
        largest[index] = max(largest[index], largest[index + 1])
    drops = [index for index in range(1, len(calls)) if largest[index] < largest[index - 1]]
    # A global pool and a classifier are no stage: maps must still be computed.
    drops = [index for index in drops if any(call.flops and call.area > 1 for call in calls[index:])]
    for place in range(len(drops) - 1, -1, -1):
        since = drops[place - 1] if place else 1
        later = (call for inner in calls[drops[place] :] for call in (*inner.outer, inner))
        call = next((call for call in later if call.began >= since and _learns(model, call)), None)
        if call is None or forward.in_repeated_block(call):
            continue
        if _SMALLEST_TAIL <= forward.share(call) <= _LARGEST_TAIL:
            return call.path
    return _closest_to_a_third(forward)


def _useful(model: nn.Module, forward: _Forward) -> set[str]:
    """Split points worth a look: the outermost levels of modules, as many of them as make no more than a page.

    Of modules that begin at the same place the outermost stands for all. Networks nest differently deep, and what a
    block is called differs: so levels are counted, not kinds.
    """
    first: dict[int, _Call] = {}
    for call in forward.candidates():
        if _learns(model, call) and _SMALLEST_TAIL <= forward.share(call) <= _LARGEST_TAIL:
            first.setdefault(call.began, call)
    chosen: set[str] = set()
    for depth in sorted({len(call.outer) for call in first.values()}):
        level = {call.path for call in first.values() if len(call.outer) <= depth}
        if chosen and len(level) > _MOST_USEFUL:
            break
        chosen = level
    return chosen


def _learns(model: nn.Module, call: _Call) -> bool:
    """Whether a module has parameters: a pool before a stage is done once, in the trunk."""
    return bool(call.path) and next(model.get_submodule(call.path).parameters(), None) is not None


def _closest_to_a_third(forward: _Forward) -> str | None:
    """Whole blocks are preferred to what is inside them: the outermost level at which a split is near enough."""
    candidates = forward.candidates()
    near = [call for call in candidates if _WANTED_TAIL / 2 <= forward.share(call) <= 1.5 * _WANTED_TAIL]
    level = min((len(call.outer) for call in near), default=None)
    chosen = [call for call in near if len(call.outer) == level] or candidates
    return min(chosen, key=lambda call: abs(forward.share(call) - _WANTED_TAIL)).path if chosen else None


def _parameters_of_calls(model: nn.Module, forward: _Forward) -> list[tuple[_Call, dict[nn.Parameter, int]]]:
    """Each call with the sizes of the parameters that are its own: all of its module's, where that calls no other."""
    outer = {id(around) for call in forward.calls for around in call.outer}
    return [
        (call, {p: p.numel() for p in model.get_submodule(call.path).parameters(recurse=id(call) not in outer)})
        for call in forward.calls
    ]


def _parameters_from(held: Sequence[tuple[_Call, dict[nn.Parameter, int]]], split: _Call) -> int:
    """How many parameters are in modules called from the split on."""
    used: dict[nn.Parameter, int] = {}
    for call, parameters in held:
        if call.began >= split.began and call not in split.outer:
            used.update(parameters)
    return sum(used.values())


def _measured(model: nn.Module, example: Tensor) -> _Forward:
    """Run the model once, on shapes alone where it can."""
    if not example.is_meta:
        try:
            with preserve_state(model), FakeTensorMode(allow_non_fake_inputs=True) as fake:
                return _run(model, fake.from_tensor(example))
        except Exception:  # the forward depends on values: it is run
            pass
    return _run(model, example)


class _Flops(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up FLOPs. Torch's own counter hooks modules too, which fails where a parameter is an argument."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=output)
        return output


def _run(model: nn.Module, images: Tensor) -> _Forward:
    forward = _Forward(images.shape[2], images.shape[3])
    counter = _Flops()  # type: ignore[no-untyped-call]
    with counter, _noted(model, forward, counter):
        model(images)
    forward.flops = counter.total
    return forward


@contextmanager
def _noted(model: nn.Module, forward: _Forward, counter: _Flops) -> Iterator[None]:
    paths = {module: path for path, module in model.named_modules()}
    stack: list[_Call] = []

    def begin(module: nn.Module, _: Any) -> None:
        if module in paths:
            stack.append(_Call(paths[module], type(module), tuple(stack), len(forward.calls), counter.total))

    def end(module: nn.Module, _: Any, output: Any) -> None:
        if module in paths:
            call = stack.pop()
            call.flops = counter.total - call.flops_before
            call.area = forward.area(output)
            forward.calls.append(call)

    with hooks.register_module_forward_pre_hook(begin), hooks.register_module_forward_hook(end), torch.no_grad():
        yield
