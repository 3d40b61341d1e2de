"""PCL: Peer Collaborative Learning for online knowledge distillation (Wu, Gong, AAAI 2021).

m peers over a shared trunk, each fed an augmentation of its own, with logits z_j (B, C) and pooled features (B, D). One
linear layer on all peers' concatenated features gives the ensemble's logits e (B, C); z̄_j are the logits of peer j's
moving average:

    L = Σ_j CE(z_j, y) + CE(e, y) + w(t) T² Σ_j KL(softmax(e / T) ‖ softmax(z_j / T))
        + T² / (m − 1) Σ_j Σ_{k≠j} KL(softmax(z̄_k / T) ‖ softmax(z_j / T)),   T = 3, m = 3

w ramps up over the first 80 of 300 epochs. The coefficients are not verified in the paper. The averages' decay rises to
0.999 in the paper's 300 epochs of CIFAR, and to what spans the same share of the training in one of another length;
they normalise by the batch, as the peers do while they train, and keep statistics of their own. Deployed is peer 0, its
moving average (``average``), or all peers with the ensemble's classifier (``ensemble``).
"""

from dataclasses import dataclass

from coterie.bounds import Count, PositiveInt, Share, Temperature
from coterie.errors import UserError
from coterie.methods.online.config import EMA_STEPS, Distillation, OnlineConfig
from coterie.methods.online.method import OnlineMethod
from coterie.methods.online.peers import Branched


@dataclass(kw_only=True)
class Pcl(OnlineMethod):
    """Peers with views of their own, taught by their fused ensemble and by each other's moving averages.

    Attributes:
        network: The backbone: a name, a factory, or a module of yours.
        epochs: Stage name to its own number of epochs; the one stage is ``train``.
        num_branches: m (paper: 3).
        at: The module with which the branched tail begins; None for the last stage.
        temperature: T of the soft targets (3).
        rampup: Share of the training over which the ensemble's distillation gains weight (80 of 300 epochs).
        ema_decay: The decay that the moving averages reach in a training of ``ema_steps`` steps, 0 to 1 (0.999).
        ema_steps: In a training of another length, their window is the same share of the training (300 epochs of
            CIFAR in batches of 128); None for ``ema_decay`` as it stands, whatever the length.
        view_per_peer: Whether every peer sees an augmentation of its own (paper: yes).
        divergence: How far students are from their targets, a name of ``coterie.functional.DIVERGENCES``: ``kl``,
            ``dkd``, ``dist`` or ``standardised``.
    """

    name = "pcl"
    summary = "peers taught by their fused ensemble and by moving averages (Wu, Gong 2021)"

    num_branches: Count = 3
    at: str | None = None
    temperature: Temperature = 3.0
    rampup: Share = 80 / 300
    ema_decay: Share = 0.999
    ema_steps: PositiveInt | None = EMA_STEPS
    view_per_peer: bool = True
    divergence: str = "kl"

    def config(self) -> OnlineConfig:
        """The fused ensemble teaches every peer, and each peer's moving average the others."""
        if self.num_branches < 2:
            raise UserError(f"⟨method.num_branches⟩ is {self.num_branches}; peers teach each other, use 2 or more")
        return OnlineConfig(
            peers=Branched(num=self.num_branches, at=self.at),
            aggregator="fused-features",
            distillations=(
                Distillation(source="ensemble", loss=self.divergence),
                Distillation(source="each", from_ema=True, rampup=0.0, loss=self.divergence),
            ),
            temperature=self.temperature,
            rampup=self.rampup,
            view_per_peer=self.view_per_peer,
            ema_decay=self.ema_decay,
            ema_steps=self.ema_steps,
        )
