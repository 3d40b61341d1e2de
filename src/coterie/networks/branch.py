"""Any classifier as a native ensemble: a shared trunk, and its upper layers several times over."""

import copy
import itertools
import warnings
from collections.abc import Callable, Collection, Hashable, Sequence
from math import prod
from operator import mul
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from coterie.errors import UserError
from coterie.networks.aggregate import Gate, GateForm, gated
from coterie.networks.cuts import CutPoint, default_cut, list_cuts
from coterie.networks.graph import (
    CutGraph,
    Segment,
    around,
    classifier_input,
    cut,
    frozen_facts,
    last_map,
    trace,
    undisturbed,
    with_classifier,
)
from coterie.outputs import PeerOutput, at_least_float32

Init = Literal["fresh", "copy"]
Values = tuple[Any, ...]


class NativeEnsemble(nn.Module):
    """A model whose upper layers are grown into m branches; the model itself is branch 0.

    Maps images (B, channels, H, W) to a :class:`~coterie.outputs.PeerOutput` with logits (B, m, C), the gate's
    weights (B, m), the gated ensemble's logits (B, C), what every classifier reads, and the trunk's features. Given
    m views of the images, each branch computes its own alone. Made by :func:`branch`.

    Attributes:
        target: The user's own model. Training this module trains it; its state dict is a plain model's.
        branches: The auxiliary tails (whole networks where nothing is shared), level by level where cuts are nested.
        gate: Weighs the branches by the trunk's features.
        at: The modules with which the branched tails begin, one for each level.
        fans: How many copies each level makes of its segment; their product is m.
        inside: The modules whose forwards are followed; all others are called as they are.
        share: Whether the branches share the trunk.
        in_place: Whether a tail overwrites what crosses the cut, so that each needs its own copy.
        rescale: Whether gradients are divided by the number of copies at each cut, so that what lies below learns
            from the branches' mean and not from their sum (Song, Chai 2018).
        maps: Whether the output holds each branch's last feature map too.
    """

    target: nn.Module
    gate: Gate

    def __init__(
        self,
        target: nn.Module,
        branches: list[nn.Module],
        gate: Gate,
        at: tuple[str, ...],
        fans: tuple[int, ...],
        inside: Collection[str],
        *,
        share: bool,
        in_place: bool,
        rescale: bool = False,
        maps: bool = False,
    ) -> None:
        super().__init__()
        self.target = target
        self.branches = nn.ModuleList(branches)
        self.gate = gate
        self.at = at
        self.fans = fans
        self.inside = inside
        self.share = share
        self.in_place = in_place
        self.rescale = rescale
        self.maps = maps
        self._cuts: dict[tuple[Hashable, ...], CutGraph] = {}

    def forward(self, *views: Tensor) -> PeerOutput:
        """One view of the images (B, channels, H, W), or one for each branch, to what all say."""
        graph = self.cut_graph(views[0])
        together = len(views) == 1 and self.share
        crossing, tails = self._together(graph, views[0]) if together else self._apart(graph, views)
        features = principal(crossing)
        weights = self.gate(features)
        logits = at_least_float32(torch.stack([tail[0] for tail in tails], 1))
        read = tuple(tail[1] for tail in tails) if len(tails[0]) > 1 else None
        maps = tuple(tail[2] for tail in tails) if len(tails[0]) > 2 else None
        ensemble = gated(logits, weights)
        return PeerOutput(logits, features=read, maps=maps, trunk=features, weights=weights, ensemble=ensemble)

    def _together(self, graph: CutGraph, images: Tensor) -> tuple[Values, list[Values]]:
        """Every segment once for each of its copies: what crosses the first cut, and what each tail gives."""
        crossing = graph.trunk(self.target, images)
        values = [crossing]
        for level, segment in enumerate(graph.tails):
            values = [
                segment.run(self._root(level, copy), self._entering(level, values[copy // self.fans[level]]))
                for copy in range(prod(self.fans[: level + 1]))
            ]
        return crossing, values

    def _apart(self, graph: CutGraph, views: Sequence[Tensor]) -> tuple[Values, list[Values]]:
        """Every branch from the images on, each from its own view; what crosses the target's cut, and the tails."""
        crossings, tails = [], []
        for leaf in range(prod(self.fans)):
            root = self.target if self.share or leaf == 0 else self.branches[leaf - 1]
            values = graph.trunk(root, views[leaf % len(views)])
            crossings.append(values)
            for level, segment in enumerate(graph.tails):
                if self.share:
                    root = self._root(level, leaf // prod(self.fans[level + 1 :]))
                values = segment.run(root, self._entering(level, values))
            tails.append(values)
        return crossings[0], tails

    def _root(self, level: int, copy: int) -> nn.Module:
        """What holds the modules of a copy of a level's segment; the target holds those of the first."""
        if copy == 0:
            return self.target
        before = sum(prod(self.fans[: each + 1]) - 1 for each in range(level))
        return self.branches[before + copy - 1]

    def _entering(self, level: int, values: Values) -> Values:
        """What crosses a cut, as one copy takes it: its own where tails begin with an operation in place."""
        if not self.in_place and not self.rescale:
            return values
        scale = 1 / self.fans[level] if self.rescale else 1.0
        return tuple(_own(value, scale) if isinstance(value, Tensor) else value for value in values)

    def cut_graph(self, images: Tensor) -> CutGraph:
        """The target's forward in segments, as its modules are set now; traced once for each mode."""
        if torch.compiler.is_compiling():  # all that a trace freezes is too much for a compiler's guards
            return next(graph for key, graph in reversed(self._cuts.items()) if key[0] == self.target.training)
        key = frozen_facts(self.target, self.inside)
        if key not in self._cuts:
            graph = trace(self.target, self.inside)
            taps = [classifier_input(graph, self.target)]
            if self.maps:
                taps.append(last_map(graph, self.target, images))
            self._cuts[key] = cut(graph, self.at, [tap for tap in taps if tap is not None])
        return self._cuts[key]

    def __getstate__(self) -> dict[str, Any]:
        # Compiled functions are dropped from copies and pickles, and made again where they are needed.
        return {**self.__dict__, "_cuts": {}}


class _Rescaled(torch.autograd.Function):
    """The same values, whose gradient is scaled on the way back."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.scale, None


def _own(value: Tensor, scale: float) -> Tensor:
    if scale == 1.0 or not value.is_floating_point():
        return value.clone()
    return cast(Tensor, _Rescaled.apply(value, scale))


def branch(
    model: nn.Module,
    num_branches: int | Sequence[int] = 3,
    at: str | Sequence[str] | None = None,
    example: Tensor | None = None,
    *,
    init: Init = "fresh",
    gate: GateForm = "relu-softmax",
    share: bool = True,
    rescale: bool = False,
    maps: bool = False,
    factory: Callable[[], nn.Module] | None = None,
) -> NativeEnsemble:
    """Grow ``model`` into a native ensemble of branches; ``net.target is model``.

    Args:
        model: A classifier: images (B, channels, H, W) to logits (B, C).
        num_branches: m >= 1, the model's own tail among them. A tree of branches is given as the copies made at each
            cut, (2, 2) for four, with as many cuts in ``at``.
        at: The module with which the branched tail begins, for example ``"layer3"``; None for the last stage. Several,
            in the order of the forward, for a tree.
        example: Images of the shape that the model is for; None for a size found on the model, else 224 x 224.
        init: Auxiliary branches start ``"fresh"`` or as a ``"copy"`` of the model's tail with a fresh classifier.
        gate: The gate's form, see :class:`~coterie.networks.aggregate.Gate`.
        share: False makes every branch a whole network of its own (the gate still reads the model's trunk).
        rescale: Divide gradients by the number of copies at each cut (collaborative learning's form).
        maps: Let the output hold each branch's last feature map too.
        factory: Makes a newly initialised model for fresh branches; None re-initialises copies layer by layer.

    Raises:
        UserError: The model cannot be cut there; or what was cut does not compute exactly what the model computes.
    """
    fans = (num_branches,) if isinstance(num_branches, int) else tuple(num_branches)
    if min(fans, default=0) < 1:
        raise UserError(f"num_branches is {num_branches}; a network has at least one branch, its own")
    example = _example(model, example)
    with undisturbed(model):
        model.eval()
        at = default_cut(model, example) if at is None else at
        ats = (at,) if isinstance(at, str) else tuple(at)
        if len(ats) != len(fans):
            raise UserError(f"{len(fans)} counts of branches and {len(ats)} cuts; give one count for each cut")
        inside = with_classifier(model, around(ats))
        halves = cut(trace(model, inside), ats)
        values = crossing = halves.trunk(model, example)
        in_place = False
        for segment in halves.tails:
            before = _versions(values)
            values, entered = segment.run(model, values), values
            in_place |= before != _versions(entered)
        if not isinstance(values[0], Tensor):
            raise UserError(f"{type(model).__name__} returns no plain logits; wrap it in a module that does")
        model.train()
        halves_in_training = cut(trace(model, inside), ats)
    features = principal(crossing)
    tails = []
    for level, copies in enumerate(itertools.accumulate(fans, mul) if share else [prod(fans)]):
        parts = (halves.tails[level], halves_in_training.tails[level])
        tails += [_tail(_untrained(model, init, factory), parts, share) for _ in range(copies - 1)]
    width, channels_last = _layout(features)
    net = NativeEnsemble(
        model,
        tails,
        Gate(width, prod(fans), gate, channels_last),
        ats,
        fans,
        inside,
        share=share,
        in_place=in_place,
        rescale=rescale,
        maps=maps,
    )
    reference = next(model.parameters())
    net.branches.to(reference.device, reference.dtype)
    net.gate.to(reference.device)
    net.train(model.training)
    _check(net, example)
    return net


def _versions(values: Values) -> list[int]:
    return [value._version for value in values if isinstance(value, Tensor)]


def cuts(model: nn.Module, example: Tensor | None = None) -> list[CutPoint]:
    """Every module at which ``model`` can be branched, with its tail's share of the FLOPs."""
    with undisturbed(model):
        model.eval()
        return list_cuts(model, _example(model, example))


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


def _tail(source: nn.Module, halves: tuple[Segment, Segment], share: bool) -> nn.Module:
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
            graph = net.cut_graph(example)
            values = graph.trunk(net.target, example)
            for segment in graph.tails:
                values = segment.run(net.target, values)
            got = values[0]
        if not torch.equal(expected, got):
            gap = (expected - got).abs().max().item()
            raise UserError(
                f"{type(net.target).__name__} cut at {' and '.join(net.at)} differs from itself by {gap:.2g} in "
                f"{'training' if mode else 'evaluation'} mode; cut at another module"
            )
