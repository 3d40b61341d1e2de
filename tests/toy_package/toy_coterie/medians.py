"""An online method, and its parts: a soft target, an aggregator and a distillation loss, each found by its name.

They are added where the method is imported, and so they are there wherever it is found.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from coterie.bounds import Count
from coterie.functional import DIVERGENCES
from coterie.methods import Branched, Distillation, OnlineConfig, OnlineMethod
from coterie.methods.online import AGGREGATORS, TARGETS, Aggregator, Targets
from coterie.outputs import PeerOutput


class Median(Targets):
    """A soft target: for each class the median of the peers' logits."""

    summary = "the median of the logits"

    def forward(self, output: PeerOutput, labels: Tensor) -> Tensor:
        """Logits (B, 1, 1, C): one teacher, the same for all students."""
        return self.read(output).median(1).values[:, None, None]


class Surest(nn.Module):
    """An aggregator: on each image the logits of the peer whose first class is likeliest."""

    def forward(self, output: PeerOutput) -> Tensor:
        """Logits (B, m, C) of the peers to those of the ensemble (B, C)."""
        surest = output.logits.softmax(2).amax(2).argmax(1)
        return output.logits[torch.arange(len(surest), device=surest.device), surest]


def squared_distance(students: Tensor, teachers: Tensor, temperature: float, labels: Tensor) -> Tensor:
    """A distillation loss: Σ_s mean_t mean_c ((q_st - z_s) / T)², mean over the batch.

    Args:
        students: Logits z (B, s, C).
        teachers: Logits q (B, s, t, C), or (B, 1, t, C) where all students have the same.
        temperature: T > 0.
        labels: The images' classes (B,), or distributions over them (B, C); not used.
    """
    return ((teachers - students.unsqueeze(2)) / temperature).square().mean((0, 2, 3)).sum()


TARGETS["median"] = Median
AGGREGATORS["surest"] = Aggregator(lambda example: Surest())
DIVERGENCES["squared"] = squared_distance


@dataclass(kw_only=True)
class Medians(OnlineMethod):
    """Branches that learn the median of their logits.

    Attributes:
        network: The backbone: a name, a factory, or a module of yours.
        epochs: Stage name to its own number of epochs; the one stage is ``train``.
        num_branches: m.
    """

    name = "medians"
    summary = "branches that learn the median of their logits"

    num_branches: Count = 3

    def config(self) -> OnlineConfig:
        """Branches, the surest of which answers for all."""
        return OnlineConfig(
            peers=Branched(num=self.num_branches),
            aggregator="surest",
            distillations=(Distillation(source="median", loss="squared", scale_by_t2=False),),
        )
