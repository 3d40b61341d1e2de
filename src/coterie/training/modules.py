"""The modules of a stage: where they are, what they hold, and which of their parameters a turn trains."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from coterie.errors import UserError, in_a_line
from coterie.methods import Stage
from coterie.processor import layout_of


def stage_modules(stage: Stage) -> dict[str, nn.Module]:
    """Everything whose state a stage changes, by the names under which checkpoints hold it."""
    modules = {f"turn{index}": turn.module for index, turn in enumerate(stage.turns)}
    if stage.network is not None:
        modules["network"] = stage.network
    return modules | dict(stage.state)


def states_of(modules: Mapping[str, nn.Module]) -> dict[str, dict[str, Any]]:
    """The states of modules, for a checkpoint."""
    return {name: module.state_dict() for name, module in modules.items()}


def place(stage: Stage, device: torch.device) -> None:
    """Move a stage's networks to the device, in its layout: later stages get them so, trained here or loaded."""
    modules = stage_modules(stage).values()
    layout = layout_of(modules, device)
    for module in modules:
        module.to(device, memory_format=layout)  # type: ignore[call-overload]


def load_modules(modules: dict[str, nn.Module], states: dict[str, Any]) -> None:
    """Load modules' states strictly.

    Raises:
        UserError: The checkpoint is another network's.
    """
    try:
        for name, module in modules.items():
            module.load_state_dict(states[name])
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise another_network(error) from error


def another_network(error: Exception) -> UserError:
    """The error for a checkpoint that does not fit."""
    return UserError(f"the checkpoint is of another network ({in_a_line(error)}); choose another ⟨out⟩")


@contextmanager
def keep_buffers(module: nn.Module) -> Iterator[None]:
    """Within the block, what forwards write into buffers is forgotten: batch norm's statistics, counted a second time.

    They write into copies, since checkpointing looks whether a second forward keeps tensors of the same shapes.
    """
    copies: dict[int, Tensor] = {}
    held = [(each, name, buffer) for each in module.modules() for name, buffer in each._buffers.items()]
    for owner, name, buffer in held:
        if buffer is not None:
            owner._buffers[name] = copies.setdefault(id(buffer), buffer.clone())
    try:
        yield
    finally:
        for owner, name, buffer in held:
            owner._buffers[name] = buffer


@contextmanager
def only(module: nn.Module, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Within the block, gradients reach these parameters of the module and no others."""
    wanted = {id(parameter) for parameter in parameters}
    held = [p for p in module.parameters() if p.requires_grad and id(p) not in wanted]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)
