"""What passes between the rooms: batches into networks and methods, outputs and losses out of them.

Shapes: B images in a batch, m peers, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from coterie.errors import UserError


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half-precision values widened to float32; float32 and float64 as they are."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def without_autocast(tensor: Tensor) -> torch.autocast:
    """A block without autocast: CPUs would run softmax in bfloat16."""
    return torch.autocast(tensor.device.type, enabled=False)


@dataclass(frozen=True)
class Batch:
    """One batch of training images.

    Attributes:
        views: One or more augmentations of the same images, each (B, channels, height, width), normalised floats.
        labels: Class indices (B,), int64; or distributions (B, C), float32, where the recipe smooths or mixes them.
        indices: Which images of the split these are (B,), int64.
        progress: The share of the stage's epochs that are over, in [0, 1): epoch / epochs; a scalar tensor where the
            step is captured.
        part: Which part of its step's batch this is, from 0, where the batch is computed in several.
    """

    views: tuple[Tensor, ...]
    labels: Tensor
    indices: Tensor
    progress: float | Tensor = 0.0
    part: int = 0

    @property
    def images(self) -> Tensor:
        """The first view (B, channels, height, width)."""
        return self.views[0]

    def parts(self, count: int) -> list["Batch"]:
        """The batch in so many parts of nearly the same size, two images each at least."""
        count = max(1, min(count, len(self.labels) // 2))
        if count == 1:
            return [self]
        views = zip(*(view.tensor_split(count) for view in self.views), strict=True)
        rest = zip(self.labels.tensor_split(count), self.indices.tensor_split(count), strict=True)
        return [
            Batch(own, labels, indices, self.progress, number)
            for number, (own, (labels, indices)) in enumerate(zip(views, rest, strict=True))
        ]

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on ``device``."""
        return replace(
            self,
            views=tuple(view.to(device, non_blocking=True) for view in self.views),
            labels=self.labels.to(device, non_blocking=True),
            indices=self.indices.to(device, non_blocking=True),
        )


@dataclass(frozen=True)
class PeerOutput:
    """What a group of peers says of a batch. Every tensor but maps and blocks is widened to float32 at least.

    Attributes:
        logits: (B, m, C); peer 0 is the target.
        features: Per peer, what its classifier reads, each (B, D), or (B, D, H, W) where the classifier is a
            convolution; None where the network does not offer it.
        maps: Per peer, its last feature map (B, D, H, W) or token sequence, in the precision it was computed in; None
            where it was not asked for.
        blocks: Per peer, the outputs of its blocks, (B, D, H, W) or token sequences, as they were computed; None where
            they are not compared.
        trunk: The principal feature tensor of the shared trunk; None where nothing is shared.
        weights: The gate's weight of each peer for each image (B, m), summing to 1 over m; None without a gate.
        ensemble: The peers' combined logits (B, C); None where the peers are not combined.
    """

    logits: Tensor
    features: tuple[Tensor, ...] | None = None
    maps: tuple[Tensor, ...] | None = None
    blocks: tuple[tuple[Tensor, ...], ...] | None = None
    trunk: Tensor | None = None
    weights: Tensor | None = None
    ensemble: Tensor | None = None

    def logits_of(self, peers: Sequence[int]) -> Tensor:
        """The logits (B, k, C) of k peers; a list as an index would be copied to the device in every step."""
        if list(peers) == list(range(self.logits.shape[1])):
            return self.logits
        return torch.stack([self.logits[:, peer] for peer in peers], 1)

    def __post_init__(self) -> None:
        for name in ("logits", "trunk", "weights", "ensemble"):
            value = getattr(self, name)
            if isinstance(value, Tensor):  # torch also builds trees of other things than tensors
                object.__setattr__(self, name, at_least_float32(value))
        if self.features is not None and all(isinstance(feature, Tensor) for feature in self.features):
            object.__setattr__(self, "features", tuple(at_least_float32(feature) for feature in self.features))

    def __repr__(self) -> str:
        there = {field.name: getattr(self, field.name) for field in fields(self)}
        shown = (f"{name}={_shapes(value)}" for name, value in there.items() if value is not None)
        return f"PeerOutput({', '.join(shown)})"

    def detach(self) -> "PeerOutput":
        """The same values, without gradients."""

        def held(value: Tensor | tuple[Tensor, ...] | None) -> Any:
            if isinstance(value, tuple):
                return tuple(each.detach() for each in value)
            return None if value is None else value.detach()

        return PeerOutput(**{field.name: held(getattr(self, field.name)) for field in fields(self)})


@dataclass(frozen=True)
class LossTerms:
    """A loss as the sum of its named terms.

    Attributes:
        terms: Scalars, each already multiplied by its weight, so that they add up to the loss.
    """

    terms: Mapping[str, Tensor]

    @property
    def total(self) -> Tensor:
        """The loss: the sum of the terms, a scalar."""
        return torch.stack(tuple(self.terms.values())).sum()

    def __getitem__(self, name: str) -> Tensor:
        return self.terms[name]

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"LossTerms has no '{name}'; the loss itself is .total, as in loss.total.backward()")

    def __repr__(self) -> str:
        return f"LossTerms({', '.join(f'{name}={_number(term)}' for name, term in self.terms.items())})"


@dataclass(frozen=True)
class StepResult:
    """What a turn makes of a batch.

    Attributes:
        loss: The loss that is differentiated, by terms.
        output: What the peers said; None where the turn trains something else.
    """

    loss: LossTerms
    output: PeerOutput | None = None


class Answers(Protocol):
    """What holds peers' logits (B, m, C), and their ensemble's (B, C) or None: outputs, and predictions of a split."""

    @property
    def logits(self) -> Tensor:
        """(B, m, C)."""

    @property
    def ensemble(self) -> Tensor | None:
        """(B, C)."""


def answer(output: Answers | Tensor) -> Tensor:
    """What a network says, (B, C): a group's ensemble, or its peer 0 where it has none; plain logits as they are."""
    if isinstance(output, Tensor):
        return at_least_float32(output)
    return output.logits[:, 0] if output.ensemble is None else output.ensemble


def ensemble_of(output: PeerOutput) -> Tensor:
    """The ensemble's logits (B, C).

    Raises:
        UserError: The output has none.
    """
    if not isinstance(output, PeerOutput) or output.ensemble is None:
        raise UserError("the loss needs an ensemble; give it the output of branch(model, m) or of method.build_peers")
    return output.ensemble


def _shapes(value: Any) -> str:
    """The shape of a tensor, or of every tensor of a tuple; other things, which torch may put in their place, as is."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_shapes, value))})"
    return str(tuple(value.shape)) if isinstance(value, Tensor) else repr(value)


def _number(term: Any) -> str:
    """A scalar's value, where it has one."""
    return f"{term.item():.4g}" if type(term) is Tensor and term.numel() == 1 and not term.is_meta else _shapes(term)


# Known to torch as trees of tensors. What it does not know it does not look into: DistributedDataParallel with
# static_graph=True would silently not add up gradients over processes, and torch.export would refuse the network.
for _type in (PeerOutput, LossTerms, StepResult):
    torch.export.register_dataclass(_type, serialized_type_name=f"coterie.{_type.__name__}")
