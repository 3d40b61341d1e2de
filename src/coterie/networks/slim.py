"""The same network at a share of its width above a cut; below it, the very modules of the network itself.

A network may say itself how it is slimmed, by a method ``slimmed(share, at)`` that gives a newly initialised network
with the same module paths: the papers' CIFAR networks do, so that their students are those of the paper to the last
channel. Any other is slimmed structurally, by torch-pruning's graph of which channels depend on which.
"""

from collections.abc import Callable
from fractions import Fraction
from math import lcm, sqrt
from typing import Any

import torch
from torch import Tensor, nn

from coterie.errors import UserError
from coterie.networks.fresh import untrained
from coterie.networks.graph import cut
from coterie.networks.shapes import example_images
from coterie.networks.structure import dependencies, is_output
from coterie.networks.tracing import around, trace, undisturbed


def slim(
    model: nn.Module,
    share: Fraction,
    at: str,
    example: Tensor | None = None,
    *,
    factory: Callable[[], nn.Module] | None = None,
) -> nn.Module:
    """A whole network whose trunk is ``model``'s own modules and whose tail is new, at a share of the channels.

    Every group of c channels that depend on each other is cut to int(c share), at least 1. (Walawalkar, Shen,
    Savvides, ECCV 2020, section 3.1.) Grouped convolutions and group norms keep their groups, each narrower. At full
    width stay: what the trunk also writes into (a residual stream that crosses the cut), and what attention computes,
    since its heads are no share of channels.

    Args:
        model: A classifier: images (B, channels, H, W) to logits (B, C). It is left as it was.
        share: The share of the channels, in (0, 1].
        at: The module with which the tail begins.
        example: Images of the shape that the model is for, as for :func:`~coterie.networks.branch.branch`.
        factory: Makes a newly initialised model; None re-initialises a copy layer by layer.

    Raises:
        UserError: The model cannot be cut there, or a layer above the cut cannot be slimmed; names it.
    """
    if not 0 < share <= 1:
        raise UserError(f"a network keeps a share of its channels above 0 and up to 1, not {share}")
    example = example_images(model, example)
    slimmed = getattr(model, "slimmed", None)
    if callable(slimmed):
        student: nn.Module = slimmed(share, at)
    else:
        student = untrained(model, "fresh", factory)
        _prune(student, share, at, example.to(next(student.parameters())))
    reference = next(model.parameters())
    student.to(reference.device, reference.dtype).train(model.training)
    _adopt(student, model, tail_paths(student, at))
    return student


def tail_paths(network: nn.Module, at: str) -> set[str]:
    """Paths of the modules (whole ones) and tensors that run from ``at`` on, in training or in evaluation mode."""
    paths: set[str] = set()
    with undisturbed(network):
        for mode in (True, False):
            (tail,) = cut(trace(network.train(mode), around([at])), [at]).tails
            paths.update(tail.modules, tail.tensors)
    return paths


def _adopt(student: nn.Module, model: nn.Module, tail: set[str], place: str = "") -> None:
    """Put the model's own modules, parameters and buffers into the student wherever no part of the tail lies."""
    for name, child in model.named_children():
        path = place + name
        if path in tail:
            continue
        if any(each.startswith(f"{path}.") for each in tail):
            _adopt(student.get_submodule(name), child, tail, f"{path}.")
        else:
            setattr(student, name, child)
    for name, parameter in model.named_parameters(recurse=False):
        if place + name not in tail:
            setattr(student, name, parameter)
    for name, buffer in model.named_buffers(recurse=False):
        if place + name not in tail:
            setattr(student, name, buffer)


def _prune(student: nn.Module, share: Fraction, at: str, example: Tensor) -> None:
    """Cut the channel groups of a newly initialised network's tail, in place."""
    prefixes = tuple(f"{path}." for path in tail_paths(student, at))
    paths: dict[int, str] = {id(layer): path for path, layer in student.named_modules()}
    paths |= {id(parameter): path for path, parameter in student.named_parameters()}
    before = _fans_in(student)
    try:
        with dependencies(student, example) as graph:
            for group in graph.get_all_groups(ignored_layers=_attention(student)):
                targets = [item.dep.target for item in group]
                layers = {paths[id(each.module)]: each.module for each in targets if id(each.module) in paths}
                in_tail = all(f"{path}.".startswith(prefixes) for path in layers)
                if in_tail and not any(is_output(each) for each in targets):
                    groups = [_groups(path, layer) for path, layer in layers.items()]
                    group.prune(_surplus(len(group[0].idxs), groups, share))
                    paths |= {id(parameter): path for path, parameter in student.named_parameters()}
        with undisturbed(student):
            student.train()(example)
    except UserError:
        raise
    except Exception as error:  # whatever the library makes of an architecture that it does not know
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"{type(student).__name__} cannot be slimmed from '{at}' on ({reason}); slim it from a later module on, or "
            "give it a method slimmed(share, at)"
        ) from error
    after = _fans_in(student)
    if share < 1 and before == after:
        raise UserError(f"no channels from '{at}' on can be cut in {type(student).__name__}; cut it at another module")
    with torch.no_grad():
        for path, fan in after.items():
            # A layer's outputs vary as those of the full one did: a share of its inputs, each weighted more.
            student.get_submodule(path).weight.mul_(sqrt(before[path] / fan))  # type: ignore[operator]


def _surplus(channels: int, groups: list[int], share: Fraction) -> list[int]:
    """Which of a group's channels go: the last of each of the groups that its layers compute apart."""
    count = lcm(*groups)
    size = channels // count
    kept = max(1, int(size * share))
    return [number * size + index for number in range(count) for index in range(kept, size)]


def _groups(path: str, layer: Any) -> int:
    """How many groups of channels a layer computes apart; 1 for depthwise convolutions, whose groups go with them."""
    if isinstance(layer, nn.GroupNorm):
        return layer.num_groups
    groups = getattr(layer, "groups", 1)
    if groups == 1 or groups == layer.in_channels == layer.out_channels:
        return 1
    if groups in (layer.in_channels, layer.out_channels):
        raise UserError(
            f"'{path}' ({layer.in_channels} to {layer.out_channels} channels in {groups} groups) cannot be slimmed; "
            "slim the network from a later module on"
        )
    return groups


def _attention(network: nn.Module) -> list[nn.Module]:
    """Every layer of attention: all that is inside the innermost modules that have a number of heads."""
    with_heads = [module for module in network.modules() if hasattr(module, "num_heads")]
    innermost = [each for each in with_heads if not any(part in with_heads for part in list(each.modules())[1:])]
    return [part for module in innermost for part in module.modules()]


def _fans_in(network: nn.Module) -> dict[str, int]:
    """Inputs of each output of every convolution and linear layer, by path."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return {path: layer.weight[0].numel() for path, layer in network.named_modules() if isinstance(layer, kinds)}
