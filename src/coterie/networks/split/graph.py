"""A traced forward, split in stretches and run against live modules.

The graph holds no parameters, buffers or modules. Its stretches become plain functions that look every module up by
its path on whatever root they are given, so the same code runs on the user's model and on a branch that holds copies
of the upper modules under the same paths.
"""

import linecache
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

from coterie.errors import UserError
from coterie.networks.layers import LAYERS, holds_layer
from coterie.networks.preserve import preserve_state
from coterie.networks.split.tracing import RECOMPUTED


def module_path(node: fx.Node) -> tuple[str, ...]:
    """The paths of the modules that a node runs in, from the outermost in."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [entry[0] if isinstance(entry, tuple) else key for key, entry in stack.items()]
    return tuple(path for path in paths if path)


@dataclass(frozen=True)
class Segment:
    """A stretch of a forward that begins at a split.

    Attributes:
        run: (root, values) -> the values that cross the next split, as a tuple; of the last segment the logits and
            after them what is tapped.
        modules: Paths of the modules that it calls.
        tensors: Paths of the parameters and buffers that it reads itself.
    """

    run: Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]
    modules: tuple[str, ...]
    tensors: tuple[str, ...]


@dataclass(frozen=True)
class SplitForward:
    """A forward in stretches.

    Attributes:
        trunk: (root, images) -> the values that cross the first split, as a tuple.
        tails: What follows, one segment for each split.
    """

    trunk: Callable[..., tuple[Any, ...]]
    tails: tuple[Segment, ...]


def split_graph(graph: fx.Graph, ats: Sequence[str], taps: Sequence[fx.Node] = ()) -> SplitForward:
    """Cut a graph before the first node of each of the modules ``ats``.

    Args:
        graph: As traced.
        ats: Paths of modules in the order of the forward.
        taps: Nodes whose values the last segment returns after the logits.

    Raises:
        UserError: No such module runs in the forward, nothing comes before it, or the order is another.
    """
    nodes = list(graph.nodes)
    starts = [_find_start(nodes, at) for at in ats]
    for before, after, name in zip(starts, starts[1:], ats[1:], strict=False):
        if after <= before:
            raise UserError(
                f"'{name}' does not come after the split before it; name splits in the order of the forward"
            )
    place, steps = _group_steps(nodes, starts)
    used = {source for node in nodes for source in node.all_input_nodes} | set(taps)
    last_use = {node: max([place[user] for user in node.users], default=0) for node in used}
    last_use |= {node: len(steps) - 1 for node in taps}
    stretches: list[tuple[list[fx.Node], list[Callable[..., Any]]]] = [([], []) for _ in range(len(starts) + 1)]
    for number, step in enumerate(steps):
        mine = [node for node in nodes if place[node] == number]
        entering = [node for node in nodes if node in used and place[node] < number <= last_use[node]]
        leaving = [node for node in nodes if node in used and place[node] <= number < last_use[node]]
        run = _compile_nodes(mine, entering, list(taps) if number == len(steps) - 1 else leaving)
        if step.region is not None:
            begun = any(step.region == before.region for before in steps[:number])
            run = partial(_recompute, partial(_run_on_copies, run) if begun else run)
        stretches[step.stretch][0].extend(mine)
        stretches[step.stretch][1].append(run)
    (_, trunk), *rest = stretches
    return SplitForward(_chain(trunk), tuple(Segment(_chain(runs), *_list_reads(mine)) for mine, runs in rest))


@dataclass(frozen=True)
class _Step:
    """Consecutive nodes that are run by one function.

    Attributes:
        stretch: Which stretch of the forward they are in.
        region: The number of the checkpointed region that they are in; None outside of such.
    """

    stretch: int
    region: int | None


def _group_steps(nodes: list[fx.Node], starts: list[int]) -> tuple[dict[fx.Node, int], list[_Step]]:
    """Every node's step, and the steps in order: a stretch is one, where it holds no checkpointed region."""
    place: dict[fx.Node, int] = {}
    steps: list[_Step] = []
    for index, node in enumerate(nodes):
        if node.op != "get_attr":
            step = _Step(sum(index >= start for start in starts), node.meta.get(RECOMPUTED))
            if not steps or step != steps[-1]:
                steps.append(step)
        place[node] = max(len(steps) - 1, 0)
    for node in reversed(nodes):  # a parameter is read where it is first used, not where tracing met it
        if node.op == "get_attr" and node.users:
            place[node] = min(place[user] for user in node.users)
    return place, steps


def _chain(runs: list[Callable[..., Any]]) -> Callable[..., Any]:
    """Functions of (root, values), each given what the one before returns, as one."""
    if len(runs) == 1:
        return runs[0]

    def run(root: nn.Module, values: Any) -> Any:
        for step in runs:
            values = step(root, values)
        return values

    return run


def _find_start(nodes: list[fx.Node], at: str) -> int:
    """The index of the first node of the module ``at``."""
    first = next((index for index, node in enumerate(nodes) if _runs_in(node, at)), None)
    if first is None:
        top = _name_top_modules(nodes)
        raise UserError(f"no module '{at}' runs in this network's forward; `at` names one of {top}")
    if not any(node.op.startswith("call") for node in nodes[:first]):
        raise UserError(f"nothing comes before '{at}', so no layer would be shared; split later")
    return first


def _list_reads(nodes: list[fx.Node]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Paths of the modules that nodes call, and of the tensors that they read themselves."""
    modules = dict.fromkeys(str(node.target) for node in nodes if node.op == "call_module")
    tensors = dict.fromkeys(str(node.target) for node in nodes if node.op == "get_attr")
    return tuple(modules), tuple(tensors)


def find_classifier_input(graph: fx.Graph, model: nn.Module) -> fx.Node | None:
    """What the last linear layer or convolution before the output reads; None where it cannot be seen."""
    last = find_last_layer(graph, model)
    if last is None or not isinstance(model.get_submodule(last), LAYERS):
        return None
    return next(node for node in reversed(graph.nodes) if node.target == last).all_input_nodes[0]


def find_last_layer(graph: fx.Graph, model: nn.Module) -> str | None:
    """The last module before the output that is or holds a linear layer or convolution."""
    wanted = {graph.output_node()}
    for node in reversed(list(graph.nodes)):
        if node in wanted:
            path = str(node.target)
            if node.op == "call_module" and holds_layer(model.get_submodule(path)):
                return path
            wanted.update(node.all_input_nodes)
    return None


def find_last_map(graph: fx.Graph, model: nn.Module, images: torch.Tensor) -> fx.Node | None:
    """The last feature map (B, C, H, W), or token sequence, that the classifier's input is computed from.

    Found by running the graph once on ``images`` with modes, buffers and random generators as before.
    """
    features = find_classifier_input(graph, model)
    if features is None:
        return None
    shapes: dict[fx.Node, torch.Size] = {}

    class Shapes(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if isinstance(value, torch.Tensor) and value.is_floating_point() and n.op.startswith("call"):
                shapes[n] = value.shape
            return value

    with preserve_state(model):
        Shapes(model, graph=graph).run(images)
    wanted = {features}
    for node in reversed(list(graph.nodes)):
        if node not in wanted:
            continue
        shape = shapes.get(node, torch.Size())
        if len(shape) in (3, 4) and shape[1:].numel() > max(shape[1:]):  # no pooled 1x1 map
            return node
        wanted.update(node.all_input_nodes)
    return None


def find_output(graph: fx.Graph, path: str) -> fx.Node:
    """The last node that runs in the module at ``path``: what it returns.

    Raises:
        UserError: No such module runs in the forward.
    """
    nodes = list(graph.nodes)
    inside = [node for node in nodes if _runs_in(node, path)]
    if not inside:
        raise UserError(f"no module '{path}' runs in this network's forward; name one of {_name_top_modules(nodes)}")
    return inside[-1]


def _runs_in(node: fx.Node, at: str) -> bool:
    called = node.op == "call_module" and f"{node.target}.".startswith(f"{at}.")  # itself, or one of its own alone
    return called or at in module_path(node)


def _name_top_modules(nodes: list[fx.Node]) -> str:
    paths = dict.fromkeys(path[0] for node in nodes if (path := module_path(node)))
    return ", ".join(list(paths)[:12]) + (", …" if len(paths) > 12 else "")


def _compile_nodes(nodes: list[fx.Node], inputs: list[fx.Node], returned: list[fx.Node]) -> Callable[..., Any]:
    """Compile nodes into ``f(root, values)``, which unpacks ``inputs`` from a tuple and returns a tuple.

    Without inputs it takes what the graph takes. What the graph itself returns comes first.
    """
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    results: list[Any] = []
    if inputs:
        values = graph.placeholder("values")
        for index, node in enumerate(inputs):
            copies[node] = graph.call_function(_get_item, (values, index))
    for node in nodes:
        if node.op == "output":
            results.append(fx.map_arg(node.args[0], lambda source: copies[source]))
        else:
            copies[node] = graph.node_copy(node, lambda source: copies[source])
    graph.output((*results, *(copies[node] for node in returned)))
    # A GraphModule would own the modules that it calls; this function looks them up on the root that it is given.
    code = graph.python_code("self")
    scope = dict(code.globals)
    name = f"<coterie graph {id(graph)}>"
    linecache.cache[name] = (len(code.src), None, code.src.splitlines(True), name)  # readable tracebacks
    exec(compile(code.src, name, "exec"), scope)  # the source is torch.fx's own
    function = cast(Callable[..., Any], scope["forward"])
    weakref.finalize(function, linecache.cache.pop, name, None)
    return function


def _recompute(run: Callable[..., Any], root: nn.Module, values: tuple[Any, ...]) -> Any:
    """A region under activation checkpointing: of all that it computes only what enters and leaves it is kept."""
    return checkpoint(partial(run, root), values, use_reentrant=False)


def _run_on_copies(run: Callable[..., Any], root: nn.Module, values: tuple[Any, ...]) -> Any:
    """The rest of a region that is split: it may overwrite what enters it, which is needed to compute it again."""
    return run(root, pytree.tree_map_only(torch.Tensor, torch.clone, values))


def _get_item(values: tuple[Any, ...], index: int) -> Any:
    return values[index]
