"""DML: Deep Mutual Learning (Zhang, Xiang, Hospedales, Lu, CVPR 2018).

K networks that share nothing, with logits z_k (B, C), each taught by every other. With y (B,) the labels:

    L_k = CE(z_k, y) + 1 / (K − 1) Σ_{j≠k} KL(softmax(z_j / T) ‖ softmax(z_k / T)),   T = 1, z_j held fixed

The KLs are averaged; the KL to the peers' average does worse. In the paper's algorithm 1 the networks are updated one
after another, each taught by what the others say after their update (``updates="sequential"``); most code updates all
at once, from one forward (``"simultaneous"``). Network 0 is deployed. Coefficients and T are not verified in the paper.
"""

from dataclasses import dataclass
from typing import Literal

from coterie.bounds import Count, Temperature
from coterie.methods.online.config import Distillation, OnlineConfig
from coterie.methods.online.method import OnlineMethod
from coterie.methods.online.peers import Independent


@dataclass(kw_only=True)
class Dml(OnlineMethod):
    """Networks that teach each other.

    Attributes:
        network: The backbone that is deployed: a name, a factory, or a module of yours.
        epochs: Stage name to its own number of epochs; the one stage is ``train``.
        num_peers: K, the deployed network among them (paper: 2).
        networks: Names of the other peers' networks, one for each; None for the same.
        temperature: T of the soft targets (paper: 1).
        updates: ``sequential`` (paper) or ``simultaneous``.
        view_per_peer: Whether every network sees an augmentation of its own.
        divergence: How far students are from their targets, a name of ``coterie.functional.DIVERGENCES``: ``kl``,
            ``dkd``, ``dist`` or ``standardised``.
    """

    name = "dml"
    summary = "networks side by side that teach each other (Zhang et al. 2018)"

    num_peers: Count = 2
    networks: tuple[str, ...] | None = None
    temperature: Temperature = 1.0
    updates: Literal["sequential", "simultaneous"] = "sequential"
    view_per_peer: bool = False
    divergence: str = "kl"

    def config(self) -> OnlineConfig:
        """Independent peers, each taught by each of the others."""
        return OnlineConfig(
            peers=Independent(num=self.num_peers, networks=self.networks),
            aggregator="mean",
            distillations=(Distillation(source="each", loss=self.divergence),),
            temperature=self.temperature,
            ensemble_ce_weight=0.0,
            view_per_peer=self.view_per_peer,
            sequential=self.updates == "sequential",
        )
