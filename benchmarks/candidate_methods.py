"""Trainings of the network alone that were tried in ``benchmarks/candidates.py`` and not taken: nothing was gained."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from coterie.bounds import Count, NonNegative, PositiveShare
from coterie.functional import cross_entropy
from coterie.methods import Method, Stage, Task, Turn
from coterie.outputs import Batch, LossTerms, PeerOutput, StepResult


@dataclass(kw_only=True)
class Flat(Method):
    """The network alone, drawn to flat minima, on several augmentations of an image in a batch.

    Weights w, batch (x, y) with x (K B, channels, H, W): K augmentations of each of B images; L is the cross-entropy.

        g = ∇ L(w; x', y'),   (x', y') a share of the batch
        loss = L(w + ρ g / ‖g‖; x, y) + μ · mean over views of KL(p ‖ softmax(z_k)),   p = mean of softmax(z_k), held

    ρ > 0 is SAM (Foret et al., 2010.01412); K > 1 with ρ = μ = 0 several augmentations (Fort et al., 2105.13343).

    Attributes:
        rho: ρ, how far the weights are moved uphill.
        share: Of the batch, what the move is computed on; the step costs as much more.
        num_views: K.
        pull: μ.
    """

    name = "flat"
    summary = "the network alone, sharpness-aware, on several augmentations of an image"

    rho: NonNegative = 0.05
    share: PositiveShare = 1.0
    num_views: Count = 1
    pull: NonNegative = 0.0

    def stages(self, task: Task) -> Iterator[Stage]:
        """One stage, ``train``."""
        model = self.build(task)
        turn = Turn(FlatStep(model, self), tuple(model.parameters()))
        yield Stage("train", [turn], network=model, deliver={"target": model}, views=self.num_views)


class FlatStep(nn.Module):
    """The step of :class:`Flat`; batch norm's running statistics are those at the moved weights."""

    def __init__(self, model: nn.Module, settings: Flat) -> None:
        super().__init__()
        self.model = model
        self.settings = settings

    def forward(self, batch: Batch) -> StepResult:
        """A batch to its losses."""
        views = self.settings.num_views
        images = torch.cat(list(batch.views))
        labels = batch.labels.repeat(views, *[1] * (batch.labels.dim() - 1))
        weights = self._moved(images, labels) if self.settings.rho else {}
        logits: Tensor = functional_call(self.model, weights, (images,))
        terms = {"cross_entropy": cross_entropy(logits, labels)}
        apart = logits.view(views, len(batch.labels), -1)
        if self.settings.pull:
            log = apart.float().log_softmax(-1)
            mean = log.detach().exp().mean(0, keepdim=True)
            terms["distillation"] = self.settings.pull * (mean * (mean.clamp_min(1e-9).log() - log)).sum(-1).mean()
        return StepResult(LossTerms(terms), PeerOutput(apart.transpose(0, 1)[:, :1]))

    def _moved(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        some = slice(None, None, round(1 / self.settings.share))
        weights: dict[str, Tensor] = {name: each for name, each in self.model.named_parameters() if each.requires_grad}
        copies = {name: each.clone() for name, each in self.model.named_buffers()}  # statistics of this look are lost
        loss = cross_entropy(functional_call(self.model, (weights, copies), (images[some],)), labels[some])
        uphill = torch.autograd.grad(loss, list(weights.values()))
        scale = self.settings.rho / (torch.stack([each.norm() for each in uphill]).norm() + 1e-12)
        return {name: each + scale * move for (name, each), move in zip(weights.items(), uphill, strict=True)}
