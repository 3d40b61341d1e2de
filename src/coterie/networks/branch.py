"""Any classifier as a native ensemble: a shared trunk, and its upper layers several times over."""

import copy
import warnings
from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from coterie.errors import UserError
from coterie.networks.aggregate import Gate, GateForm, gated
from coterie.networks.cuts import CutPoint, default_cut, list_cuts
from coterie.networks.graph import CutGraph, cut, trace, training_flags, undisturbed
from coterie.outputs import PeerOutput, at_least_float32

Init = Literal["fresh", "copy"]


class NativeEnsemble(nn.Module):
    """A model whose upper layers are grown into m branches; the model itself is branch 0.

    Maps images (B, channels, H, W) to a :class:`~coterie.outputs.PeerOutput` with logits (B, m, C), the gate's
    weights (B, m), the gated ensemble's logits (B, C) and the trunk's features. Made by :func:`branch`.

    Attributes:
        target: The user's own model. Training this module trains it; its state dict is a plain model's.
        branches: The m-1 auxiliary tails (whole networks where nothing is shared).
        gate: Weighs the branches by the trunk's features.
        at: The module with which the branched tail begins.
        share: Whether the branches share the trunk.
        in_place: Whether the tail overwrites what crosses the cut, so that each needs its own copy.
    """

    target: nn.Module
    gate: Gate

    def __init__(
        self, target: nn.Module, branches: list[nn.Module], gate: Gate, at: str, share: bool, in_place: bool
    ) -> None:
        super().__init__()
        self.target = target
        self.branches = nn.ModuleList(branches)
        self.gate = gate
        self.at = at
        self.share = share
        self.in_place = in_place
        self._cuts: dict[tuple[bool, ...], CutGraph] = {}

    def forward(self, images: Tensor) -> PeerOutput:
        """Images (B, channels, H, W) to what every branch and their gated ensemble say."""
        graph = self.cut_graph()
        crossing = graph.trunk(self.target, images)
        features = principal(crossing)
        weights = self.gate(features)
        logits = [graph.tail(self.target, self._own(crossing))]
        for peer in self.branches:
            logits.append(graph.tail(peer, self._own(crossing)) if self.share else peer(images))
        stacked = at_least_float32(torch.stack(logits, 1))
        return PeerOutput(stacked, trunk=features, weights=weights, ensemble=gated(stacked, weights))

    def _own(self, crossing: tuple[Any, ...]) -> tuple[Any, ...]:
        """A tail's own copy of what crosses the cut, where tails begin with an operation in place."""
        if not self.in_place:
            return crossing
        return tuple(value.clone() if isinstance(value, Tensor) else value for value in crossing)

    def cut_graph(self) -> CutGraph:
        """The target's forward in two halves, for the training mode it is in; traced once for each mode."""
        if torch.compiler.is_compiling():  # the flags of all modules are too much for a compiler's guards
            key = tuple([self.target.training] * len(next(iter(self._cuts))))
        else:
            key = training_flags(self.target)
        if key not in self._cuts:
            self._cuts[key] = cut(trace(self.target), self.at)
        return self._cuts[key]

    def __getstate__(self) -> dict[str, Any]:
        # Compiled functions are dropped from copies and pickles, and made again where they are needed.
        return {**self.__dict__, "_cuts": {}}


def branch(
    model: nn.Module,
    num_branches: int = 3,
    at: str | None = None,
    example: Tensor | None = None,
    *,
    init: Init = "fresh",
    gate: GateForm = "relu-softmax",
    share: bool = True,
    factory: Callable[[], nn.Module] | None = None,
) -> NativeEnsemble:
    """Grow ``model`` into a native ensemble of branches; ``net.target is model``.

    Args:
        model: A classifier: images (B, channels, H, W) to logits (B, C).
        num_branches: m >= 1, the model's own tail among them.
        at: The module with which the branched tail begins, for example ``"layer3"``; None for the last stage.
        example: Images of the shape that the model is for; None for a size found on the model, else 224 x 224.
        init: Auxiliary branches start ``"fresh"`` or as a ``"copy"`` of the model's tail with a fresh classifier.
        gate: The gate's form, see :class:`~coterie.networks.aggregate.Gate`.
        share: False makes every branch a whole network of its own (the gate still reads the model's trunk).
        factory: Makes a newly initialised model for fresh branches; None re-initialises copies layer by layer.

    Raises:
        UserError: The model cannot be cut there; or what was cut does not compute exactly what the model computes.
    """
    if num_branches < 1:
        raise UserError(f"num_branches is {num_branches}; a network has at least one branch, its own")
    example = _example(model, example)
    with undisturbed(model):
        model.eval()
        if at is None:
            at = default_cut(model, trace(model), example)
        halves = cut(trace(model), at)
        crossing = halves.trunk(model, example)
        features = principal(crossing)
        before = [value._version for value in crossing if isinstance(value, Tensor)]
        if not isinstance(halves.tail(model, crossing), Tensor):
            raise UserError(f"{type(model).__name__} returns no plain logits; wrap it in a module that does")
        in_place = before != [value._version for value in crossing if isinstance(value, Tensor)]
        model.train()
        halves_in_training = cut(trace(model), at)
    tails = [
        _tail(_untrained(model, init, factory), (halves, halves_in_training), share) for _ in range(num_branches - 1)
    ]
    width, channels_last = _layout(features)
    net = NativeEnsemble(model, tails, Gate(width, num_branches, gate, channels_last), at, share, in_place)
    reference = next(model.parameters())
    net.branches.to(reference.device, reference.dtype)
    net.gate.to(reference.device)
    net.train(model.training)
    _check(net, example)
    return net


def cuts(model: nn.Module, example: Tensor | None = None) -> list[CutPoint]:
    """Every module at which ``model`` can be branched, with its tail's share of the FLOPs."""
    with undisturbed(model):
        model.eval()
        return list_cuts(model, trace(model), _example(model, example))


def principal(crossing: tuple[Any, ...]) -> Tensor:
    """The tensor that the gate reads: the last computed of the largest number of dimensions up to 4."""
    tensors = [value for value in crossing if isinstance(value, Tensor) and value.is_floating_point()]
    depth = max(min(tensor.dim(), 4) for tensor in tensors)
    return [tensor for tensor in tensors if tensor.dim() == depth][-1]


def _layout(features: Tensor) -> tuple[int, bool]:
    """Channels of a feature map and whether they come last; maps are taken to be square or channels-first."""
    if features.dim() == 4:
        channels_last = features.shape[1] == features.shape[2] != features.shape[3]
        return features.shape[3 if channels_last else 1], channels_last
    return features.shape[-1], False


def _example(model: nn.Module, example: Tensor | None) -> Tensor:
    """Two or more images of the right shape on the model's device: batch norm in training mode needs two."""
    if example is None:
        config = getattr(model, "pretrained_cfg", None) or {}
        side = getattr(model, "image_size", 224)
        channels = next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), 3)
        size = config.get("input_size", (channels, side, side))
        example = torch.zeros(2, channels, *size[1:])
    reference = next(model.parameters())
    example = example.detach().to(reference.device, reference.dtype)
    return example if len(example) > 1 else torch.cat([example, example + 1])


def _untrained(model: nn.Module, init: Init, factory: Callable[[], nn.Module] | None) -> nn.Module:
    if init == "fresh" and factory is not None:
        return factory()
    twin = copy.deepcopy(model)
    if init == "copy":
        classifier = [module for module in twin.modules() if isinstance(module, nn.Linear)][-1:]
        for module in classifier:
            module.reset_parameters()
        return twin
    raw = []
    for name, module in twin.named_modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
        else:
            raw += [f"{name}.{own}".lstrip(".") for own, _ in module.named_parameters(recurse=False)]
    if raw:
        warnings.warn(
            f"these parameters have no initialiser (no reset_parameters) and start as copies: {', '.join(raw)}",
            stacklevel=4,
        )
    return twin


def _tail(source: nn.Module, halves: tuple[CutGraph, CutGraph], share: bool) -> nn.Module:
    """The modules and tensors that the tail uses, under the same paths, and nothing else."""
    if not share:
        return source
    root = nn.Module()
    for path in dict.fromkeys(halves[0].modules + halves[1].modules):
        parent, name = _parent(root, path)
        parent.add_module(name, source.get_submodule(path))
    for path in dict.fromkeys(halves[0].tensors + halves[1].tensors):
        parent, name = _parent(root, path)
        owner = source.get_submodule(path.rpartition(".")[0])
        tensor = getattr(owner, name)
        if isinstance(tensor, nn.Parameter):
            parent.register_parameter(name, tensor)
        else:
            parent.register_buffer(name, tensor, persistent=name in owner.state_dict())
    return root


def _parent(root: nn.Module, path: str) -> tuple[nn.Module, str]:
    *parents, name = path.split(".")
    for part in parents:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = cast(nn.Module, root._modules[part])
    return root, name


def _check(net: NativeEnsemble, example: Tensor) -> None:
    """Branch 0 must be the model, bit for bit, in both modes, before anyone trains it."""
    for mode in (True, False):
        with undisturbed(net):
            net.train(mode)
            torch.manual_seed(0)
            expected = net.target(example)
            torch.manual_seed(0)
            graph = net.cut_graph()
            got = graph.tail(net.target, graph.trunk(net.target, example))
        if not torch.equal(expected, got):
            gap = (expected - got).abs().max().item()
            raise UserError(
                f"{type(net.target).__name__} cut at '{net.at}' differs from itself by {gap:.2g} in "
                f"{'training' if mode else 'evaluation'} mode; cut at another module"
            )
