"""Running a model without leaving anything on it: no statistics, no attributes, no random numbers drawn."""

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import fx, nn


@contextmanager
def preserve_state(*modules: nn.Module) -> Iterator[None]:
    """Run a block after which modes, buffers, attributes and random generators are as before."""
    # Copied back into the same tensors: an optimiser, a compiled graph or the user may hold them.
    buffers = [(buffer, buffer.detach().clone()) for module in modules for buffer in module.buffers()]
    states = read_generators()
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        for module in modules:
            stack.enter_context(restore_attributes(module))
        try:
            yield
        finally:
            set_generators(states)
            for buffer, value in buffers:
                buffer.copy_(value)


@contextmanager
def restore_attributes(model: nn.Module) -> Iterator[Callable[[], str]]:
    """Undo what a forward leaves on the modules; gives a function that names an attribute that it has set."""
    # Modules keep counters, caches and masks as plain attributes, which no state dict knows.
    saved = [(path, module, dict(vars(module))) for path, module in model.named_modules()]
    caches = [
        (cache, cache.copy())
        for _, _, attributes in saved
        for cache in attributes.values()
        if isinstance(cache, (dict, list, set))
    ]

    def find_written() -> str:
        for path, module, attributes in saved:
            for name, value in vars(module).items():
                if name not in attributes or value is not attributes[name]:
                    return f"{path}.{name}".lstrip(".")
            for name, value in module._buffers.items():
                if isinstance(value, fx.Proxy):
                    return f"{path}.{name}".lstrip(".")
        return ""

    try:
        yield find_written
    finally:
        for _, module, attributes in saved:
            for name in set(vars(module)) - set(attributes):
                del vars(module)[name]
            vars(module).update(attributes)
        for cache, content in caches:  # what a forward remembers while it is traced are no tensors
            cache.clear()
            cache.extend(content) if isinstance(cache, list) else cache.update(content)


def read_generators() -> dict[str, Any]:
    """The states of the random generators that a forward may draw from."""
    states: dict[str, Any] = {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_generators(states: dict[str, Any]) -> None:
    """Set the random generators to what :func:`read_generators` gave."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])


def same_generators(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two states of the random generators are equal."""
    tensors = all(torch.equal(one[name], other[name]) for name in ("cpu", "cuda") if name in one and name in other)
    keys = bool((one["numpy"][1] == other["numpy"][1]).all()) and one["numpy"][2:] == other["numpy"][2:]
    return tensors and keys and one["python"] == other["python"]
