"""CL-ILR: Collaborative Learning with Intermediate-Level Representation sharing (Song, Chai, NeurIPS 2018).

H heads on a tree whose lower layers are shared, with logits z_h (B, C); each head's teacher is the others' mean:

    q_h = softmax(1 / (H − 1) Σ_{j≠h} z_j / T)
    L   = Σ_h [ β CE(z_h, y) + (1 − β) KL(q_h ‖ softmax(z_h / T)) ],   β = 0.5, T = 2

Where the tree branches, gradients are divided by the number of branches on their way down, so that shared layers learn
at the rate of one network (``rescale``). β and T are not verified in the paper. Ports differ, and are options here:
OKDDip's code weighs the cross-entropy 1 and the KL T², ramped up over 80 of 300 epochs (``weights="okddip-code"``);
MCL-OKD's keeps β and multiplies the KL by T², without a ramp (``weights="mcl-okd-code"``). Head 0 is deployed, or all
heads as their mean (``ensemble``); what MCL-OKD's code reports as the ensemble is the mean of all heads but the last.
"""

from dataclasses import dataclass
from typing import Literal

from coterie.bounds import Count, Share, Temperature
from coterie.methods.online.config import Distillation, OnlineConfig
from coterie.methods.online.method import OnlineMethod
from coterie.methods.online.peers import Branched


@dataclass(kw_only=True)
class ClIlr(OnlineMethod):
    """Heads on a tree of shared layers, each taught by the mean of the others.

    Attributes:
        network: The backbone: a name, a factory, or a module of yours.
        epochs: Stage name to its own number of epochs; the one stage is ``train``.
        num_branches: H; or the copies made at each cut of a tree, for example (2, 2) with two cuts for four heads.
        at: The module with which the branched tail begins, or one for each level of the tree; None for the last stage.
        temperature: T of the soft targets (paper: 2).
        beta: β, the share of the cross-entropy, 0 to 1 (paper: 0.5).
        weights: ``paper``; ``okddip-code``: cross-entropy 1, KL T² with the ramp; ``mcl-okd-code``: cross-entropy β,
            KL (1 − β) T².
        rampup: Share of the training over which OKDDip's code's KL weight rises (80 of 300 epochs).
        rescale: Whether gradients are divided where the tree branches.
        detach_teacher: False lets the distillation's gradient reach the other heads.
        divergence: How far students are from their targets, a name of ``coterie.functional.DIVERGENCES``: ``kl``,
            ``dkd``, ``dist`` or ``standardised``.
    """

    name = "cl-ilr"
    summary = "heads on a tree, each taught by the mean of the others (Song, Chai 2018)"

    num_branches: Count | tuple[Count, ...] = 4
    at: str | tuple[str, ...] | None = None
    temperature: Temperature = 2.0
    beta: Share = 0.5
    weights: Literal["paper", "okddip-code", "mcl-okd-code"] = "paper"
    rampup: Share = 80 / 300
    rescale: bool = True
    detach_teacher: bool = True
    divergence: str = "kl"

    def config(self) -> OnlineConfig:
        """Rescaled branches, each taught by the others' mean."""
        okddip, squared = self.weights == "okddip-code", self.weights != "paper"
        weight = 1.0 if okddip else 1 - self.beta
        return OnlineConfig(
            peers=Branched(num=self.num_branches, at=self.at, rescale=self.rescale),
            aggregator="mean",
            distillations=(
                Distillation(
                    source="others",
                    weight=weight,
                    scale_by_t2=squared,
                    detach=self.detach_teacher,
                    loss=self.divergence,
                ),
            ),
            temperature=self.temperature,
            rampup=self.rampup if okddip else 0.0,
            ce_weight=1.0 if okddip else self.beta,
            ensemble_ce_weight=0.0,
        )
