"""FFL: Feature Fusion for online mutual knowledge distillation (Kim, Hyun, Chung, Kwak, ICPR 2020).

Sub-networks with logits z_k (B, C) and last feature maps (B, D, H, W). A fusion module classifies the concatenated
maps: depthwise 3x3, batch norm, ReLU, 1x1, batch norm, ReLU, global pool, linear layer, to logits f (B, C). The
sub-networks' mean teaches the fused classifier, and the fused classifier teaches the sub-networks:

    L = Σ_k CE(z_k, y) + CE(f, y) + w(t) T² [ Σ_k KL(softmax(f / T) ‖ softmax(z_k / T))
                                              + KL(softmax(mean_k z_k / T) ‖ softmax(f / T)) ],   T = 3

w ramps up over the first 80 of 300 epochs; the fusion module's weight decay is a tenth of the networks' (official code:
1e-5 beside 1e-4). The 1x1 convolution gives one sub-network's width, as the official module does. Two sub-networks,
which share all but the last stage (FFL-S) or nothing (``share=False``). Deployed is sub-network 0, or the fused
classifier with all sub-networks (``ensemble``).

The fusion's convolutions start from PyTorch's default; the official code draws them, as its networks', from
N(0, 2 / (k² C_out)). Both leave the linear layer at PyTorch's default.
"""

from dataclasses import dataclass

from coterie.bounds import Count, NonNegative, Share, Temperature
from coterie.errors import UserError
from coterie.methods.online.config import Distillation, OnlineConfig
from coterie.methods.online.method import OnlineMethod
from coterie.methods.online.peers import Branched, Independent


@dataclass(kw_only=True)
class Ffl(OnlineMethod):
    """Sub-networks and a classifier of their fused feature maps, which teach each other.

    Attributes:
        network: The backbone: a name, a factory, or a module of yours.
        epochs: Stage name to its own number of epochs; the one stage is ``train``.
        num_peers: How many sub-networks (official code: 2).
        at: The module with which the branched tail begins; None for the last stage.
        share: Whether the sub-networks share all but the last stage (FFL-S), or nothing.
        temperature: T of the soft targets (official code: 3).
        rampup: Share of the training over which the distillation's weight rises (official code: 80 of 300 epochs).
        fusion_weight_decay: The fusion module's weight decay, as a multiple of the networks' (official code: 0.1).
        divergence: How far students are from their targets, a name of ``coterie.functional.DIVERGENCES``: ``kl``,
            ``dkd``, ``dist`` or ``standardised``.
    """

    name = "ffl"
    summary = "sub-networks and a classifier of their fused feature maps (Kim et al. 2020)"

    num_peers: Count = 2
    at: str | None = None
    share: bool = True
    temperature: Temperature = 3.0
    rampup: Share = 80 / 300
    fusion_weight_decay: NonNegative = 0.1
    divergence: str = "kl"

    def config(self) -> OnlineConfig:
        """The mean teaches the fused classifier, the fused classifier every sub-network."""
        if self.num_peers < 2:
            raise UserError(f"⟨method.num_peers⟩ is {self.num_peers}; fusion needs 2 sub-networks or more")
        return OnlineConfig(
            peers=Branched(num=self.num_peers, at=self.at) if self.share else Independent(num=self.num_peers),
            aggregator="fused-maps",
            distillations=(
                Distillation(source="ensemble", loss=self.divergence),
                Distillation(source="mean", students="ensemble", loss=self.divergence),
            ),
            temperature=self.temperature,
            rampup=self.rampup,
            combiner_weight_decay=self.fusion_weight_decay,
        )
