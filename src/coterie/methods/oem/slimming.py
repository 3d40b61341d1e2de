"""The same network at a share of its width from a module on; below it, the very modules of the network itself.

A network may define itself how it is slimmed, by a method ``slim(share, at)`` (a
:class:`~coterie.networks.protocols.Slimmable`): the papers' CIFAR networks do, so that their students are
those of the paper to the last channel. Any other is slimmed structurally, by torch-pruning's graph of which channels
depend on which.

torch-pruning's own ``BasePruner`` was tried in place of what stands here. It leaves the same widths, except where a
group's share is less than one channel: it then leaves the group as wide as it was, where one channel is to be left (16
groups of 4 channels at a share of 1/5: 64 channels, and not 16). It takes networks and no plans, so that the groups,
the slow part, would be found once for every student: 10 s for each of DenseNet-121's, where a plan takes 3 s for all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import lcm, sqrt
from typing import Any

import torch
from torch import Tensor, nn

from coterie.errors import UserError, in_a_line
from coterie.networks.checkpointing import checkpoint_activations, checkpoints
from coterie.networks.preserve import preserve_state
from coterie.networks.protocols import Slimmable
from coterie.networks.prune.channel_groups import build_dependency_graph, is_output
from coterie.networks.reinit import reinitialise
from coterie.networks.shapes import example_images
from coterie.networks.split.graph import split_graph
from coterie.networks.split.tracing import find_parents, trace


@dataclass(frozen=True)
class Side:
    """The inputs or the outputs of a layer, or a dimension of a parameter: where channels lie.

    Attributes:
        path: Of its module, or of a parameter that no layer of the library's holds.
        remove: torch-pruning's function that removes inputs or outputs: (layer or parameter, places).
        dim: The dimension that it removes them from.
        places: Pairs of a place and the channel that lies there.
    """

    path: str
    remove: Callable[..., Any]
    dim: int
    places: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class TiedChannels:
    """Channels that can only be removed together, and every side on which they lie.

    Attributes:
        channels: How many there are.
        groups: Into how many groups of one size they fall, which are narrowed alike.
        sides: Where they lie.
    """

    channels: int
    groups: int
    sides: tuple[Side, ...]

    def find_surplus(self, share: Fraction) -> set[int]:
        """Which of the channels go: the last of each of the groups that its layers compute apart."""
        size = self.channels // self.groups
        kept = max(1, int(size * share))
        return {number * size + index for number in range(self.groups) for index in range(kept, size)}


@dataclass(frozen=True)
class SlimmingPlan:
    """What of a network is slimmed, whatever the share; it holds paths and numbers, no modules.

    Attributes:
        tail: Paths of the modules (whole ones) and tensors that run from the split on.
        tied: The tail's channels.
    """

    tail: set[str]
    tied: tuple[TiedChannels, ...]


def slim_network(
    model: nn.Module,
    share: Fraction,
    at: str,
    example: Tensor | None = None,
    *,
    factory: Callable[[], nn.Module] | None = None,
    plan: SlimmingPlan | None = None,
) -> nn.Module:
    """A whole network whose trunk is ``model``'s own modules and whose tail is new, at a share of the channels.

    Of every c channels that depend on each other int(c share) are left, at least 1. (Walawalkar, Shen,
    Savvides, ECCV 2020, section 3.1.) Grouped convolutions and group norms keep their groups, each narrower. At full
    width stay: what the trunk also writes into (a residual stream that crosses the split), and what attention computes,
    since its heads are no share of channels.

    Args:
        model: A classifier: images (B, channels, H, W) to logits (B, C). It is left as it was.
        share: The share of the channels, in (0, 1].
        at: The module with which the tail begins.
        example: Images of the shape that the model is for, as for :func:`~coterie.networks.branch.branch`.
        factory: Makes a newly initialised model; None re-initialises a copy layer by layer.
        plan: Of :func:`plan_slimming`, where several networks are made of this model; None to make it here.

    Raises:
        UserError: The model cannot be split there, or a layer above the split cannot be slimmed; names it.
    """
    if not 0 < share <= 1:
        raise UserError(f"a network keeps a share of its channels above 0 and up to 1, not {share}")
    example = example_images(model, example)
    if isinstance(model, Slimmable):
        student = model.slim(share, at)
        if checkpoints(model):
            checkpoint_activations(student)
        tail = find_tail(student, at)
    else:
        plan = plan or plan_slimming(model, at, example)
        assert plan is not None
        student, tail = reinitialise(model, "fresh", factory), plan.tail
        _narrow_tail(student, plan, share, at, example.to(next(student.parameters())))
    reference = next(model.parameters())
    student.to(reference.device, reference.dtype).train(model.training)
    _share_trunk(student, model, tail)
    return student


def plan_slimming(model: nn.Module, at: str, example: Tensor) -> SlimmingPlan | None:
    """Which channels go, by torch-pruning's graph; None for a model that defines itself how it is slimmed.

    Args:
        model: It is left as it was.
        at: The module with which the tail begins.
        example: Images of the shape that the model is for.

    Raises:
        UserError: The model cannot be split there, or a layer above the split cannot be slimmed; names it.
    """
    if isinstance(model, Slimmable):
        return None
    tail = find_tail(model, at)
    prefixes = tuple(f"{path}." for path in tail)
    paths: dict[int, str] = {id(layer): path for path, layer in model.named_modules()}
    paths |= {id(parameter): path for path, parameter in model.named_parameters()}
    tied = []
    graph = build_dependency_graph(model, example)
    try:
        # All groups are found before anything is removed: afterwards the library would look at every group anew.
        for group in graph.get_all_groups(ignored_layers=_find_attention(model)):
            # Its graph also has nodes for operations (flattening, concatenation), which hold no channels.
            items = [item for item in group if id(item.dep.target.module) in paths]
            layers = {paths[id(item.dep.target.module)]: item.dep.target.module for item in items}
            in_tail = all(f"{path}.".startswith(prefixes) for path in layers)
            if in_tail and not any(is_output(item.dep.target) for item in group):
                # A convolution of 4 groups and a norm of 6 over the same channels: narrowed alike, both keep theirs.
                groups = lcm(*(_count_groups(path, layer) for path, layer in layers.items()))
                sides = tuple(_make_side(paths[id(item.dep.target.module)], item) for item in items)
                tied.append(TiedChannels(len(group[0].idxs), groups, sides))
    except UserError:
        raise
    except Exception as error:
        raise _refuse(model, at, error) from error
    return SlimmingPlan(tail, tuple(tied))


def _make_side(path: str, item: Any) -> Side:
    places = tuple(zip(item.idxs, item.root_idxs, strict=True))
    return Side(path, item.dep.handler, item.dep.target.pruning_dim, places)


def _refuse(model: nn.Module, at: str, error: Exception) -> UserError:
    return UserError(
        f"{type(model).__name__} cannot be slimmed from '{at}' on ({in_a_line(error)}); slim it from a later module "
        "on, or give it a method slim(share, at)"
    )


def find_tail(network: nn.Module, at: str) -> set[str]:
    """Paths of the modules (whole ones) and tensors that run from ``at`` on, in training or in evaluation mode."""
    paths: set[str] = set()
    with preserve_state(network):
        # Both: a layer may run in one mode alone, such as a drop path or an auxiliary classifier.
        for mode in (True, False):
            (tail,) = split_graph(trace(network.train(mode), find_parents([at])), [at]).tails
            paths.update(tail.modules, tail.tensors)
    return paths


def _share_trunk(student: nn.Module, model: nn.Module, tail: set[str], place: str = "") -> None:
    """Put the model's own modules, parameters and buffers into the student wherever no part of the tail lies.

    The same objects, not copies: the base learns once, from all students, and each student is a whole network.
    """
    for name, child in model.named_children():
        path = place + name
        if path in tail:
            continue
        if any(inside.startswith(f"{path}.") for inside in tail):
            _share_trunk(student.get_submodule(name), child, tail, f"{path}.")
        else:
            setattr(student, name, child)
    for name, parameter in model.named_parameters(recurse=False):
        if place + name not in tail:
            setattr(student, name, parameter)
    for name, buffer in model.named_buffers(recurse=False):
        if place + name not in tail:
            setattr(student, name, buffer)


def _narrow_tail(student: nn.Module, plan: SlimmingPlan, share: Fraction, at: str, example: Tensor) -> None:
    """Remove the surplus channels of a newly initialised network's tail, in place."""
    before = _count_inputs(student)
    dead: dict[tuple[str, Callable[..., Any], int], list[int]] = {}
    # A side may lie in several groups (what reads a concatenation): it is narrowed once, while the plan's places hold.
    for tied in plan.tied:
        surplus = tied.find_surplus(share)
        for side in tied.sides:
            places = [place for place, channel in side.places if channel in surplus]
            dead.setdefault((side.path, side.remove, side.dim), []).extend(places)
    try:
        for (path, remove, dim), places in dead.items():
            _narrow(student, path, remove, dim, places)
        with preserve_state(student):
            student.train()(example)  # a forward may depend on a width that no layer shows
    except Exception as error:  # whatever the library makes of an architecture that it does not know
        raise _refuse(student, at, error) from error
    after = _count_inputs(student)
    if share < 1 and before == after:
        raise UserError(
            f"no channels from '{at}' on can be removed in {type(student).__name__}; slim it from another module on"
        )
    with torch.no_grad():
        for path, fan in after.items():
            # A layer's outputs vary as those of the full one did: a share of its inputs, each weighted more.
            student.get_submodule(path).weight.mul_(sqrt(before[path] / fan))  # type: ignore[operator]


def _narrow(network: nn.Module, path: str, remove: Any, dim: int, places: list[int]) -> None:
    """Remove places of a layer, or of a parameter, which is then another object."""
    parent, _, name = path.rpartition(".")
    owner = network.get_submodule(parent)
    # The library has one object for all parameters, and reads the dimension off it rather than off an argument.
    remove.__self__.pruning_dim = dim
    narrowed = remove(getattr(owner, name), places)
    if isinstance(narrowed, nn.Parameter):
        setattr(owner, name, narrowed)


def _count_groups(path: str, layer: Any) -> int:
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


def _find_attention(network: nn.Module) -> list[nn.Module]:
    """Every layer of attention: all that is inside the innermost modules that have a number of heads."""
    with_heads = [module for module in network.modules() if hasattr(module, "num_heads")]
    innermost = [outer for outer in with_heads if not any(part in with_heads for part in list(outer.modules())[1:])]
    return [part for module in innermost for part in module.modules()]


def _count_inputs(network: nn.Module) -> dict[str, int]:
    """Inputs of each output of every convolution and linear layer, by path."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return {path: layer.weight[0].numel() for path, layer in network.named_modules() if isinstance(layer, kinds)}
