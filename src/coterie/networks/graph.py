"""A model's forward as a graph: traced with torch.fx, cut in two, and run against live modules.

The graph holds no parameters, buffers or modules. Its two halves become plain functions that look every module up by
its path on whatever root they are given, so the same code runs on the user's model and on a branch that holds copies
of the upper modules under the same paths.
"""

import linecache
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import fx, nn

from coterie.errors import UserError

_LIBRARIES = ("torch.nn", "torch.ao.nn")


class _Tracer(fx.Tracer):
    """Goes down to torch's own modules and to those that timm marks as untraceable."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return super().is_leaf_module(m, module_qualified_name) or isinstance(m, _timm_leaves())


def _timm_leaves() -> tuple[type[nn.Module], ...]:
    from timm.models import _features_fx as registry

    return tuple(cast(set[type[nn.Module]], registry.get_notrace_modules()))


def _timm_functions() -> tuple[Callable[..., Any], ...]:
    from timm.models import _features_fx as registry

    return tuple(registry.get_notrace_functions())


def trace(model: nn.Module) -> fx.Graph:
    """The forward of ``model`` in the training mode that its modules are in now; the model is left as it was.

    Raises:
        UserError: Its forward cannot be traced; names the class and torch.fx's reason.
    """
    tracer = _Tracer(autowrap_functions=_timm_functions())
    before = set(vars(model))
    caches = [
        (cache, cache.copy())
        for module in model.modules()
        for name, cache in vars(module).items()
        if isinstance(cache, (dict, list)) and not name.startswith("_")
    ]
    try:
        graph = tracer.trace(model)
    except Exception as error:
        reason = str(error).split("\n")[0]
        raise UserError(
            f"{type(model).__name__} cannot be cut into trunk and branches: its forward cannot be traced ({reason}); "
            "move the control flow that depends on values into a submodule, or use share=False"
        ) from error
    finally:
        for cache, content in caches:  # what the forward remembers while it is traced are no tensors
            cache.clear()
            cache.update(content) if isinstance(cache, dict) else cache.extend(content)
    for name in set(vars(model)) - before:  # tensors made while tracing, which fx would leave on the user's model
        constant = vars(model).pop(name)
        for node in list(graph.nodes):
            if node.op == "get_attr" and node.target == name:
                with graph.inserting_before(node):
                    node.replace_all_uses_with(graph.call_function(_Constant(constant)))
                graph.erase_node(node)
    return graph


class _Constant:
    """A tensor that the forward makes from nothing, as a function without arguments."""

    def __init__(self, value: torch.Tensor) -> None:
        self.value = value
        self.__name__ = f"constant_{id(self)}"
        self.__module__ = __name__
        self.__qualname__ = self.__name__

    def __call__(self) -> torch.Tensor:
        return self.value


def module_path(node: fx.Node) -> tuple[str, ...]:
    """The paths of the modules that a node runs in, from the outermost in."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [entry[0] if isinstance(entry, tuple) else key for key, entry in stack.items()]
    return tuple(path for path in paths if path)


@dataclass(frozen=True)
class Segment:
    """A stretch of a forward that begins at a cut.

    Attributes:
        run: (root, values) -> the values that cross the next cut, as a tuple; of the last segment the logits and
            after them what is tapped.
        modules: Paths of the modules that it calls.
        tensors: Paths of the parameters and buffers that it reads itself.
    """

    run: Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]
    modules: tuple[str, ...]
    tensors: tuple[str, ...]


@dataclass(frozen=True)
class CutGraph:
    """A forward in stretches.

    Attributes:
        trunk: (root, images) -> the values that cross the first cut, as a tuple.
        tails: What follows, one segment for each cut.
    """

    trunk: Callable[..., tuple[Any, ...]]
    tails: tuple[Segment, ...]


def cut(graph: fx.Graph, ats: Sequence[str], taps: Sequence[fx.Node] = ()) -> CutGraph:
    """Cut a graph before the first node of each of the modules ``ats``.

    Args:
        graph: As traced.
        ats: Paths of modules in the order of the forward.
        taps: Nodes whose values the last segment returns after the logits.

    Raises:
        UserError: No such module runs in the forward, nothing comes before it, or the order is another.
    """
    nodes = list(graph.nodes)
    starts = [_start(nodes, at) for at in ats]
    for before, after, name in zip(starts, starts[1:], ats[1:], strict=False):
        if after <= before:
            raise UserError(f"'{name}' does not come after the cut before it; name cuts in the order of the forward")
    place = {node: sum(index >= start for start in starts) for index, node in enumerate(nodes)}
    for node in reversed(nodes):  # a parameter is read where it is first used, not where tracing met it
        if node.op == "get_attr" and node.users:
            place[node] = min(place[user] for user in node.users)
    used = {source for node in nodes for source in node.all_input_nodes} | set(taps)
    last_use = {node: max([place[user] for user in node.users], default=0) for node in used}
    last_use |= {node: len(starts) for node in taps}
    stretches = []
    for number in range(len(starts) + 1):
        mine = [node for node in nodes if place[node] == number]
        entering = [node for node in nodes if node in used and place[node] < number <= last_use[node]]
        leaving = [node for node in nodes if node in used and place[node] <= number < last_use[node]]
        returned = list(taps) if number == len(starts) else leaving
        stretches.append((mine, _function(mine, entering, returned)))
    (_, trunk), *rest = stretches
    return CutGraph(trunk, tuple(Segment(run, *_reads(mine)) for mine, run in rest))


class Cuts:
    """A network's forward in segments, traced once for each mode of its modules.

    Args:
        ats: Where it is cut, see :func:`cut`; nowhere for the whole forward.
        maps: Whether the last feature map is tapped beside what the classifier reads.
    """

    def __init__(self, ats: tuple[str, ...], maps: bool = False) -> None:
        self.ats, self.maps = ats, maps
        self._graphs: dict[tuple[bool, ...], CutGraph] = {}

    def of(self, network: nn.Module, images: torch.Tensor) -> CutGraph:
        """The segments for the mode that ``network`` is in; the last returns logits, features and the map."""
        if torch.compiler.is_compiling():  # the flags of all modules are too much for a compiler's guards
            key = tuple([network.training] * len(next(iter(self._graphs))))
        else:
            key = training_flags(network)
        if key not in self._graphs:
            graph = trace(network)
            taps = [classifier_input(graph, network)]
            if self.maps:
                taps.append(last_map(graph, network, images))
            self._graphs[key] = cut(graph, self.ats, [tap for tap in taps if tap is not None])
        return self._graphs[key]

    def __getstate__(self) -> dict[str, Any]:
        # Compiled functions are dropped from copies and pickles, and made again where they are needed.
        return {**vars(self), "_graphs": {}}


def _start(nodes: list[fx.Node], at: str) -> int:
    """The index of the first node of the module ``at``."""
    first = next((index for index, node in enumerate(nodes) if _runs_in(node, at)), None)
    if first is None:
        raise UserError(f"no module '{at}' runs in this network's forward; `at` names one of {_top_modules(nodes)}")
    if not any(node.op.startswith("call") for node in nodes[:first]):
        raise UserError(f"nothing comes before '{at}', so no layer would be shared; cut later, or use share=False")
    return first


def _reads(nodes: list[fx.Node]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Paths of the modules that nodes call, and of the tensors that they read themselves."""
    modules = dict.fromkeys(str(node.target) for node in nodes if node.op == "call_module")
    tensors = dict.fromkeys(str(node.target) for node in nodes if node.op == "get_attr")
    return tuple(modules), tuple(tensors)


def classifier_input(graph: fx.Graph, model: nn.Module) -> fx.Node | None:
    """What the last linear layer or convolution before the output reads; None where there is none."""
    wanted = {graph.output_node()}
    for node in reversed(list(graph.nodes)):
        if node not in wanted:
            continue
        if node.op == "call_module" and isinstance(model.get_submodule(str(node.target)), (nn.Linear, nn.Conv2d)):
            return node.all_input_nodes[0]
        wanted.update(node.all_input_nodes)
    return None


def last_map(graph: fx.Graph, model: nn.Module, images: torch.Tensor) -> fx.Node | None:
    """The last feature map (B, C, H, W), or token sequence, that the classifier's input is computed from.

    Found by running the graph once on ``images`` with modes, buffers and random generators as before.
    """
    features = classifier_input(graph, model)
    if features is None:
        return None
    shapes: dict[fx.Node, torch.Size] = {}

    class Shapes(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if isinstance(value, torch.Tensor) and value.is_floating_point() and n.op.startswith("call"):
                shapes[n] = value.shape
            return value

    with undisturbed(model):
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


def output_of(graph: fx.Graph, path: str) -> fx.Node:
    """The last node that runs in the module at ``path``: what it returns.

    Raises:
        UserError: No such module runs in the forward.
    """
    nodes = list(graph.nodes)
    inside = [node for node in nodes if _runs_in(node, path)]
    if not inside:
        raise UserError(f"no module '{path}' runs in this network's forward; name one of {_top_modules(nodes)}")
    return inside[-1]


def _runs_in(node: fx.Node, at: str) -> bool:
    return at in module_path(node) or (node.op == "call_module" and node.target == at)


def _top_modules(nodes: list[fx.Node]) -> str:
    paths = dict.fromkeys(path[0] for node in nodes if (path := module_path(node)))
    return ", ".join(list(paths)[:12]) + (", …" if len(paths) > 12 else "")


def _function(nodes: list[fx.Node], inputs: list[fx.Node], returned: list[fx.Node]) -> Callable[..., Any]:
    """Compile nodes into ``f(root, values)``, which unpacks ``inputs`` from a tuple and returns a tuple.

    Without inputs it takes what the graph takes. What the graph itself returns comes first.
    """
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    results: list[Any] = []
    if inputs:
        values = graph.placeholder("values")
        for index, node in enumerate(inputs):
            copies[node] = graph.call_function(_item, (values, index))
    for node in nodes:
        if node.op == "output":
            results.append(fx.map_arg(node.args[0], lambda source: copies[source]))
        else:
            copies[node] = graph.node_copy(node, lambda source: copies[source])
    graph.output((*results, *(copies[node] for node in returned)))
    code = graph.python_code("self")
    scope = dict(code.globals)
    name = f"<coterie graph {id(graph)}>"
    linecache.cache[name] = (len(code.src), None, code.src.splitlines(True), name)  # readable tracebacks
    exec(compile(code.src, name, "exec"), scope)
    return cast(Callable[..., Any], scope["forward"])


def _item(values: tuple[Any, ...], index: int) -> Any:
    return values[index]


def training_flags(model: nn.Module) -> tuple[bool, ...]:
    """What a trace freezes of the mode: the ``training`` flag of every module that is traced through."""
    return tuple(module.training for module in model.modules() if not _is_torch_leaf(module))


def _is_torch_leaf(module: nn.Module) -> bool:
    return type(module).__module__.startswith(_LIBRARIES) and not isinstance(module, nn.Sequential)


@contextmanager
def undisturbed(*modules: nn.Module) -> Iterator[None]:
    """Run a block after which modes, buffers and random generators are as before."""
    modes = [(part, part.training) for module in modules for part in module.modules()]
    buffers = [(buffer, buffer.detach().clone()) for module in modules for buffer in module.buffers()]
    devices = {tensor.get_device() for module in modules for tensor in module.parameters() if tensor.is_cuda}
    with torch.random.fork_rng(devices=sorted(devices)), torch.no_grad():
        try:
            yield
        finally:
            for part, mode in modes:
                part.training = mode
            for buffer, value in buffers:
                buffer.copy_(value)
