"""Where a network can be cut, what each cut costs, and which one is taken by default."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.utils.flop_counter import FlopCounterMode

from coterie.networks.graph import module_path

_SMALLEST_TAIL = 0.05  # of the FLOPs: a global pool and a classifier are no stage
_LARGEST_TAIL = 0.75  # more than this shares too little to be called the last stage
_WANTED_TAIL = 1 / 3


@dataclass(frozen=True)
class CutPoint:
    """A legal cut.

    Attributes:
        at: The module with which the branched tail begins.
        flops: The tail's share of the forward's FLOPs, in [0, 1].
        crossing: How many values cross the cut.
    """

    at: str
    flops: float
    crossing: int


class _Measure(fx.Interpreter):
    """Runs a graph and notes each node's FLOPs and the area of its feature map."""

    def __init__(self, model: nn.Module, graph: fx.Graph, image_size: tuple[int, int]) -> None:
        super().__init__(model, graph=graph)
        self.flops: list[int] = []
        self.area: list[int] = []
        self.height, self.width = image_size

    def run_node(self, n: fx.Node) -> Any:
        with FlopCounterMode(display=False) as counter:
            value = super().run_node(n)
        self.flops.append(counter.get_total_flops())
        is_map = isinstance(value, torch.Tensor) and value.dim() == 4 and n.op.startswith("call")
        self.area.append(self._area(value.shape) if is_map else 0)
        return value

    def _area(self, shape: torch.Size) -> int:
        """Places of a map, channels first or last; 0 for what has not the images' proportions (heads by tokens)."""
        for height, width in (shape[2:], shape[1:3]):
            if abs(height * self.width - width * self.height) < max(self.height, self.width):
                return height * width
        return 0


def list_cuts(model: nn.Module, graph: fx.Graph, example: torch.Tensor) -> list[CutPoint]:
    """Every module before which the network can be cut, in the order of the forward."""
    nodes = list(graph.nodes)
    shares = _tail_shares(_measure(model, graph, example).flops)
    points: dict[str, CutPoint] = {}
    for index, node in enumerate(nodes):
        if not any(earlier.op.startswith("call") for earlier in nodes[:index]):
            continue
        before = set(nodes[:index])
        for path in module_path(node):
            if path not in points and not any(path in module_path(earlier) for earlier in before):
                crossing = {source for later in nodes[index:] for source in later.all_input_nodes if source in before}
                points[path] = CutPoint(path, shares[index], len(crossing))
    return list(points.values())


def default_cut(model: nn.Module, graph: fx.Graph, example: torch.Tensor) -> str:
    """The module with which the last stage begins.

    A network may name it itself (``last_stage``). Otherwise the last stage is what follows the last reduction of the
    feature map's area; where there are no such stages, the cut whose tail carries closest to a third of the FLOPs.
    """
    named = getattr(model, "last_stage", None)
    if isinstance(named, str):
        return named
    measured = _measure(model, graph, example)
    shares = _tail_shares(measured.flops)
    nodes = list(graph.nodes)
    # The largest map from here on: a squeeze inside a block does not lower it, only the end of a resolution does.
    largest = measured.area[:]
    for index in range(len(largest) - 2, -1, -1):
        largest[index] = max(largest[index], largest[index + 1])
    drops = [
        index
        for index in range(1, len(nodes))
        if largest[index] < largest[index - 1] and _has_convolutions(measured, index)
    ]
    first = next(index for index, node in enumerate(nodes) if node.op.startswith("call"))
    for place in range(len(drops) - 1, -1, -1):
        if _SMALLEST_TAIL <= shares[drops[place]] <= _LARGEST_TAIL:
            since = drops[place - 1] if place else first + 1
            path = _outermost(nodes, drops[place], since)
            if path is not None:
                return path
    return min(list_cuts(model, graph, example), key=lambda point: (abs(point.flops - _WANTED_TAIL), len(point.at))).at


def _measure(model: nn.Module, graph: fx.Graph, example: torch.Tensor) -> _Measure:
    measure = _Measure(model, graph, (example.shape[2], example.shape[3]))
    measure.run(example)
    return measure


def _tail_shares(flops: list[int]) -> list[float]:
    """For each node the share of the FLOPs from it on."""
    total = max(sum(flops), 1)
    shares, rest = [], total
    for node_flops in flops:
        shares.append(rest / total)
        rest -= node_flops
    return shares


def _has_convolutions(measured: _Measure, index: int) -> bool:
    """Whether maps are still computed from this node on: a global pool and a classifier are no stage."""
    return any(flops and area for flops, area in zip(measured.flops[index:], measured.area[index:], strict=True))


def _outermost(nodes: list[fx.Node], index: int, since: int) -> str | None:
    """The outermost module around the first module node from ``index`` on that began no earlier than ``since``."""
    begun = {path for node in nodes[:since] for path in module_path(node)}
    for node in nodes[index:]:
        for path in module_path(node):
            if path not in begun:
                return path
    return None
