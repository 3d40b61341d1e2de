"""Cutting channels out of a network: which ones for a budget, and the cut. Shapes: N channels that can be cut."""

from collections.abc import Mapping, Sequence
from math import ceil, sqrt

import torch
from torch import Tensor, nn

from coterie.errors import UserError
from coterie.networks.preserve import preserve_state
from coterie.networks.prune.channels import Structure, Target, dependencies

# A budget of which so much is used is met; and used so little, it is not: one bundle may cost more than what is left.
_ENOUGH, _NEARLY = 0.995, 0.98


def within_budget(
    values: Tensor, structure: Structure, target: Target, share: float, least: float = 0.0, multiple: int = 1
) -> Tensor:
    """The channels of the largest values that cost at most a share of the full network, bool (N,).

    Channels come in bundles of ``multiple``, in the order of their values in each tied group, a bundle being worth the
    mean of its own. A bisection finds the threshold above which all bundles fit; then those below it follow, in order,
    that still fit. Where that leaves more than 2 % of the budget unused, single channels follow.

    Args:
        values: Of the channels (N,).
        structure: Theirs.
        target: What is counted.
        share: The budget, of the full network's cost, in (0, 1].
        least: The share of each group's channels that is kept whatever their values, and never less than a bundle.
        multiple: Channels in a bundle; the last of a group may have fewer.

    Raises:
        UserError: The budget is too small for that.
    """
    limit = share * structure.count(torch.ones(structure.channels, dtype=torch.bool), target)
    bundles, kept = _bundles(values.detach().cpu().double(), structure, least, multiple)
    alive = _joined(bundles[:kept], structure)
    smallest = structure.count(alive, target)
    if smallest > limit:
        raise UserError(
            f"⟨method.{target} {share:g}⟩: cut as far as it goes the network keeps {smallest * share / limit:.3g} of "
            f"its {_NAMES[target]}; use that or more, or less of ⟨method.least⟩ (now {least:g}) and ⟨method.multiple⟩ "
            f"(now {multiple})"
        )
    low, high = kept, len(bundles)  # so many fit; so many may not
    while low < high:
        middle = (low + high + 1) // 2
        fits = structure.count(_joined(bundles[:middle], structure), target) <= limit
        low, high = (middle, high) if fits else (low, middle - 1)
    alive = _joined(bundles[:low], structure)
    _fill(alive, bundles[low:], structure, target, limit)
    if structure.count(alive, target) < _NEARLY * limit:
        _fill(alive, [each for bundle in bundles[low:] for each in torch.split(bundle, 1)], structure, target, limit)
    return alive


_NAMES: dict[Target, str] = {"flops": "FLOPs", "params": "parameters"}


@torch.no_grad()
def silence(network: nn.Module, structure: Structure, alive: Tensor, shifts: bool = True) -> None:
    """Set γ = 0, and β = 0, wherever a dead channel is normalised: what a cut then leaves out is nothing.

    Args:
        network: Changed in place.
        structure: Its.
        alive: bool (N,).
        shifts: False leaves β, so that dead channels say the constant act(β).
    """
    left = torch.cat([alive.cpu(), torch.tensor([True])])
    for path, owner in structure.norms:
        norm = network.get_submodule(path)
        dead = ~left[owner]
        for name in ("weight", "bias") if shifts else ("weight",):
            tensor = getattr(norm, name)
            tensor.masked_fill_(dead.to(tensor.device), 0)


def cut(network: nn.Module, structure: Structure, alive: Tensor, example: Tensor, *, fold: bool = False) -> None:
    """Cut a network to its alive channels, in place, by the dependency graph.

    Args:
        network: Changed in place; its parameters are new objects afterwards.
        structure: Its.
        alive: bool (N,), one or more of each group.
        example: Images of the shape that it is for.
        fold: Whether what dead channels say when γ = 0, the constants act(β), goes into the biases of the layers that
            read them: of linear layers and unpadded convolutions with a bias, where it is exact. Convolutions before a
            batch norm need none: re-estimated statistics take constants up, but for what zero padding does at borders.

    Raises:
        UserError: What is left is not what was to be left: a layer depends on its width in a way that is not known.
    """
    if fold:
        _fold(network, structure, alive, example)
    dead = [(~part).nonzero().flatten().tolist() for part in torch.split(alive.cpu(), list(structure.sizes))]
    expected = structure.count(alive, "params")
    with dependencies(network, example) as graph:
        for root, indices in zip(structure.roots, dead, strict=True):
            layer = network.get_submodule(root)
            if indices:
                prune = graph.get_pruner_of_module(layer).prune_out_channels
                graph.get_pruning_group(layer, prune, indices).prune()
    count = sum(parameter.numel() for parameter in network.parameters())
    try:
        with preserve_state(network):
            network.eval()(example.to(next(network.parameters())))
    except RuntimeError as error:
        raise _not_cut(network, " ".join(str(error).split())[:120]) from error
    if count != expected:
        raise _not_cut(network, f"{count} parameters are left, and not {expected}")


@torch.no_grad()
def rescale(network: nn.Module, structure: Structure, alive: Tensor) -> None:
    """Make the weights of a newly initialised network that was cut as wide as its layers' fewer inputs ask for.

    Args:
        network: Cut to ``alive``; changed in place.
        structure: Of the full network.
        alive: bool (N,).
    """
    left = torch.cat([alive.cpu(), torch.tensor([True])])
    for layer in structure.layers:
        if not layer.depthwise:
            weight = network.get_submodule(layer.path).weight
            assert isinstance(weight, Tensor)
            weight.mul_(sqrt(len(layer.reads) / int(left[layer.reads].sum())))


def ranked(values: Tensor, structure: Structure, shares: Tensor) -> Tensor:
    """Values that keep each group's order and leave every group its share of whatever is cut.

    A threshold t leaves group g the share 1 - t / shares_g of its channels.

    Args:
        values: (N,).
        structure: Whose channels they are.
        shares: Of the groups; all 1 scales every width alike.
    """
    found = []
    for part, share in zip(torch.split(values.detach().cpu(), list(structure.sizes)), shares.tolist(), strict=True):
        place = (-part).argsort(stable=True).argsort()
        found.append(share * (1 - place / len(part)))
    return torch.cat(found)


def resize(network: nn.Module, shapes: Mapping[str, torch.Size]) -> None:
    """Give convolutions, linear layers and batch norms the shapes that a cut network's tensors have.

    What the narrower layers hold is undefined: weights are to be loaded.

    Args:
        network: The full network, changed in place.
        shapes: By the names of its state dict.
    """
    for path, module in network.named_modules():
        shape = shapes.get(f"{path}.weight")
        if shape is None or not isinstance(module, (nn.Conv2d, nn.Linear, nn.BatchNorm2d)):
            continue
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


def _bundles(values: Tensor, structure: Structure, least: float, multiple: int) -> tuple[list[Tensor], int]:
    """Bundles of channels, best first, and how many of them at the beginning are kept in any case."""
    bundles, worth, start = [], [], 0
    for part in torch.split(values, list(structure.sizes)):
        order = (-part).argsort(stable=True)
        needed = max(1, ceil(least * len(part)))
        for place in range(0, len(part), multiple):
            inside = order[place : place + multiple]
            bundles.append(start + inside)
            worth.append(torch.inf if place < needed else part[inside].mean().item())
        start += len(part)
    order = (-torch.tensor(worth)).argsort(stable=True)
    return [bundles[index] for index in order.tolist()], sum(value == torch.inf for value in worth)


def _joined(bundles: Sequence[Tensor], structure: Structure) -> Tensor:
    alive = torch.zeros(structure.channels, dtype=torch.bool)
    alive[torch.cat(list(bundles))] = True
    return alive


def _fill(alive: Tensor, bundles: Sequence[Tensor], structure: Structure, target: Target, limit: float) -> None:
    """Make alive, in order, what fits under the limit; nothing of a group after what did not fit of it."""
    full: set[int] = set()
    for bundle in bundles:
        group = int(structure.group[bundle[0]])
        if group in full or alive[bundle].all():
            continue
        if structure.count(alive, target) >= _ENOUGH * limit:
            return
        alive[bundle] = True
        if structure.count(alive, target) > limit:
            alive[bundle] = False
            full.add(group)


@torch.no_grad()
def _fold(network: nn.Module, structure: Structure, alive: Tensor, example: Tensor) -> None:
    silence(network, structure, alive, shifts=False)
    left = torch.cat([alive.cpu(), torch.tensor([True])])
    readers = {}
    for layer in structure.layers:
        module = network.get_submodule(layer.path)
        if module.bias is not None and not layer.depthwise and _unpadded(module):
            readers[module] = ~left[layer.reads]
    heard: dict[nn.Module, Tensor] = {}
    handles = [module.register_forward_pre_hook(lambda m, x: heard.__setitem__(m, x[0])) for module in readers]
    try:
        with preserve_state(network):
            reference = next(network.parameters())
            noise = torch.randn((2, *example.shape[1:]), generator=torch.Generator().manual_seed(0))
            network.eval()(noise.to(reference))
    finally:
        for handle in handles:
            handle.remove()
    for module, dead in readers.items():
        if module in heard:
            _add_constants(module, dead.to(heard[module].device), heard[module])


def _add_constants(module: nn.Module, dead: Tensor, inputs: Tensor) -> None:
    """Add to a layer's bias what its dead inputs contribute, those that are the same for all images and places."""
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor)
    assert isinstance(bias, Tensor)
    if isinstance(module, nn.Conv2d):
        inputs = inputs.movedim(1, -1)
    said = inputs.reshape(-1, inputs.shape[-1])
    low, high = said.amin(0), said.amax(0)
    constant = dead & (high - low <= 1e-5 * high.abs().clamp(min=1e-3))
    sums = weight.reshape(*weight.shape[:2], -1).sum(2)
    bias += sums[:, constant] @ said.mean(0)[constant]


def _unpadded(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (
        isinstance(module, nn.Conv2d) and module.groups == 1 and not any(_padding(module))
    )


def _padding(module: nn.Conv2d) -> tuple[int, ...]:
    return (1,) if isinstance(module.padding, str) else tuple(module.padding)


def _not_cut(network: nn.Module, reason: str) -> UserError:
    return UserError(
        f"{type(network).__name__} cannot be cut: it depends on its widths ({reason}); use another network"
    )
