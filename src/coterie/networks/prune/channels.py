"""Which channels of a network stand or fall together, and what each layer costs by the channels that are alive.

torch-pruning's dependency graph says which channels are tied: by residual sums, concatenations, depthwise convolutions
and flattening. A tied group that has a batch norm on every channel can be cut; all other channels count at full width.
For a layer L of A_in alive inputs and A_out alive outputs, the cost is that of MorphNet (Gordon, Eban, Nachum et al.,
CVPR 2018; here after its released code):

    F_L = C_L A_in A_out                                                      a depthwise convolution: C_L A_out

C_L is 2 H_out W_out k_h k_w (FLOPs) or k_h k_w (parameters), by convolution group; a linear layer's are 2 and 1.
Shapes: N channels that can be cut, L layers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from coterie.errors import UserError
from coterie.networks.preserve import preserve_state

Target = Literal["flops", "params"]


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer.

    Attributes:
        path: Its module's.
        reads: For each of its inputs the channel, of N; N where it can not be cut. int64 (inputs,).
        writes: The same of its outputs.
        pairs: C_L of either target.
        depthwise: Whether its cost is linear in its channels.
    """

    path: str
    reads: Tensor
    writes: Tensor
    pairs: dict[Target, float]
    depthwise: bool


@dataclass(frozen=True)
class Structure:
    """A network's channels and costs; it holds paths and numbers, no modules.

    Attributes:
        roots: For each tied group the path of a layer whose outputs are its channels, in order.
        sizes: The groups' channels; they add up to N.
        norms: For each batch norm its path, and for each of its channels the channel, of N; N where it can not be cut.
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
    def channels(self) -> int:
        """N."""
        return sum(self.sizes)

    @cached_property
    def group(self) -> Tensor:
        """Which tied group each channel is of, int64 (N,)."""
        return torch.repeat_interleave(torch.tensor(self.sizes))

    def count(self, alive: Tensor, target: Target) -> int:
        """What the network costs that is cut to these channels, to the last one.

        Args:
            alive: Which channels are left, bool (N,).
            target: FLOPs of one image (of convolutions and linear layers), or all parameters.
        """
        left = torch.cat([alive.cpu(), torch.tensor([True])])
        total = 0.0
        for layer in self.layers:
            inputs, outputs = int(left[layer.reads].sum()), int(left[layer.writes].sum())
            total += layer.pairs[target] * outputs * (1 if layer.depthwise else inputs)
        return round(total) + (self.fixed + int(self.extra[alive.cpu()].sum()) if target == "params" else 0)


def find_structure(network: nn.Module, example: Tensor) -> Structure:
    """Read off a network which of its channels are tied and what they cost.

    Args:
        network: A classifier: images (B, channels, H, W) to logits (B, C). It is left as it was.
        example: Images of the shape that it is for.

    Raises:
        UserError: The dependencies cannot be traced, or no channels with batch norm can be cut.
    """
    paths = {module: path for path, module in network.named_modules()}
    positions = _positions(network, example)
    with dependencies(network, example) as graph:
        groups = [group for group in graph.get_all_groups() if _can_be_cut(group)]
        sizes = [len(group[0].idxs) for group in groups]
        if not groups:
            raise UserError(
                f"{type(network).__name__} has no channels with batch norm that could be cut; use a network with batch "
                "norms, for example resnet20, torchvision/vgg11_bn or torchvision/mobilenet_v2"
            )
        count = sum(sizes)
        norms: dict[nn.Module, Tensor] = {}
        reads = {module: torch.full((_fan(module, 1),), count) for module in positions}
        writes = {module: torch.full((_fan(module, 0),), count) for module in positions}
        extra = torch.zeros(count, dtype=torch.float64)
        start = 0
        for group, size in zip(groups, sizes, strict=True):
            for item in group:
                module, handler = item.dep.target.module, item.dep.handler
                places, owners = torch.tensor(item.idxs), start + torch.tensor(item.root_idxs)
                if isinstance(module, nn.BatchNorm2d):
                    norms.setdefault(module, torch.full((module.num_features,), count))[places] = owners
                    extra[owners] += 2
                if module in reads and graph.is_in_channel_pruning_fn(handler):
                    reads[module][places] = owners
                if module in writes and graph.is_out_channel_pruning_fn(handler):
                    writes[module][places] = owners
                    extra[owners] += 0 if module.bias is None else 1
            start += size
        layers = tuple(
            Layer(paths[module], reads[module], writes[module], _pairs(module, times), _depthwise(module))
            for module, times in positions.items()
        )
        weights = sum(module.weight.numel() for module in positions)
        fixed = sum(p.numel() for p in network.parameters()) - weights - int(extra.sum())
        roots = tuple(paths[group[0].dep.target.module] for group in groups)
        return Structure(
            roots, tuple(sizes), tuple((paths[norm], owner) for norm, owner in norms.items()), layers, extra, fixed
        )


def blocks_of(structure: Structure) -> tuple[str, ...]:
    """A network's blocks by their modules' paths: the outermost with layers and at most three quarters of the FLOPs."""
    full = torch.ones(structure.channels, dtype=torch.bool)
    most = 0.75 * structure.count(full, "flops")
    flops = {
        layer.path: layer.pairs["flops"] * len(layer.writes) * (1 if layer.depthwise else len(layer.reads))
        for layer in structure.layers
    }

    def opened(place: str, paths: list[str]) -> list[str]:
        found = []
        for name in dict.fromkeys(place + path.removeprefix(place).split(".")[0] for path in paths):
            inside = [path for path in paths if path == name or path.startswith(f"{name}.")]
            whole = sum(flops[path] for path in inside) <= most or inside == [name]
            found += [name] if whole else opened(f"{name}.", inside)
        return found

    return tuple(opened("", list(flops)))


@contextmanager
def dependencies(network: nn.Module, example: Tensor) -> Iterator[Any]:
    """torch-pruning's dependency graph of a network, within a block after which modes and buffers are as before.

    Raises:
        UserError: The library cannot follow the network's forward.
    """
    import torch_pruning  # seconds to import

    compiled, network._compiled_call_impl = network._compiled_call_impl, None  # a compiled forward is one step to it

    frozen = [parameter for parameter in network.parameters() if not parameter.requires_grad]
    modes = [(module, module.training) for module in network.modules()]
    reference = next(network.parameters())
    for parameter in frozen:
        parameter.requires_grad_(True)  # the dependencies are read off the gradient's graph
    try:
        with torch.inference_mode(False), torch.enable_grad():
            try:
                graph = torch_pruning.DependencyGraph().build_dependency(
                    # Something after the classifier makes its classes known as the output's, which no group may cut.
                    network,
                    example.detach().to(reference).clone(),
                    output_transform=lambda logits: logits + 0,
                    verbose=False,
                )
            except Exception as error:  # whatever the library makes of an architecture that it does not know
                reason = " ".join(str(error).split())[:120]
                raise UserError(
                    f"which channels of {type(network).__name__} depend on which cannot be traced ({reason}); use "
                    "another network"
                ) from error
            yield graph
    finally:
        network._compiled_call_impl = compiled
        for parameter in frozen:
            parameter.requires_grad_(False)
        for module, mode in modes:
            module.training = mode


def is_output(target: Any) -> bool:
    """Whether a node of the dependency graph is the network's answer, which keeps its classes."""
    from torch_pruning.ops import OPTYPE

    return target.type == OPTYPE.OUTPUT


def _can_be_cut(group: Any) -> bool:
    """Whether every channel of a tied group has a batch norm, and none is an answer or of a grouped convolution."""
    covered: set[int] = set()
    for item in group:
        module = item.dep.target.module
        if is_output(item.dep.target) or isinstance(module, (nn.GroupNorm, nn.LayerNorm)):
            return False
        if isinstance(module, nn.Conv2d) and module.groups > 1 and not _depthwise(module):
            return False
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            covered.update(item.root_idxs)
    return len(covered) == len(group[0].idxs)


def _positions(network: nn.Module, example: Tensor) -> dict[Any, int]:
    """Every convolution and linear layer that runs, in order, and at how many places of one image it is computed."""
    found: dict[Any, int] = {}

    def note(module: Any, inputs: Any, output: Tensor) -> None:
        found[module] = found.get(module, 0) + output[0].numel() // module.weight.shape[0]

    layers = [module for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    handles = [module.register_forward_hook(note) for module in layers]
    try:
        with preserve_state(network):
            network.eval()(example.detach().to(next(network.parameters())))
    finally:
        for handle in handles:
            handle.remove()
    return found


def _pairs(module: Any, positions: int) -> dict[Target, float]:
    size = module.weight[0, 0].numel() / (1 if _depthwise(module) else getattr(module, "groups", 1))
    return {"flops": 2 * positions * size, "params": size}


def _depthwise(module: Any) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels == module.out_channels > 1


def _fan(module: Any, side: int) -> int:
    if isinstance(module, nn.Linear):
        return (module.out_features, module.in_features)[side]
    return (module.out_channels, module.in_channels)[side]
