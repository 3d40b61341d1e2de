"""Pruning a network to a budget: which channels are kept, and the removal of the others.

Shapes: N prunable channels.
"""

from collections.abc import Mapping, Sequence
from math import ceil, sqrt

import torch
from torch import Tensor, nn

from coterie.errors import UserError, in_a_line
from coterie.networks.observe.calls import record
from coterie.networks.preserve import preserve_state
from coterie.networks.prune.channel_groups import ChannelGroups, Resource, build_dependency_graph, pad_alive

# A budget of which so much is used is met; and used so little, it is not: one bundle may cost more than what is left.
_ENOUGH, _NEARLY = 0.995, 0.98
_NAMES: dict[Resource, str] = {"flops": "FLOPs", "params": "parameters"}


def select_within_budget(
    values: Tensor, groups: ChannelGroups, resource: Resource, share: float, least: float = 0.0, multiple: int = 1
) -> Tensor:
    """The channels of the largest values that cost at most a share of the full network, bool (N,).

    Channels come in bundles of ``multiple``, in the order of their values in each group, a bundle being worth the mean
    of its own. A bisection finds the threshold above which all bundles fit; then those below it follow, in order, that
    still fit. Where that leaves more than 2 % of the budget unused, single channels follow. (torch-pruning's own loop
    over a global threshold was tried: it misses the budget by 3 %.)

    Args:
        values: Of the channels (N,).
        groups: Theirs.
        resource: What the budget is of.
        share: The budget, of the full network's cost, in (0, 1].
        least: The share of each group's channels that is kept whatever their values, and never less than a bundle.
        multiple: Channels in a bundle; the last of a group may have fewer.

    Raises:
        UserError: The budget is too small for that.
    """
    limit = share * groups.cost(torch.ones(groups.num_channels, dtype=torch.bool), resource)
    bundles, kept = _make_bundles(values.detach().cpu().double(), groups, least, multiple)
    alive = _mark_alive(bundles[:kept], groups)
    smallest = groups.cost(alive, resource)
    if smallest > limit:
        raise UserError(
            f"⟨method.{resource} {share:g}⟩: pruned as far as it goes the network keeps {smallest * share / limit:.3g} "
            f"of its {_NAMES[resource]}; use that or more, or less of ⟨method.least⟩ (now {least:g}) and "
            f"⟨method.multiple⟩ (now {multiple})"
        )
    low, high = kept, len(bundles)  # so many fit; so many may not
    while low < high:
        middle = (low + high + 1) // 2
        fits = groups.cost(_mark_alive(bundles[:middle], groups), resource) <= limit
        low, high = (middle, high) if fits else (low, middle - 1)
    alive = _mark_alive(bundles[:low], groups)
    _fill(alive, bundles[low:], groups, resource, limit)
    if groups.cost(alive, resource) < _NEARLY * limit:
        singles = [channel for bundle in bundles[low:] for channel in torch.split(bundle, 1)]
        _fill(alive, singles, groups, resource, limit)
    return alive


def prune_channels(
    network: nn.Module, groups: ChannelGroups, alive: Tensor, example: Tensor, *, fold: bool = False
) -> None:
    """Remove a network's dead channels, in place, by the dependency graph.

    Args:
        network: Changed in place; its parameters are new objects afterwards.
        groups: Its.
        alive: bool (N,), one or more of each group.
        example: Images of the shape that it is for.
        fold: Whether the constants act(β) that dead channels give when γ = 0 go into the biases of the layers that
            read them: of linear layers and unpadded convolutions with a bias, where it is exact. Convolutions before a
            batch norm need none: re-estimated statistics take constants up, but for what zero padding does at borders.

    Raises:
        UserError: What is left is not what was to be left: a layer depends on its width in a way that is not known.
    """
    if fold:
        _fold_constants(network, groups, alive, example)
    dead = [(~part).nonzero().flatten().tolist() for part in torch.split(alive.cpu(), list(groups.sizes))]
    expected = groups.cost(alive, "params")
    graph = build_dependency_graph(network, example)
    for root, indices in zip(groups.roots, dead, strict=True):
        layer = network.get_submodule(root)
        if indices:
            # Asked for anew: what was removed before has shifted the places at which this group's channels lie.
            prune = graph.get_pruner_of_module(layer).prune_out_channels
            graph.get_pruning_group(layer, prune, indices).prune()
    # The graph knows layers, not code: a forward that reshapes to a fixed width, or a parameter that it overlooked,
    # shows only now.
    count = sum(parameter.numel() for parameter in network.parameters())
    try:
        with preserve_state(network):
            network.eval()(example.to(next(network.parameters())))
    except RuntimeError as error:
        raise _refuse(network, in_a_line(error)) from error
    if count != expected:
        raise _refuse(network, f"{count} parameters are left, and not {expected}")


@torch.no_grad()
def rescale_weights(network: nn.Module, groups: ChannelGroups, alive: Tensor) -> None:
    """Make the weights of a newly initialised network that was pruned as wide as its layers' fewer inputs ask for.

    Args:
        network: Pruned to ``alive``; changed in place.
        groups: Of the full network.
        alive: bool (N,).
    """
    left = pad_alive(alive)
    for layer in groups.layers:
        if not layer.depthwise:
            weight = network.get_submodule(layer.path).weight
            assert isinstance(weight, Tensor)
            weight.mul_(sqrt(len(layer.inputs) / int(left[layer.inputs].sum())))


def rank_channels(values: Tensor, groups: ChannelGroups, shares: Tensor) -> Tensor:
    """Values (N,) that keep each group's order and leave every group its share of whatever is pruned.

    A threshold t leaves group g the share 1 - t / shares_g of its channels.

    Args:
        values: (N,).
        groups: Whose channels they are.
        shares: Of the groups; all 1 scales every width alike.
    """
    ranks = []
    for part, share in zip(torch.split(values.detach().cpu(), list(groups.sizes)), shares.tolist(), strict=True):
        place = (-part).argsort(stable=True).argsort()
        ranks.append(share * (1 - place / len(part)))
    return torch.cat(ranks)


def resize_layers(network: nn.Module, shapes: Mapping[str, torch.Size]) -> None:
    """Give convolutions, linear layers and batch norms the shapes that a pruned network's tensors have.

    What the narrower layers hold is undefined: weights are to be loaded.

    Args:
        network: The full network, changed in place.
        shapes: By the names of its state dict.
    """
    for path, module in network.named_modules():
        shape = shapes.get(f"{path}.weight")
        if shape is None or not isinstance(module, (nn.Conv2d, nn.Linear, nn.BatchNorm2d)):
            continue
        # The layers' own numbers change with their tensors: a forward, an exporter and a FLOP counter read both.
        if isinstance(module, nn.Conv2d) and len(shape) == 4:
            if module.groups == module.in_channels == module.out_channels > 1:
                module.groups = shape[0]
            module.out_channels, module.in_channels = shape[0], shape[1] * module.groups
        elif isinstance(module, nn.Linear) and len(shape) == 2:
            module.out_features, module.in_features = shape
        elif isinstance(module, nn.BatchNorm2d):
            module.num_features = shape[0]
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            wanted = shapes.get(f"{path}.{name}")
            if wanted is not None and wanted != tensor.shape:
                empty = torch.empty(wanted, dtype=tensor.dtype, device=tensor.device)
                setattr(module, name, nn.Parameter(empty) if isinstance(tensor, nn.Parameter) else empty)


def _make_bundles(values: Tensor, groups: ChannelGroups, least: float, multiple: int) -> tuple[list[Tensor], int]:
    """Bundles of channels, best first, and how many of them at the beginning are kept in any case."""
    bundles, worth, start = [], [], 0
    for part in torch.split(values, list(groups.sizes)):
        order = (-part).argsort(stable=True)
        needed = max(1, ceil(least * len(part)))
        for place in range(0, len(part), multiple):
            inside = order[place : place + multiple]
            bundles.append(start + inside)
            worth.append(torch.inf if place < needed else part[inside].mean().item())
        start += len(part)
    order = (-torch.tensor(worth)).argsort(stable=True)
    return [bundles[index] for index in order.tolist()], sum(value == torch.inf for value in worth)


def _mark_alive(bundles: Sequence[Tensor], groups: ChannelGroups) -> Tensor:
    alive = torch.zeros(groups.num_channels, dtype=torch.bool)
    alive[torch.cat(list(bundles))] = True
    return alive


def _fill(alive: Tensor, bundles: Sequence[Tensor], groups: ChannelGroups, resource: Resource, limit: float) -> None:
    """Make alive, in order, what fits under the limit; nothing of a group after what did not fit of it."""
    full: set[int] = set()
    for bundle in bundles:
        group = int(groups.group_of[bundle[0]])
        if group in full or alive[bundle].all():
            continue
        if groups.cost(alive, resource) >= _ENOUGH * limit:
            return
        alive[bundle] = True
        if groups.cost(alive, resource) > limit:
            alive[bundle] = False
            full.add(group)


@torch.no_grad()
def _fold_constants(network: nn.Module, groups: ChannelGroups, alive: Tensor, example: Tensor) -> None:
    """Add what dead channels give at γ = 0 to the biases of the layers that read them.

    It is not computed but observed, in one forward of noise: between a batch norm and its reader may lie activations,
    pooling and flattening, and whatever those are, a channel that gives the same for all images and places is one.
    """
    left = pad_alive(alive)
    for path, channels in groups.norms:
        scale = network.get_submodule(path).weight
        assert isinstance(scale, Tensor)
        scale.masked_fill_(~left[channels].to(scale.device), 0)
    readers = {}
    for layer in groups.layers:
        module = network.get_submodule(layer.path)
        if module.bias is not None and not layer.depthwise and _is_unpadded(module):
            readers[module] = ~left[layer.inputs]
    noise = torch.randn((2, *example.shape[1:]), generator=torch.Generator().manual_seed(0))
    given = {call.module: call.input for call in record(network, noise) if call.module in readers}
    for module, inputs in given.items():
        _add_constants(module, readers[module].to(inputs.device), inputs)


def _add_constants(module: nn.Module, dead: Tensor, inputs: Tensor) -> None:
    """Add to a layer's bias what its dead inputs contribute, those that are the same for all images and places."""
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor)
    assert isinstance(bias, Tensor)
    if isinstance(module, nn.Conv2d):
        inputs = inputs.movedim(1, -1)
    rows = inputs.reshape(-1, inputs.shape[-1])
    low, high = rows.amin(0), rows.amax(0)
    constant = dead & (high - low <= 1e-5 * high.abs().clamp(min=1e-3))
    sums = weight.reshape(*weight.shape[:2], -1).sum(2)
    bias += sums[:, constant] @ rows.mean(0)[constant]


def _is_unpadded(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (
        isinstance(module, nn.Conv2d) and module.groups == 1 and module.padding == (0, 0)
    )


def _refuse(network: nn.Module, reason: str) -> UserError:
    return UserError(
        f"{type(network).__name__} cannot be pruned: it depends on its widths ({reason}); use another network"
    )
