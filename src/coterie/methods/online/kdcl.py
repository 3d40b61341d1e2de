"""KDCL: Online Knowledge Distillation via Collaborative Learning (Guo et al., CVPR 2020).

K networks with logits z_i (B, C), all students of one teacher z_t that is made of them on the fly:

    L = Σ_i [ CE(z_i, y) + λ T² KL(softmax(z_t / T) ‖ softmax(z_i / T)) ],   T = 2, λ = 1, z_t held fixed

    naive       z_t = z_k, k = argmin_i CE(z_i, y)
    linear      z_t = Σ_i α_i z_i, α = argmin CE(Σ_i α_i z_i, y) over the simplex
    min-logit   z_t^c = min_i (z_i^c − z_i^y)
    general     z_t = Σ_i w_i z_i, w = Σ⁻¹1 / 1ᵀΣ⁻¹1 from the errors' covariance on validation images, every epoch

Each network sees an augmentation of its own. ``naive`` and ``linear`` are solved for each image, ``linear`` up to what
:class:`coterie.methods.online.targets.Linear` states. ``general`` is said to be best on CIFAR-100, ``linear`` and
``min-logit`` on ImageNet (second-hand); T and λ are not verified in the paper. Network 0 is deployed.
"""

from dataclasses import dataclass
from typing import Literal

from coterie.bounds import Count, NonNegative, Temperature
from coterie.methods.online.config import Distillation, OnlineConfig
from coterie.methods.online.method import OnlineMethod
from coterie.methods.online.peers import Independent

_SOURCES: dict[str, str] = {
    "naive": "best",
    "linear": "linear",
    "min-logit": "min-logit",
    "general": "validated",
}


@dataclass(kw_only=True)
class Kdcl(OnlineMethod):
    """Networks that all learn from one teacher made of them.

    Attributes:
        network: The backbone that is deployed: a name, a factory, or a module of yours.
        epochs: Stage name to its own number of epochs; the one stage is ``train``.
        num_peers: K, the deployed network among them.
        networks: Names of the other peers' networks, one for each; None for the same.
        teacher: ``naive``, ``linear``, ``min-logit``, or ``general``, which needs ``--data.validation 0.1``.
        temperature: T of the soft targets (2).
        weight: λ of the distillation (1).
        view_per_peer: Whether every network sees an augmentation of its own (paper: yes).
        divergence: How far students are from their targets, a name of ``coterie.functional.DIVERGENCES``: ``kl``,
            ``dkd``, ``dist`` or ``standardised``.
    """

    name = "kdcl"
    summary = "networks that all learn from one teacher made of them (Guo et al. 2020)"

    num_peers: Count = 2
    networks: tuple[str, ...] | None = None
    teacher: Literal["naive", "linear", "min-logit", "general"] = "min-logit"
    temperature: Temperature = 2.0
    weight: NonNegative = 1.0
    view_per_peer: bool = True
    divergence: str = "kl"

    def config(self) -> OnlineConfig:
        """Independent peers with views of their own, all taught by the one teacher."""
        return OnlineConfig(
            peers=Independent(num=self.num_peers, networks=self.networks),
            aggregator="mean",
            distillations=(Distillation(source=_SOURCES[self.teacher], weight=self.weight, loss=self.divergence),),
            temperature=self.temperature,
            ensemble_ce_weight=0.0,
            view_per_peer=self.view_per_peer,
        )
