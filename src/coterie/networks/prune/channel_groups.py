"""Groups of channels that can only be removed together, and what each layer costs by the channels that are alive.

torch-pruning's dependency graph says which channels belong together: residual sums, concatenations, depthwise
convolutions and flattening tie them. A group is prunable where every one of its channels has a batch norm; all other
channels count at full width. For a layer L of A_in alive inputs and A_out alive outputs, the cost is that of MorphNet
(Gordon, Eban, Nachum et al., CVPR 2018; here after its released code):

    F_L = C_L A_in A_out                                                      a depthwise convolution: C_L A_out

C_L is 2 H_out W_out k_h k_w (FLOPs) or k_h k_w (parameters), by convolution group; a linear layer's are 2 and 1.
Shapes: N prunable channels, L layers.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from coterie.errors import UserError, in_a_line
from coterie.extras import need
from coterie.networks.observe.calls import record
from coterie.networks.preserve import preserve_state

Resource = Literal["flops", "params"]


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer.

    Attributes:
        path: Its module's.
        inputs: For each of its inputs the channel, of N; N where it is not prunable. int64 (inputs,).
        outputs: The same of its outputs.
        cost_per_pair: C_L of either resource.
        depthwise: Whether its cost is linear in its channels.
    """

    path: str
    inputs: Tensor
    outputs: Tensor
    cost_per_pair: dict[Resource, float]
    depthwise: bool


@dataclass(frozen=True)
class ChannelGroups:
    """A network's prunable channels and what its layers cost; it holds paths and numbers, no modules.

    Attributes:
        roots: For each group the path of a layer whose outputs are its channels, in order.
        sizes: The groups' channels; they add up to N.
        norms: For each batch norm its path, and for each of its channels the channel, of N; N where it is not prunable.
        layers: All convolutions and linear layers.
        extra: Parameters beside the layers' weights that go with each channel: norms' and biases. float64 (N,).
        fixed: Parameters that go with no channel.
    """

    roots: tuple[str, ...]
    sizes: tuple[int, ...]
    norms: tuple[tuple[str, Tensor], ...]
    layers: tuple[Layer, ...]
    extra: Tensor
    fixed: int

    @property
    def num_channels(self) -> int:
        """N."""
        return sum(self.sizes)

    @cached_property
    def group_of(self) -> Tensor:
        """The index of each channel's group, int64 (N,)."""
        return torch.repeat_interleave(torch.tensor(self.sizes))

    def cost(self, alive: Tensor, resource: Resource) -> int:
        """What the network costs that is pruned to these channels, to the last one.

        Args:
            alive: Which channels are left, bool (N,).
            resource: FLOPs of one image (of convolutions and linear layers), or all parameters.
        """
        left = pad_alive(alive)
        total = 0.0
        for layer in self.layers:
            inputs, outputs = int(left[layer.inputs].sum()), int(left[layer.outputs].sum())
            total += layer.cost_per_pair[resource] * outputs * (1 if layer.depthwise else inputs)
        return round(total) + (self.fixed + int(self.extra[alive.cpu()].sum()) if resource == "params" else 0)


def pad_alive(alive: Tensor) -> Tensor:
    """Alive channels (N,) on the CPU, and True at N, where layers and norms point for what is not prunable."""
    return torch.cat([alive.cpu(), torch.tensor([True])])


def find_channel_groups(network: nn.Module, example: Tensor) -> ChannelGroups:
    """Read off a network which of its channels belong together and what they cost.

    Args:
        network: A classifier: images (B, channels, H, W) to logits (B, C). It is left as it was.
        example: Images of the shape that it is for.

    Raises:
        UserError: The dependencies cannot be traced, or no channels with batch norm are prunable.
    """
    paths = {module: path for path, module in network.named_modules()}
    positions = _count_positions(network, example)
    graph = build_dependency_graph(network, example)
    groups = [group for group in graph.get_all_groups() if _is_prunable(group)]
    sizes = [len(group[0].idxs) for group in groups]
    if not groups:
        raise UserError(
            f"{type(network).__name__} has no channels with batch norm that could be pruned; use a network with batch "
            "norms, for example resnet20, torchvision/vgg11_bn or torchvision/mobilenet_v2"
        )
    count = sum(sizes)
    norms: dict[nn.Module, Tensor] = {}
    inputs = {module: torch.full((_fan(module, 1),), count) for module in positions}
    outputs = {module: torch.full((_fan(module, 0),), count) for module in positions}
    extra = torch.zeros(count, dtype=torch.float64)
    start = 0
    for group, size in zip(groups, sizes, strict=True):
        for item in group:
            module, handler = item.dep.target.module, item.dep.handler
            # A flattened channel lies at several inputs of a linear layer: `idxs` are places in this layer,
            # `root_idxs` the channels of the group that lie there.
            places, channels = torch.tensor(item.idxs), start + torch.tensor(item.root_idxs)
            if isinstance(module, nn.BatchNorm2d):
                norms.setdefault(module, torch.full((module.num_features,), count))[places] = channels
                extra[channels] += 2
            if module in inputs and graph.is_in_channel_pruning_fn(handler):
                inputs[module][places] = channels
            if module in outputs and graph.is_out_channel_pruning_fn(handler):
                outputs[module][places] = channels
                extra[channels] += 0 if module.bias is None else 1
        start += size
    layers = tuple(
        Layer(paths[module], inputs[module], outputs[module], _cost_per_pair(module, times), _is_depthwise(module))
        for module, times in positions.items()
    )
    weights = sum(module.weight.numel() for module in positions)
    fixed = sum(p.numel() for p in network.parameters()) - weights - int(extra.sum())
    roots = tuple(paths[group[0].dep.target.module] for group in groups)
    return ChannelGroups(
        roots, tuple(sizes), tuple((paths[norm], channels) for norm, channels in norms.items()), layers, extra, fixed
    )


def find_blocks(groups: ChannelGroups) -> tuple[str, ...]:
    """A network's blocks by their modules' paths: the outermost with layers and at most three quarters of the FLOPs."""
    full = torch.ones(groups.num_channels, dtype=torch.bool)
    most = 0.75 * groups.cost(full, "flops")
    flops = {
        layer.path: layer.cost_per_pair["flops"] * len(layer.outputs) * (1 if layer.depthwise else len(layer.inputs))
        for layer in groups.layers
    }

    def open_module(prefix: str, paths: list[str]) -> list[str]:
        blocks = []
        for name in dict.fromkeys(prefix + path.removeprefix(prefix).split(".")[0] for path in paths):
            inside = [path for path in paths if path == name or path.startswith(f"{name}.")]
            whole = sum(flops[path] for path in inside) <= most or inside == [name]
            blocks += [name] if whole else open_module(f"{name}.", inside)
        return blocks

    return tuple(open_module("", list(flops)))


def build_dependency_graph(network: nn.Module, example: Tensor) -> Any:
    """torch-pruning's dependency graph of a network, which is left as it was.

    Args:
        network: A classifier: images (B, channels, H, W) to logits (B, C).
        example: Images of the shape that it is for.

    Returns:
        A ``torch_pruning.DependencyGraph`` over the network's own modules: what it prunes is this network.

    Raises:
        UserError: torch-pruning is not installed, or cannot follow the network's forward.
    """
    torch_pruning = need("torch_pruning", "prune")
    frozen = [parameter for parameter in network.parameters() if not parameter.requires_grad]
    try:
        with preserve_state(network), torch.inference_mode(False), torch.enable_grad():
            network._compiled_call_impl = None  # a compiled forward is one step to the library
            for parameter in frozen:
                parameter.requires_grad_(True)  # the library reads the dependencies off the gradient's graph
            return torch_pruning.DependencyGraph().build_dependency(
                network,
                example.detach().to(next(network.parameters())).clone(),
                # The library knows outputs by what follows a layer: with an operation after the classifier its classes
                # are an output's, and `is_output` can tell the groups that nothing may be removed from.
                output_transform=lambda logits: logits + 0,
                verbose=False,
            )
    except Exception as error:  # whatever the library makes of an architecture that it does not know
        raise UserError(
            f"which channels of {type(network).__name__} depend on which cannot be traced ({in_a_line(error)}); use "
            "another network"
        ) from error
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def is_output(target: Any) -> bool:
    """Whether a node of the dependency graph is the network's answer, which keeps its classes."""
    return bool(target.type == need("torch_pruning.ops", "prune").OPTYPE.OUTPUT)


def _is_prunable(group: Any) -> bool:
    """Whether every channel of a group has a batch norm, and none is an answer or of a grouped convolution."""
    normalised: set[int] = set()
    for item in group:
        module = item.dep.target.module
        if is_output(item.dep.target) or isinstance(module, (nn.GroupNorm, nn.LayerNorm)):
            return False
        if isinstance(module, nn.Conv2d) and module.groups > 1 and not _is_depthwise(module):
            return False
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            normalised.update(item.root_idxs)
    return len(normalised) == len(group[0].idxs)


def _count_positions(network: nn.Module, example: Tensor) -> dict[Any, int]:
    """Every convolution and linear layer that runs, in order, and at how many places of one image it is computed."""
    positions: dict[Any, int] = {}
    for call in record(network, example):
        if isinstance(call.module, (nn.Conv2d, nn.Linear)):
            times = call.output[0].numel() // call.module.weight.shape[0]
            positions[call.module] = positions.get(call.module, 0) + times
    return positions


def _cost_per_pair(module: Any, positions: int) -> dict[Resource, float]:
    size = module.weight[0, 0].numel() / (1 if _is_depthwise(module) else getattr(module, "groups", 1))
    return {"flops": 2 * positions * size, "params": size}


def _is_depthwise(module: Any) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels == module.out_channels > 1


def _fan(module: Any, side: int) -> int:
    if isinstance(module, nn.Linear):
        return (module.out_features, module.in_features)[side]
    return (module.out_channels, module.in_channels)[side]
