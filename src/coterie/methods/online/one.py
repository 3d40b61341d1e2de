"""ONE: Knowledge Distillation by On-the-Fly Native Ensemble (Lan, Zhu, Gong, NeurIPS 2018, arXiv 1806.04606).

The upper layers of a network are grown into m branches with logits z_i (B, C), i = 0..m-1, over a shared trunk; a
gate reads the trunk's features and gives weights g (B, m). With y (B,) the labels and T the temperature:

    z_e = Σ_i g_i z_i                                                         the native ensemble, (B, C)
    L   = Σ_i CE(z_i, y) + CE(z_e, y) + w T² Σ_i KL(softmax(z_e / T) ‖ softmax(z_i / T))

Terms are summed over branches and averaged over the batch. The ensemble is detached inside the KL, so that the gate
learns only from CE(z_e, y), the branches from all three terms, and the trunk from their plain sum (no rescaling).
The printed equation has w = 1; the official code ramps w as exp(-5 (1 - t)²) over the first 80 of 300 epochs, which
is the default here as a fraction of the training (``rampup=0`` is the printed form). Branch 0 is deployed (ONE), or
all branches and the gate (ONE-E).

:mod:`coterie.methods.online.loss` computes L for this file's :meth:`One.config`; ``coterie.losses.one`` is the same by
the same code. Not ported from the official code: 1e-7 added to the teacher's probabilities, the best epoch chosen on
test data.
"""

from dataclasses import dataclass

from coterie.bounds import Count, Share, Temperature
from coterie.methods.online.config import Distillation, OnlineConfig
from coterie.methods.online.method import OnlineMethod
from coterie.methods.online.peers import Branched
from coterie.networks.reinit import Init
from coterie.peers.combine import GateForm


@dataclass(kw_only=True)
class One(OnlineMethod):
    """Train a network as its own ensemble: branches, a gate, and the ensemble teaching every branch.

    Attributes:
        network: The backbone: a name, a factory, or a module of yours.
        epochs: Stage name to its own number of epochs; the one stage is ``train``.
        num_branches: m, the target's own branch among them (paper: 3).
        at: The module with which the branched tail begins; None for the last stage.
        temperature: T of the soft targets (paper: 3).
        rampup: Share of the training over which the distillation's weight rises (official code: 80 of 300 epochs);
            0 switches the ramp off, as in the paper's equation.
        gate: ``relu-softmax`` (paper), ``softmax``, or ``uniform`` (the ablation without gating).
        distill: False drops the distillation (ablation).
        share: False makes every branch a whole network (ablation).
        detach_teacher: False lets the distillation's gradient reach the ensemble.
        init: How auxiliary branches start: ``fresh``, as a ``copy`` with a fresh classifier, or as a ``clone``; None
            for fresh, or copy of a network with weights.
        divergence: How far students are from their targets, a name of ``coterie.functional.DIVERGENCES``: ``kl``,
            ``dkd``, ``dist`` or ``standardised``.
    """

    name = "one"
    summary = "branches over a shared trunk, taught by their gated ensemble (Lan, Zhu, Gong 2018)"

    num_branches: Count = 3
    at: str | None = None
    temperature: Temperature = 3.0
    rampup: Share = 80 / 300
    gate: GateForm = "relu-softmax"
    distill: bool = True
    share: bool = True
    detach_teacher: bool = True
    init: Init | None = None
    divergence: str = "kl"

    def config(self) -> OnlineConfig:
        """Branches over a shared trunk, their gated ensemble teaching every branch; it delivers ONE and ONE-E."""
        distillation = Distillation(source="ensemble", detach=self.detach_teacher, loss=self.divergence)
        return OnlineConfig(
            peers=Branched(num=self.num_branches, at=self.at, share=self.share, init=self.init),
            aggregator={"relu-softmax": "gate", "softmax": "gate-softmax", "uniform": "mean"}[self.gate],
            distillations=(distillation,) if self.distill else (),
            temperature=self.temperature,
            rampup=self.rampup,
        )
