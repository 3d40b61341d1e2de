"""A native ensemble: one network's upper layers several times over, on a trunk that all share."""

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from coterie.errors import UserError
from coterie.networks.split.graph import SplitForward
from coterie.networks.split.segments import SplitForwards
from coterie.outputs import PeerOutput, at_least_float32
from coterie.peers.combine import Gate, gate_logits

Values = tuple[Any, ...]


class NativeEnsemble(nn.Module):
    """A model whose upper layers are grown into m branches; the model itself is branch 0.

    Maps images (B, channels, H, W) to a :class:`~coterie.outputs.PeerOutput` with logits (B, m, C), the gate's
    weights (B, m), the gated ensemble's logits (B, C), what every classifier reads, and the trunk's features. Given
    m views of the images, each branch computes its own alone. Made by :func:`branch`.

    Attributes:
        target: The user's own model. Training this module trains it; its state dict is a plain model's.
        branches: The auxiliary tails (whole networks where nothing is shared), level by level where splits are nested.
        gate: Weighs the branches by the trunk's features.
        splits: Gives the target's forward as the trunk and the tails' segments.
        fans: How many copies each level makes of its segment; their product is m.
        depth: Dimensions of the tensor that the gate reads. A single image would not tell it from tables that all
            images share.
        share: Whether the branches share the trunk.
        in_place: Whether a tail overwrites what crosses the split, so that each needs its own copy.
        rescale: Whether gradients are divided by the number of copies at each split, so that what lies below learns
            from the branches' mean and not from their sum (Song, Chai 2018).
    """

    target: nn.Module
    gate: Gate

    def __init__(
        self,
        target: nn.Module,
        branches: list[nn.Module],
        gate: Gate,
        splits: SplitForwards,
        fans: tuple[int, ...],
        *,
        depth: int,
        share: bool,
        in_place: bool,
        rescale: bool = False,
    ) -> None:
        super().__init__()
        self.target = target
        self.branches = nn.ModuleList(branches)
        self.gate = gate
        self.fans = fans
        self.depth = depth
        self.share = share
        self.in_place = in_place
        self.rescale = rescale
        self.splits = splits

    @property
    def at(self) -> tuple[str, ...]:
        """The modules with which the branched tails begin, one for each level."""
        return self.splits.ats

    def forward(self, *views: Tensor) -> PeerOutput:
        """One view of the images (B, channels, H, W), or one for each branch, to what all say.

        Raises:
            UserError: A batch norm is given a single value of each channel to learn from.
        """
        if torch.compiler.is_compiling() or not self.training or len(views[0]) > 1:
            return self._answer(views)
        try:
            return self._answer(views)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise UserError(
                "a batch of one image: batch norm needs two images or more in training mode; give the DataLoader "
                "drop_last=True, or call net.eval()"
            ) from error

    def _answer(self, views: Sequence[Tensor]) -> PeerOutput:
        graph = self.splits.of(self.target, views[0])
        together = len(views) == 1 and self.share
        crossing, tails = self._run_together(graph, views[0]) if together else self._run_apart(graph, views)
        features = select_features(crossing, views[0].shape[0], self.depth)
        weights = self.gate(features)
        logits = at_least_float32(torch.stack([tail[0] for tail in tails], 1))
        read, maps = collect_taps(tails)
        ensemble = gate_logits(logits, weights)
        return PeerOutput(logits, features=read, maps=maps, trunk=features, weights=weights, ensemble=ensemble)

    def _run_together(self, graph: SplitForward, images: Tensor) -> tuple[Values, list[Values]]:
        """Every segment once for each of its copies: what crosses the first split, and what each tail gives."""
        crossing = graph.trunk(self.target, images)
        values = [crossing]
        for level, segment in enumerate(graph.tails):
            values = [
                segment.run(self._find_root(level, copy), self._copy_entering(level, values[copy // self.fans[level]]))
                for copy in range(prod(self.fans[: level + 1]))
            ]
        return crossing, values

    def _run_apart(self, graph: SplitForward, views: Sequence[Tensor]) -> tuple[Values, list[Values]]:
        """Every branch from the images on, each from its own view; what crosses the target's split, and the tails."""
        crossings, tails = [], []
        for leaf in range(prod(self.fans)):
            root = self.target if self.share or leaf == 0 else self.branches[leaf - 1]
            values = graph.trunk(root, views[leaf % len(views)])
            crossings.append(values)
            for level, segment in enumerate(graph.tails):
                if self.share:
                    root = self._find_root(level, leaf // prod(self.fans[level + 1 :]))
                values = segment.run(root, self._copy_entering(level, values))
            tails.append(values)
        return crossings[0], tails

    def _find_root(self, level: int, copy: int) -> nn.Module:
        """What holds the modules of a copy of a level's segment; the target holds those of the first."""
        if copy == 0:
            return self.target
        before = sum(prod(self.fans[: below + 1]) - 1 for below in range(level))
        return self.branches[before + copy - 1]

    def _copy_entering(self, level: int, values: Values) -> Values:
        """What crosses a split, as one copy takes it: its own where tails begin with an operation in place."""
        if not self.in_place and not self.rescale:
            return values
        scale = 1 / self.fans[level] if self.rescale else 1.0
        return cast(Values, pytree.tree_map_only(Tensor, partial(_copy_value, scale=scale), values))


class _Rescaled(torch.autograd.Function):
    """The same values, whose gradient is scaled on the way back."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.scale, None


def _copy_value(value: Tensor, scale: float) -> Tensor:
    if scale == 1.0 or not value.is_floating_point():
        return value.clone()
    return cast(Tensor, _Rescaled.apply(value, scale))


def collect_taps(tails: Sequence[Values]) -> tuple[tuple[Tensor, ...] | None, tuple[Tensor, ...] | None]:
    """What every peer's classifier reads, and every peer's last map, where the last segments gave them."""
    read = tuple(tail[1] for tail in tails) if len(tails[0]) > 1 else None
    maps = tuple(tail[2] for tail in tails) if len(tails[0]) > 2 else None
    return read, maps


def select_features(crossing: tuple[Any, ...], batch: int, depth: int | None = None) -> Tensor:
    """The tensor that the gate reads: the last computed of those that hold something for each image.

    Args:
        crossing: What crosses the split: tensors, and structures of tensors.
        batch: B; tables of positions and the like, which all images share, are passed over.
        depth: Its number of dimensions; None for the largest up to 4.
    """
    leaves = [leaf for leaf in pytree.tree_leaves(crossing) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    tensors = [leaf for leaf in leaves if leaf.dim() > 1 and leaf.shape[0] == batch] or leaves
    if depth is None:
        depth = max(min(tensor.dim(), 4) for tensor in tensors)
    return [tensor for tensor in tensors if tensor.dim() == depth][-1]
