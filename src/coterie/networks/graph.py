"""A model's forward as a graph: traced with torch.fx, cut in two, and run against live modules.

The graph holds no parameters, buffers or modules. Its two halves become plain functions that look every module up by
its path on whatever root they are given, so the same code runs on the user's model and on a branch that holds copies
of the upper modules under the same paths.
"""

import linecache
from collections.abc import Callable, Iterator
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
class CutGraph:
    """A forward in two halves.

    Attributes:
        trunk: (root, images) -> the values that cross the cut, as a tuple.
        tail: (root, values) -> logits.
        crossing: Names of the values that cross.
        modules: Paths of the modules that the tail calls.
        tensors: Paths of the parameters and buffers that the tail reads itself.
    """

    trunk: Callable[[nn.Module, torch.Tensor], tuple[Any, ...]]
    tail: Callable[[nn.Module, tuple[Any, ...]], torch.Tensor]
    crossing: tuple[str, ...]
    modules: tuple[str, ...]
    tensors: tuple[str, ...]


def cut(graph: fx.Graph, at: str) -> CutGraph:
    """Cut a graph before the first node of the module ``at``.

    Raises:
        UserError: No such module runs in the forward, or nothing comes before it.
    """
    nodes = list(graph.nodes)
    first = next((index for index, node in enumerate(nodes) if _runs_in(node, at)), None)
    if first is None:
        raise UserError(f"no module '{at}' runs in this network's forward; `at` names one of {_top_modules(nodes)}")
    if not any(node.op.startswith("call") for node in nodes[:first]):
        raise UserError(f"nothing comes before '{at}', so no layer would be shared; cut later, or use share=False")
    trunk = [node for node in nodes[:first] if not _only_read_after(node, nodes[first:])]
    kept = set(trunk)
    tail = [node for node in nodes if node not in kept]
    inputs = dict.fromkeys(source for node in tail for source in node.all_input_nodes if source in kept)
    return CutGraph(
        trunk=_function(trunk, [], tuple(inputs)),
        tail=_function(tail, list(inputs), None),
        crossing=tuple(node.name for node in inputs),
        modules=tuple(dict.fromkeys(str(node.target) for node in tail if node.op == "call_module")),
        tensors=tuple(dict.fromkeys(str(node.target) for node in tail if node.op == "get_attr")),
    )


def _runs_in(node: fx.Node, at: str) -> bool:
    return at in module_path(node) or (node.op == "call_module" and node.target == at)


def _top_modules(nodes: list[fx.Node]) -> str:
    paths = dict.fromkeys(path[0] for node in nodes if (path := module_path(node)))
    return ", ".join(list(paths)[:12]) + (", …" if len(paths) > 12 else "")


def _only_read_after(node: fx.Node, after: list[fx.Node]) -> bool:
    return node.op == "get_attr" and all(user in after for user in node.users)


def _function(nodes: list[fx.Node], inputs: list[fx.Node], returned: tuple[fx.Node, ...] | None) -> Callable[..., Any]:
    """Compile nodes into ``f(self, values)``; ``inputs`` are unpacked from a tuple of values."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    if inputs:
        values = graph.placeholder("values")
        for index, node in enumerate(inputs):
            copies[node] = graph.call_function(_item, (values, index))
    for node in nodes:
        if node.op != "output":
            copies[node] = graph.node_copy(node, lambda source: copies[source])
        elif returned is None:
            graph.output(fx.map_arg(node.args[0], lambda source: copies[source]))
    if returned is not None:
        graph.output(tuple(copies[node] for node in returned))
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
