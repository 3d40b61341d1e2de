"""Activation checkpointing of a model's own forward, seen while the forward is followed."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch.utils.checkpoint
from torch import nn

# What torch's checkpoint() itself calls around the function, in its two forms. They are replaced rather than
# checkpoint(), since forwards hold that under names of their own: imported, wrapped by timm, in a partial of
# Hugging Face's. The second name is that of PyTorch before 2.14.
_GENERATORS = ("_checkpoint_without_reentrant_generator_impl", "_checkpoint_without_reentrant_generator")
_REENTRANT = "CheckpointFunction"

Region = Callable[[Callable[..., Any]], AbstractContextManager[None]]


@contextmanager
def watch_checkpoints(region: Region) -> Iterator[None]:
    """Within the block, checkpoint() only calls its function, inside ``region(function)``, and saves no memory.

    Args:
        region: Makes a context manager of the function that is checkpointed.
    """

    def around(function: Callable[..., Any], *_: Any, **__: Any) -> Iterator[None]:
        with region(function):
            yield

    class Reentrant:
        @staticmethod
        def apply(function: Callable[..., Any], _: bool, *args: Any) -> Any:
            with region(function):
                return function(*args)

    replaced = dict.fromkeys((name for name in _GENERATORS if hasattr(torch.utils.checkpoint, name)), around)
    replaced |= {_REENTRANT: Reentrant}  # type: ignore[dict-item]
    before = {name: getattr(torch.utils.checkpoint, name) for name in replaced}
    for name, value in replaced.items():
        setattr(torch.utils.checkpoint, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(torch.utils.checkpoint, name, value)


def checkpoints_itself(module: nn.Module, function: Callable[..., Any]) -> bool:
    """Whether ``function``, given to checkpoint(), is what the module's own ``__call__`` calls.

    Such a module (Hugging Face's GradientCheckpointingLayer) checkpoints wherever it is called.
    """
    while isinstance(function, partial):
        function = function.func
    return getattr(function, "__self__", None) is module and type(module).__call__ is not nn.Module.__call__
