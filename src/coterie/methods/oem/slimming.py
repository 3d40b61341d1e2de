"""The same network at a share of its width above a cut; below it, the very modules of the network itself.

A network may say itself how it is slimmed, by a method ``slimmed(share, at)`` that gives a newly initialised network
with the same module paths: the papers' CIFAR networks do, so that their students are those of the paper to the last
channel. Any other is slimmed structurally, by torch-pruning's graph of which channels depend on which.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import lcm, sqrt
from typing import Any, cast

import torch
from torch import Tensor, nn

from coterie.errors import UserError
from coterie.networks.preserve import preserve_state
from coterie.networks.prune.channels import dependencies, is_output
from coterie.networks.reinit import untrained
from coterie.networks.shapes import example_images
from coterie.networks.split.graph import split_graph
from coterie.networks.split.tracing import around, trace


@dataclass(frozen=True)
class Side:
    """A tensor on which channels lie.

    Attributes:
        path: Of its module, or of a parameter that no layer of the library's holds.
        cut: torch-pruning's function that cuts the layer's inputs or outputs: (layer or parameter, places).
        dim: The dimension that it cuts.
        places: For each of its places the channel that lies there.
    """

    path: str
    cut: Callable[..., Any]
    dim: int
    places: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Tied:
    """Channels that depend on each other, and every side on which they lie.

    Attributes:
        channels: How many there are.
        groups: Into how many groups of one size they fall, which are narrowed alike.
        sides: Where they lie.
    """

    channels: int
    groups: int
    sides: tuple[Side, ...]

    def surplus(self, share: Fraction) -> set[int]:
        """Which of the channels go: the last of each of the groups that its layers compute apart."""
        size = self.channels // self.groups
        kept = max(1, int(size * share))
        return {number * size + index for number in range(self.groups) for index in range(kept, size)}


@dataclass(frozen=True)
class Plan:
    """What of a network is slimmed, whatever the share; it holds paths and numbers, no modules.

    Attributes:
        tail: Paths of the modules (whole ones) and tensors from the cut on.
        tied: The tail's channels.
    """

    tail: set[str]
    tied: tuple[Tied, ...]


def slim(
    model: nn.Module,
    share: Fraction,
    at: str,
    example: Tensor | None = None,
    *,
    factory: Callable[[], nn.Module] | None = None,
    plan: Plan | None = None,
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
        plan: What :func:`plan_slimming` says of this model, where several are made of it; None to ask it.

    Raises:
        UserError: The model cannot be cut there, or a layer above the cut cannot be slimmed; names it.
    """
    if not 0 < share <= 1:
        raise UserError(f"a network keeps a share of its channels above 0 and up to 1, not {share}")
    example = example_images(model, example)
    plan = plan or plan_slimming(model, at, example)
    if plan is None:
        student: nn.Module = cast(Any, model).slimmed(share, at)
        tail = tail_paths(student, at)
    else:
        student, tail = untrained(model, "fresh", factory), plan.tail
        _prune(student, plan, share, at, example.to(next(student.parameters())))
    reference = next(model.parameters())
    student.to(reference.device, reference.dtype).train(model.training)
    _adopt(student, model, tail)
    return student


def plan_slimming(model: nn.Module, at: str, example: Tensor) -> Plan | None:
    """Which channels are cut, by torch-pruning's graph; None for a model that says itself how it is slimmed.

    Args:
        model: It is left as it was.
        at: The module with which the tail begins.
        example: Images of the shape that the model is for.

    Raises:
        UserError: The model cannot be cut there, or a layer above the cut cannot be slimmed; names it.
    """
    if callable(getattr(model, "slimmed", None)):
        return None
    tail = tail_paths(model, at)
    prefixes = tuple(f"{path}." for path in tail)
    paths: dict[int, str] = {id(layer): path for path, layer in model.named_modules()}
    paths |= {id(parameter): path for path, parameter in model.named_parameters()}
    tied = []
    try:
        with dependencies(model, example) as graph:
            # Of the whole network: what is cut already would have to be looked at anew for every group.
            for group in graph.get_all_groups(ignored_layers=_attention(model)):
                items = [item for item in group if id(item.dep.target.module) in paths]
                layers = {paths[id(item.dep.target.module)]: item.dep.target.module for item in items}
                in_tail = all(f"{path}.".startswith(prefixes) for path in layers)
                if in_tail and not any(is_output(item.dep.target) for item in group):
                    groups = lcm(*(_groups(path, layer) for path, layer in layers.items()))
                    sides = tuple(_side(paths[id(item.dep.target.module)], item) for item in items)
                    tied.append(Tied(len(group[0].idxs), groups, sides))
    except UserError:
        raise
    except Exception as error:
        raise _not_slimmed(model, at, error) from error
    return Plan(tail, tuple(tied))


def _side(path: str, item: Any) -> Side:
    places = tuple(zip(item.idxs, item.root_idxs, strict=True))
    return Side(path, item.dep.handler, item.dep.target.pruning_dim, places)


def _not_slimmed(model: nn.Module, at: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:120]
    return UserError(
        f"{type(model).__name__} cannot be slimmed from '{at}' on ({reason}); slim it from a later module on, or "
        "give it a method slimmed(share, at)"
    )


def tail_paths(network: nn.Module, at: str) -> set[str]:
    """Paths of the modules (whole ones) and tensors that run from ``at`` on, in training or in evaluation mode."""
    paths: set[str] = set()
    with preserve_state(network):
        for mode in (True, False):
            (tail,) = split_graph(trace(network.train(mode), around([at])), [at]).tails
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


def _prune(student: nn.Module, plan: Plan, share: Fraction, at: str, example: Tensor) -> None:
    """Cut the channel groups of a newly initialised network's tail, in place."""
    before = _fans_in(student)
    dead: dict[tuple[str, Callable[..., Any], int], list[int]] = {}
    for tied in plan.tied:
        surplus = tied.surplus(share)
        for side in tied.sides:
            places = [place for place, channel in side.places if channel in surplus]
            dead.setdefault((side.path, side.cut, side.dim), []).extend(places)
    try:
        for (path, cut_off, dim), places in dead.items():
            _cut(student, path, cut_off, dim, places)
        with preserve_state(student):
            student.train()(example)
    except Exception as error:  # whatever the library makes of an architecture that it does not know
        raise _not_slimmed(student, at, error) from error
    after = _fans_in(student)
    if share < 1 and before == after:
        raise UserError(f"no channels from '{at}' on can be cut in {type(student).__name__}; cut it at another module")
    with torch.no_grad():
        for path, fan in after.items():
            # A layer's outputs vary as those of the full one did: a share of its inputs, each weighted more.
            student.get_submodule(path).weight.mul_(sqrt(before[path] / fan))  # type: ignore[operator]


def _cut(network: nn.Module, path: str, cut_off: Any, dim: int, places: list[int]) -> None:
    """Cut places off a layer, or off a parameter, which is then another."""
    parent, _, name = path.rpartition(".")
    owner = network.get_submodule(parent)
    cut_off.__self__.pruning_dim = dim
    made = cut_off(getattr(owner, name), places)
    if isinstance(made, nn.Parameter):
        setattr(owner, name, made)


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
