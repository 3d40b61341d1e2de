"""A model's forward as a graph: traced with torch.fx, cut in two, and run against live modules.

The graph holds no parameters, buffers or modules. Its two halves become plain functions that look every module up by
its path on whatever root they are given, so the same code runs on the user's model and on a branch that holds copies
of the upper modules under the same paths.
"""

import copy
import linecache
import random
import traceback
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import fx, nn

from coterie.errors import UserError

_TORCH = str(Path(torch.__file__).parent)
_LAYERS = (nn.Linear, nn.Conv2d)
_SCALARS = (bool, int, float, str, type(None))
_FACTORIES = ("arange", "empty", "eye", "full", "linspace", "ones", "rand", "randn", "randperm", "tensor", "zeros")


class Resists(Exception):
    """A forward that torch.fx cannot follow, or whose trace would freeze what changes from call to call."""


class _Tracer(fx.Tracer):
    """Follows the forwards of the modules ``inside``; None follows all that torch and timm do not call leaves."""

    # A buffer is read where it is used: what a forward computes from it would else be computed once, while tracing.
    proxy_buffer_attributes = True

    def __init__(self, inside: Collection[str] | None) -> None:
        factories = tuple(getattr(torch, name) for name in _FACTORIES)
        super().__init__(autowrap_functions=_timm_functions() + factories, param_shapes_constant=True)
        self._autowrap_search.append(torch)  # torch.arange(n) of a traced n is no method that a proxy could see
        self.inside = inside

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if self.inside is not None:
            return module_qualified_name not in self.inside
        return super().is_leaf_module(m, module_qualified_name) or isinstance(m, _timm_leaves())

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if self.submodule_paths is not None and m not in self.submodule_paths:
            return forward(*args, **kwargs)  # made in the forward around registered ones, as layers[:-1] is
        return super().call_module(m, forward, args, kwargs)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        # Other arguments keep their defaults: a proxy in their place would never be None.
        images = self.create_proxy("placeholder", "images", (), {})
        return lambda root, value: root.forward(value), [self.root, images]


def _timm_leaves() -> tuple[type[nn.Module], ...]:
    from timm.models import _features_fx as registry

    return tuple(cast(set[type[nn.Module]], registry.get_notrace_modules()))


def _timm_functions() -> tuple[Callable[..., Any], ...]:
    from timm.models import _features_fx as registry

    return tuple(registry.get_notrace_functions())


def around(paths: Iterable[str]) -> frozenset[str]:
    """The modules that hold the modules ``paths``, the root ("") among them."""
    parents = {""}
    for path in paths:
        parts = path.split(".")
        parents |= {".".join(parts[:length]) for length in range(1, len(parts))}
    return frozenset(parents)


def trace(model: nn.Module, inside: Collection[str] | None = None) -> fx.Graph:
    """The forward of ``model`` as it is now; the model is left as it was.

    Args:
        model: Any module that takes images.
        inside: Paths of the modules whose forwards are followed, as :func:`around` a cut; all others are called
            as they are, so that nothing of them is frozen. None follows every module that torch.fx can.

    Raises:
        UserError: A forward cannot be followed; names its class, file and line, and the reason.
    """
    try:
        return _traced(model, inside)
    except Resists as error:
        raise UserError(
            f"{type(model).__name__} cannot be cut into trunk and branches: {error}; move what depends on values "
            "into a submodule, cut elsewhere, or use share=False"
        ) from error


def _traced(model: nn.Module, inside: Collection[str] | None) -> fx.Graph:
    tracer = _Tracer(inside)
    with _restored(model) as wrote:
        _forget(model)
        before = _generators()
        try:
            graph = tracer.trace(model)
        except Exception as error:
            raise Resists(f"{_place(error, model)} cannot be traced ({_reason(error)})") from error
        if not _same(before, _generators()):
            raise Resists(f"the forward of {type(model).__name__} draws random numbers that a trace would freeze")
        constants = {name: value for name, value in vars(model).items() if name.startswith("_tensor_constant")}
        for name in constants:
            del vars(model)[name]
        if wrote():
            raise Resists(f"the forward of {type(model).__name__} sets {wrote()}, which a trace would do only once")
    for node in list(graph.nodes):
        if node.op == "get_attr" and node.target in constants:
            with graph.inserting_before(node):
                node.replace_all_uses_with(graph.call_function(_Constant(constants[str(node.target)])))
            graph.erase_node(node)
    return graph


@contextmanager
def _restored(model: nn.Module) -> Iterator[Callable[[], str]]:
    """Undo what a forward leaves on the modules; gives a function that names an attribute that it has set."""
    saved = [(path, module, dict(vars(module))) for path, module in model.named_modules()]
    caches = [
        (cache, cache.copy())
        for _, _, attributes in saved
        for cache in attributes.values()
        if isinstance(cache, (dict, list, set))
    ]

    def wrote() -> str:
        for path, module, attributes in saved:
            for name, value in vars(module).items():
                if name not in attributes or value is not attributes[name]:
                    return f"{path}.{name}".lstrip(".")
        return ""

    try:
        yield wrote
    finally:
        for _, module, attributes in saved:
            for name in set(vars(module)) - set(attributes):
                del vars(module)[name]
            vars(module).update(attributes)
        for cache, content in caches:  # what a forward remembers while it is traced are no tensors
            cache.clear()
            cache.extend(content) if isinstance(cache, list) else cache.update(content)


def _forget(model: nn.Module) -> None:
    """Empty what forwards have remembered, which a trace would else take for good."""
    for module in model.modules():
        for name, cache in vars(module).items():
            if isinstance(cache, dict) and not name.startswith("_") and any(map(torch.is_tensor, cache.values())):
                cache.clear()


def _generators() -> tuple[Any, ...]:
    """The states of the random generators that a forward may draw from."""
    state: Any = np.random.get_state()
    return torch.get_rng_state(), random.getstate(), state[2], state[1]


def _same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return torch.equal(one[0], other[0]) and one[1:3] == other[1:3] and bool((one[3] == other[3]).all())


def _place(error: BaseException, model: nn.Module) -> str:
    """The class, file and line of the innermost module that an error was raised in."""
    frames = list(traceback.walk_tb(error.__traceback__))
    for frame, line in reversed(frames):
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and not frame.f_code.co_filename.startswith(_TORCH):
            name = next((f"'{path}'" for path, module in model.named_modules() if path and module is owner), "itself")
            return f"{type(owner).__name__} ({name}, {frame.f_code.co_filename}:{line})"
    return f"the forward of {type(model).__name__}"


def _reason(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].split(". To learn more")[0][:160]


class _Constant:
    """A tensor that the forward makes from nothing, as a function without arguments."""

    def __init__(self, value: torch.Tensor) -> None:
        self.value = value
        self.__name__ = f"constant_{id(self)}"
        self.__module__ = __name__
        self.__qualname__ = self.__name__

    def __call__(self) -> torch.Tensor:
        return self.value.clone()  # the forward may write into it


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
        inside: The modules whose forwards are followed; all others are called as they are.
        maps: Whether the last feature map is tapped beside what the classifier reads.
        outputs: Modules whose outputs are tapped, in place of these two.
    """

    def __init__(
        self, ats: tuple[str, ...], inside: Collection[str], maps: bool = False, outputs: tuple[str, ...] = ()
    ) -> None:
        self.ats, self.inside, self.maps, self.outputs = ats, inside, maps, outputs
        self._graphs: dict[tuple[Hashable, ...], CutGraph] = {}

    def of(self, network: nn.Module, images: torch.Tensor) -> CutGraph:
        """The segments as the modules are set now; the last returns logits and what is tapped."""
        if torch.compiler.is_compiling():  # all that a trace freezes is too much for a compiler's guards
            for known, graph in reversed(self._graphs.items()):
                if known[0] == network.training:
                    return graph
        key = frozen_facts(network, self.inside)
        if key not in self._graphs:
            traced = trace(network, self.inside)
            taps: list[fx.Node | None] = [output_of(traced, path) for path in self.outputs]
            if not self.outputs:
                taps.append(classifier_input(traced, network))
            if self.maps:
                taps.append(last_map(traced, network, images))
            self._graphs[key] = cut(traced, self.ats, [tap for tap in taps if tap is not None])
        return self._graphs[key]

    def __getstate__(self) -> dict[str, Any]:
        # Compiled functions cannot be pickled; they are made again where they are needed.
        return {**vars(self), "_graphs": {}}

    def __deepcopy__(self, memo: dict[int, Any]) -> "Cuts":
        # They hold no state, so that a copy keeps them: it may be exported or called functionally before it ever ran.
        twin = copy.copy(self)
        twin._graphs = dict(self._graphs)
        return twin


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
    """What the last linear layer or convolution before the output reads; None where it cannot be seen."""
    last = _last_layer(graph, model)
    if last is None or not isinstance(model.get_submodule(last), _LAYERS):
        return None
    return next(node for node in reversed(graph.nodes) if node.target == last).all_input_nodes[0]


def with_classifier(model: nn.Module, inside: Collection[str]) -> frozenset[str]:
    """``inside``, and the modules around the classifier, where their forwards can be followed."""
    found = frozenset(inside)
    graph = trace(model, found)
    while (last := _last_layer(graph, model)) is not None and not isinstance(model.get_submodule(last), _LAYERS):
        wider = found | around([f"{last}.*"])
        try:
            graph = _traced(model, wider)
        except Resists:
            return found
        found = wider
    return found


def _last_layer(graph: fx.Graph, model: nn.Module) -> str | None:
    """The last module before the output that is or holds a linear layer or convolution."""
    wanted = {graph.output_node()}
    for node in reversed(list(graph.nodes)):
        if node in wanted:
            path = str(node.target)
            if node.op == "call_module" and any(isinstance(m, _LAYERS) for m in model.get_submodule(path).modules()):
                return path
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


def frozen_facts(model: nn.Module, inside: Collection[str]) -> tuple[Hashable, ...]:
    """What a trace freezes of the modules that it follows: their modes, switches and rates, and where the model is."""
    first = next(model.parameters(), None)
    facts: list[Hashable] = [model.training, *((first.device, first.dtype) if first is not None else ())]
    for path in sorted(inside):
        module = model.get_submodule(path)
        facts.append((path, *(item for item in vars(module).items() if isinstance(item[1], _SCALARS))))
    return tuple(facts)


@contextmanager
def undisturbed(*modules: nn.Module) -> Iterator[None]:
    """Run a block after which modes, buffers, attributes and random generators are as before."""
    buffers = [(buffer, buffer.detach().clone()) for module in modules for buffer in module.buffers()]
    devices = {tensor.get_device() for module in modules for tensor in module.parameters() if tensor.is_cuda}
    states = random.getstate(), np.random.get_state()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=sorted(devices)))
        stack.enter_context(torch.no_grad())
        for module in modules:
            stack.enter_context(_restored(module))
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            for buffer, value in buffers:
                buffer.copy_(value)
