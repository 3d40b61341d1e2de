"""OKDDip: Online Knowledge Distillation with Diverse Peers (Chen, Mei, Wang, Feng, Chen, AAAI 2020).

m − 1 auxiliary peers a and a group leader, with logits z (B, C) and pooled features h (B, D). Each auxiliary has a
teacher of its own, a mixture of the auxiliaries by attention; the leader learns from their mean:

    α_ab = softmax_b(⟨W_q h_a, W_k h_b⟩),   W: D → D/8 without bias, the peer itself included
    L = Σ_a CE(z_a, y) + CE(z_lead, y)
        + w(t) T² [ Σ_a KL(softmax(Σ_b α_ab z_b / T) ‖ softmax(z_a / T))
                    + KL(softmax(mean_a z_a / T) ‖ softmax(z_lead / T)) ],   T = 3, m = 4

w ramps up over the first 80 of 300 epochs. The targets are not detached, as in the official code: only so do W_q and
W_k learn. The leader, peer 0, is deployed, or all peers as the mean of their logits (``ensemble``). Peers are branches,
or whole networks (``share=False``).

The ensemble that the official code reports is the mean of the auxiliaries: it leaves the leader out. Here, as in
MCL-OKD's code, the leader is in it. Not ported from the official code: its DenseNet branches, which all hold the same
block.
"""

from dataclasses import dataclass
from typing import Any

from coterie.bounds import Count, Share, Temperature
from coterie.errors import UserError
from coterie.methods.online.config import Distillation, OnlineConfig
from coterie.methods.online.method import OnlineMethod
from coterie.methods.online.peers import Branched, Independent


@dataclass(kw_only=True)
class OkdDip(OnlineMethod):
    """Auxiliary peers that teach each other by attention, and a leader that learns from their mean.

    Attributes:
        network: The backbone: a name, a factory, or a module of yours.
        epochs: Stage name to its own number of epochs; the one stage is ``train``.
        num_peers: m, the leader among them (paper: 4).
        at: The module with which the branched tail begins; None for the last stage.
        share: Whether the peers are branches of one network, or whole networks.
        temperature: T of the soft targets (official code: 3).
        rampup: Share of the training over which the distillation's weight rises (official code: 80 of 300 epochs).
        detach_teacher: True holds the soft targets fixed; then the attention stays as it was initialised.
        divergence: How far students are from their targets, a name of ``coterie.functional.DIVERGENCES``: ``kl``,
            ``dkd``, ``dist`` or ``standardised``.
    """

    name = "okddip"
    summary = "diverse peers by attention, and a leader that is deployed (Chen et al. 2020)"

    num_peers: Count = 4
    at: str | None = None
    share: bool = True
    temperature: Temperature = 3.0
    rampup: Share = 80 / 300
    detach_teacher: bool = False
    divergence: str = "kl"

    def config(self) -> OnlineConfig:
        """Auxiliaries taught by attention among them, the leader by their mean."""
        if self.num_peers < 3:
            raise UserError(f"⟨method.num_peers⟩ is {self.num_peers}; use 3 or more, a leader and two auxiliaries")
        auxiliaries = tuple(range(1, self.num_peers))
        how: dict[str, Any] = {"teachers": auxiliaries, "detach": self.detach_teacher, "loss": self.divergence}
        return OnlineConfig(
            peers=Branched(num=self.num_peers, at=self.at) if self.share else Independent(num=self.num_peers),
            aggregator="mean",
            distillations=(
                Distillation(source="attention", students=auxiliaries, **how),
                Distillation(source="mean", students=(0,), **how),
            ),
            temperature=self.temperature,
            rampup=self.rampup,
            ensemble_ce_weight=0.0,
        )
