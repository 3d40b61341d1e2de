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

Not ported from the official code: 1e-7 added to the teacher's probabilities, the best epoch chosen on test data.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from coterie.errors import UserError
from coterie.losses import cross_entropy, kl_divergence, ramp_up
from coterie.methods.base import Method, Spec, Stage, Turn
from coterie.networks.aggregate import GateForm
from coterie.networks.branch import Init
from coterie.networks.native import NativeEnsemble
from coterie.outputs import Batch, LossTerms, PeerOutput, StepResult


def one_loss(
    output: PeerOutput,
    labels: Tensor,
    temperature: float = 3.0,
    weight: float = 1.0,
    *,
    detach_teacher: bool = True,
    distill: bool = True,
) -> LossTerms:
    """ONE's loss (equation 7 of the paper), by terms.

    Args:
        output: Logits (B, m, C) and ensemble logits (B, C).
        labels: Class indices (B,).
        temperature: T > 0.
        weight: w >= 0, the ramp's value.
        detach_teacher: Whether the ensemble is held fixed inside the KL, as in the official code.
        distill: False drops the KL (the paper's ablation "without online distillation").

    Returns:
        ``cross_entropy`` (sum over branches), ``cross_entropy_ensemble``, and ``distillation`` = w T² ΣKL.

    Raises:
        UserError: The output has no ensemble.
    """
    if output.ensemble is None:
        raise UserError("ONE's loss needs an ensemble; give it the output of branch(model, m)")
    peers = output.logits.unbind(1)
    terms = {
        "cross_entropy": torch.stack([cross_entropy(logits, labels) for logits in peers]).sum(),
        "cross_entropy_ensemble": cross_entropy(output.ensemble, labels),
    }
    if distill:
        teacher = output.ensemble.detach() if detach_teacher else output.ensemble
        divergence = torch.stack([kl_divergence(logits, teacher, temperature) for logits in peers]).sum()
        terms["distillation"] = weight * temperature**2 * divergence
    return LossTerms(terms)


@dataclass(kw_only=True)
class One(Method):
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
        init: How auxiliary branches start: ``fresh`` or ``copy``; None for fresh, or copy of a network with weights.
    """

    name = "one"
    summary = "branches over a shared trunk, taught by their gated ensemble (Lan, Zhu, Gong 2018)"

    num_branches: int = 3
    at: str | None = None
    temperature: float = 3.0
    rampup: float = 80 / 300
    gate: GateForm = "relu-softmax"
    distill: bool = True
    share: bool = True
    detach_teacher: bool = True
    init: Init | None = None

    def __post_init__(self) -> None:
        if self.num_branches < 1:
            raise UserError(f"--method.num_branches is {self.num_branches}; use 1 or more (the paper: 3)")
        if self.temperature <= 0:
            raise UserError(f"--method.temperature is {self.temperature}; use a positive number (the paper: 3)")
        if not 0 <= self.rampup <= 1:
            raise UserError(f"--method.rampup is {self.rampup}; it is a share of the training, from 0 to 1")

    def stages(self, spec: Spec) -> Iterator[Stage]:
        """One stage, ``train``; it delivers ``target`` (ONE) and ``ensemble`` (ONE-E)."""
        net = self.branched(spec, self.num_branches, self.at, init=self.init, gate=self.gate, share=self.share)
        turn = Turn(_Step(net, self), tuple(net.parameters()))
        peers = ("target", *(f"branch{index}" for index in range(1, self.num_branches)))
        deliver = {"target": net.target, "ensemble": net}
        yield Stage("train", [turn], network=net, peers=peers, deliver=deliver)


class _Step(nn.Module):
    def __init__(self, net: NativeEnsemble, method: One) -> None:
        super().__init__()
        self.net = net
        self.method = method

    def forward(self, batch: Batch) -> StepResult:
        method = self.method
        output = self.net(batch.images)
        weight = ramp_up(batch.progress, method.rampup)
        loss = one_loss(
            output,
            batch.labels,
            method.temperature,
            weight,
            detach_teacher=method.detach_teacher,
            distill=method.distill,
        )
        return StepResult(loss, output)
