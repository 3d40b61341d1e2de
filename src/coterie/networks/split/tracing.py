"""A model's forward as a graph, traced with torch.fx.

Only forwards around a split are followed. Every other module is called as it is, so that nothing of it is frozen: no
mode, no shape, no branch of its Python code.
"""

import sys
import traceback
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import fx, nn
from torch.fx.proxy import ParameterProxy

from coterie.errors import in_a_line
from coterie.networks.preserve import read_generators, restore_attributes, same_generators, set_generators
from coterie.networks.split.checkpointing import checkpoints_itself, watch_checkpoints

_TORCH = str(Path(torch.__file__).parent)
RECOMPUTED = "recomputed"  # of a node under activation checkpointing: the number of its checkpointed region
_SCALARS = (bool, int, float, str, type(None))
_FACTORIES = ("arange", "empty", "eye", "full", "linspace", "ones", "rand", "randn", "randperm", "tensor", "zeros")


class Resists(Exception):
    """A forward that torch.fx cannot follow, or whose trace would freeze what changes from call to call."""


class _Buffer(ParameterProxy):
    """Stands for a buffer; its shape, as a parameter's, is a fact that the forward may go by."""

    def __init__(self, tracer: fx.Tracer, node: fx.Node, name: str, param: torch.Tensor) -> None:
        fx.Proxy.__init__(self, node, tracer)
        self.param, self.name = cast(nn.Parameter, param), name


class _Tracer(fx.Tracer):
    """Follows the forwards of the modules ``inside``; None follows all that torch and timm do not call leaves.

    The graph returns what ``read`` makes of what the root returns.
    """

    def __init__(self, inside: Collection[str] | None, read: Callable[[Any], Any]) -> None:
        factories = tuple(getattr(torch, name) for name in _FACTORIES)
        # Factories are wrapped since they take no tensor by which a proxy would see the call; shapes of parameters are
        # constants, so that forwards may go by them.
        super().__init__(autowrap_functions=_timm_functions() + factories, param_shapes_constant=True)
        self._autowrap_search.append(torch)  # torch.arange(n) of a traced n is no method that a proxy could see
        self.inside, self.read = inside, read
        self.regions = 0
        self.region: int | None = None
        self.recomputed: Callable[..., Any] | None = None

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

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        # A buffer is read where it is used: what a forward computes from it would else be computed once, in the trace.
        if isinstance(attr_val, torch.Tensor) and not isinstance(attr_val, nn.Parameter):
            name = next((name for name, buffer in self.root.named_buffers() if buffer is attr_val), None)
            if name is not None:
                return self.create_proxy(
                    "get_attr", name, (), {}, proxy_factory_fn=lambda node: _Buffer(self, node, name, attr_val)
                )
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_node(self, kind: str, *details: Any, **more: Any) -> fx.Node:
        node = super().create_node(kind, *details, **more)
        if self.region is not None and not (kind == "call_module" and self._checkpoints_itself(str(node.target))):
            node.meta[RECOMPUTED] = self.region
        return node

    @contextmanager
    def mark_recomputed(self, function: Callable[..., Any]) -> Iterator[None]:
        """Within the block, nodes are marked as of one checkpointed region, which a trace else forgets."""
        outer = self.region, self.recomputed
        if self.region is None:  # of regions within each other the outermost counts
            self.regions += 1
            self.region, self.recomputed = self.regions, function
        try:
            yield
        finally:
            self.region, self.recomputed = outer

    def _checkpoints_itself(self, path: str) -> bool:
        module = self.root.get_submodule(path)
        return self.recomputed is not None and checkpoints_itself(module, self.recomputed)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        # Other arguments keep their defaults: a proxy in their place would never be None.
        images = self.create_proxy("placeholder", "images", (), {})
        return lambda root, value: self.read(root.forward(value)), [self.root, images]


def _timm_leaves() -> tuple[type[nn.Module], ...]:
    """Modules that timm's own feature extraction does not follow either: their forwards go by values or shapes."""
    registry = _timm_registry()
    return () if registry is None else tuple(cast(set[type[nn.Module]], registry.get_notrace_modules()))


def _timm_functions() -> tuple[Callable[..., Any], ...]:
    registry = _timm_registry()
    return () if registry is None else tuple(registry.get_notrace_functions())


def _timm_registry() -> Any:
    """What timm has listed as not to be traced; None where timm is not loaded, so that no part of a model is timm's."""
    if "timm.models" not in sys.modules:  # timm takes seconds to import
        return None
    from timm.models import _features_fx

    return _features_fx


def find_parents(paths: Iterable[str]) -> frozenset[str]:
    """The modules that hold the modules ``paths``, the root ("") among them."""
    parents = {""}
    for path in paths:
        parts = path.split(".")
        parents |= {".".join(parts[:length]) for length in range(1, len(parts))}
    return frozenset(parents)


def trace(
    model: nn.Module, inside: Collection[str] | None = None, read: Callable[[Any], Any] = lambda output: output
) -> fx.Graph:
    """The forward of ``model`` as it is now; the model is left as it was.

    Args:
        model: Any module that takes images.
        inside: Paths of the modules whose forwards are followed, as :func:`find_parents` a split; all others are called
            as they are, so that nothing of them is frozen. None follows every module that torch.fx can.
        read: Takes the graph's output, the logits, from what the model returns.

    Raises:
        Resists: A forward cannot be followed; names its class, file and line, and the reason.
    """
    tracer = _Tracer(inside, read)
    with restore_attributes(model) as find_written:
        _forget(model)
        # A number that is drawn while tracing would be the same in every step: such forwards are refused.
        before = read_generators()
        try:
            # In training mode a forward may ask whether gradients are wanted before it checkpoints.
            with (
                watch_checkpoints(tracer.mark_recomputed),
                torch.set_grad_enabled(model.training or torch.is_grad_enabled()),
            ):
                graph = tracer.trace(model)
        except Exception as error:
            raise Resists(f"{_locate_error(error, model)} cannot be traced, {in_a_line(error)}") from error
        finally:
            after = read_generators()
            set_generators(before)
        if not same_generators(before, after):
            raise Resists(f"the forward of {type(model).__name__} draws random numbers that a trace would freeze")
        # torch.fx keeps tensors that a forward makes as attributes of the model, which is the user's: they move into
        # the graph.
        constants = {name: value for name, value in vars(model).items() if name.startswith("_tensor_constant")}
        for name in constants:
            del vars(model)[name]
        if written := find_written():
            raise Resists(f"the forward of {type(model).__name__} sets {written}, which a trace would do only once")
    for node in list(graph.nodes):
        node.meta.pop("is_wrapped", None)  # else the compiled code would have torch.fx wrap these functions for good
        if node.op == "get_attr" and node.target in constants:
            with graph.inserting_before(node):
                made = graph.call_function(_Constant(constants[str(node.target)]))
                made.meta.update(node.meta)
                node.replace_all_uses_with(made)
            graph.erase_node(node)
    return graph


def _forget(model: nn.Module) -> None:
    """Empty what forwards have remembered, which a trace would else take for good."""
    for module in model.modules():
        for name, cache in vars(module).items():
            if isinstance(cache, dict) and not name.startswith("_") and any(map(torch.is_tensor, cache.values())):
                cache.clear()


def _locate_error(error: BaseException, model: nn.Module) -> str:
    """The class, file and line of the innermost module that an error was raised in."""
    frames = list(traceback.walk_tb(error.__traceback__))
    for frame, line in reversed(frames):
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and not frame.f_code.co_filename.startswith(_TORCH):
            name = next((f"'{path}'" for path, module in model.named_modules() if path and module is owner), "itself")
            return f"{type(owner).__name__} ({name}, {frame.f_code.co_filename}:{line})"
    return f"the forward of {type(model).__name__}"


class _Constant:
    """A tensor that the forward makes from nothing, as a function without arguments."""

    def __init__(self, value: torch.Tensor) -> None:
        self.value = value
        self.__name__ = f"constant_{id(self)}"
        self.__module__ = __name__
        self.__qualname__ = self.__name__

    def __call__(self) -> torch.Tensor:
        return self.value.clone()  # the forward may write into it


def collect_frozen_facts(model: nn.Module, inside: Collection[str]) -> tuple[Hashable, ...]:
    """What a trace freezes of the modules that it follows: their modes, switches and rates, and where the model is."""
    first = next(model.parameters(), None)
    facts: list[Hashable] = [model.training, *((first.device, first.dtype) if first is not None else ())]
    for path in sorted(inside):
        module = model.get_submodule(path)
        facts.append((path, *(item for item in vars(module).items() if isinstance(item[1], _SCALARS))))
        facts += [buffer.shape for buffer in module._buffers.values() if buffer is not None]
    return tuple(facts)
