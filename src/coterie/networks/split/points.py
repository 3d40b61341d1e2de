"""Where a network can be split, what each split costs, and which one is taken by default."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from coterie.errors import UserError
from coterie.networks.layers import LAYERS
from coterie.networks.observe.calls import Call, record
from coterie.networks.protocols import NamesLastStage

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
    forward = _Forward(model, example)
    default, held = _find_default(model, forward), _parameters_of_calls(forward)
    total = max(sum(p.numel() for p in model.parameters()), 1)
    useful = _find_useful(forward)
    return [
        SplitPoint(
            at=call.path,
            flops=forward.share(call),
            parameters=_parameters_from(held, call) / total,
            default=call.path == default,
            useful=call.path in useful,
        )
        for call in forward.candidates()
    ]


def default_split_point(model: nn.Module, example: Tensor) -> str:
    """The module with which the last stage begins.

    A network may name it itself (:class:`~coterie.networks.protocols.NamesLastStage`). Otherwise the last stage
    is what follows the last reduction of the feature map's area; where there are no such stages, the
    split whose tail carries closest to a third of the FLOPs.

    Args:
        model: In evaluation mode.
        example: Images of the shape that the model is for.

    Raises:
        UserError: The network has no module before which it could be split.
    """
    at = _find_default(model, _Forward(model, example))
    if at is None:
        raise UserError(f"{type(model).__name__} runs no module after another, so it cannot be split")
    return at


class _Forward:
    """A forward as the calls of its modules, in the order in which they ended."""

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        self.model = model
        self.height, self.width = example.shape[2:]
        self.calls = record(model, example, flops=True)
        self.areas = [self._area(call.output) for call in self.calls]

    def share(self, call: Call) -> float:
        """The share of the FLOPs from a call on."""
        return 1 - call.flops_before / max(self.calls[-1].flops, 1)

    def candidates(self) -> list[Call]:
        """The first call of every module before which another has ended, from the outermost in."""
        first: dict[str, Call] = {}
        for call in sorted(self.calls, key=lambda call: (call.began, len(call.outer))):
            if call.path:
                first.setdefault(call.path, call)
        return [call for call in first.values() if call.began]

    def in_repeated_block(self, call: Call) -> bool:
        """Whether it stands inside one of three or more blocks of a kind: no stage begins there."""
        kinds = Counter((type(around.module), around.outer[-1:]) for around in self.calls)
        return any(kinds[type(around.module), around.outer[-1:]] > 2 for around in call.outer)

    def is_block(self, call: Call) -> bool:
        """Whether it is one block: two or more layers that belong together, as a residual block's convolutions do.

        A sequence is none, since it can be split between any two of its modules; nor is what holds several blocks of a
        kind, as a stage or a transformer's encoder does; nor a module that is most of the network.
        """
        if not call.path or isinstance(call.module, nn.Sequential) or _count_layers(call.module) < 2:
            return False
        inside = {inner.path: inner for inner in self.calls if call in inner.outer}.values()
        kinds = Counter(
            (type(inner.module), inner.outer[-1].path)
            for inner in inside
            if not isinstance(inner.module, nn.Sequential) and _count_layers(inner.module) > 1
        )
        return max(kinds.values(), default=0) < 2 and call.flops <= _LARGEST_TAIL * self.calls[-1].flops

    def _area(self, value: Any) -> int:
        """Places of a map, channels first or last; 0 for what has not the images' proportions (heads by tokens)."""
        if isinstance(value, Tensor) and value.dim() == 4:
            for height, width in (value.shape[2:], value.shape[1:3]):
                if abs(height * self.width - width * self.height) < max(self.height, self.width):
                    return height * width
        return 0


def _find_default(model: nn.Module, forward: _Forward) -> str | None:
    if isinstance(model, NamesLastStage) and isinstance(model.last_stage, str):  # others keep a module there
        return model.last_stage
    calls, areas = forward.calls, forward.areas
    # The largest map from here on: a squeeze inside a block does not lower it, only the end of a resolution does.
    largest = areas.copy()
    for index in range(len(largest) - 2, -1, -1):
        largest[index] = max(largest[index], largest[index + 1])
    drops = [index for index in range(1, len(calls)) if largest[index] < largest[index - 1]]
    # A global pool and a classifier are no stage: maps must still be computed.
    computes = [bool(call.flops) and area > 1 for call, area in zip(calls, areas, strict=True)]
    drops = [index for index in drops if any(computes[index:])]
    for place in range(len(drops) - 1, -1, -1):
        since = drops[place - 1] if place else 1
        later = (call for inner in calls[drops[place] :] for call in (*inner.outer, inner))
        call = next((call for call in later if call.began >= since and _learns(call)), None)
        if call is None or forward.in_repeated_block(call):
            continue
        if _SMALLEST_TAIL <= forward.share(call) <= _LARGEST_TAIL:
            return call.path
    return _closest_to_a_third(forward)


def _find_useful(forward: _Forward) -> set[str]:
    """Split points worth a look: the outermost levels of modules, as many of them as make no more than a page.

    Of modules that begin at the same place the outermost stands for all; parts of a block are left out, and so are
    norms between layers. Networks nest differently deep, and what a block is called differs: so levels are counted.
    """
    blocks = {call for call in forward.calls if forward.is_block(call)}
    first: dict[int, Call] = {}
    for call in forward.candidates():
        if _count_layers(call.module) and _SMALLEST_TAIL <= forward.share(call) <= _LARGEST_TAIL:
            first.setdefault(call.began, call)
    points = [call for call in first.values() if blocks.isdisjoint(call.outer)]
    chosen: set[str] = set()
    for depth in sorted({len(call.outer) for call in points}):
        level = {call.path for call in points if len(call.outer) <= depth}
        if chosen and len(level) > _MOST_USEFUL:
            break
        chosen = level
    return chosen


def _learns(call: Call) -> bool:
    """Whether a module has parameters: a pool before a stage is done once, in the trunk."""
    return bool(call.path) and next(call.module.parameters(), None) is not None


def _count_layers(module: nn.Module) -> int:
    return sum(isinstance(part, LAYERS) for part in module.modules())


def _closest_to_a_third(forward: _Forward) -> str | None:
    """Whole blocks are preferred to what is inside them: the outermost level at which a split is near enough."""
    candidates = forward.candidates()
    near = [call for call in candidates if _WANTED_TAIL / 2 <= forward.share(call) <= 1.5 * _WANTED_TAIL]
    level = min((len(call.outer) for call in near), default=None)
    chosen = [call for call in near if len(call.outer) == level] or candidates
    return min(chosen, key=lambda call: abs(forward.share(call) - _WANTED_TAIL)).path if chosen else None


def _parameters_of_calls(forward: _Forward) -> list[tuple[Call, dict[nn.Parameter, int]]]:
    """Each call with the sizes of the parameters that are its own: all of its module's, where that calls no other."""
    outer = {id(around) for call in forward.calls for around in call.outer}
    return [
        (call, {p: p.numel() for p in call.module.parameters(recurse=id(call) not in outer)}) for call in forward.calls
    ]


def _parameters_from(held: Sequence[tuple[Call, dict[nn.Parameter, int]]], split: Call) -> int:
    """How many parameters are in modules called from the split on."""
    used: dict[nn.Parameter, int] = {}
    for call, parameters in held:
        if call.began >= split.began and call not in split.outer:
            used.update(parameters)
    return sum(used.values())
