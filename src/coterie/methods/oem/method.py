"""OEM: Online Ensemble Model Compression using Knowledge Distillation (Walawalkar, Shen, Savvides, ECCV 2020).

arXiv 2011.07449. S students of one network share its base at full width; above it student i = 1..S keeps the share
(S - i + 1) / S of the channels, at the same depth. Student 1, the network itself, is the pseudo teacher. With logits
z_i (B, C), labels y (B,), block outputs x_ib (B, c_ib, H_b, W_b), b = 1..3, and adapters A_ib, 1x1 convolutions from
c_ib to c_1b channels:

    z_e = 1/S Σ_i z_i                                                         the ensemble teacher, (B, C)
    L   = α Σ_i CE(z_i, y)                                                    equation 2
        + β Σ_b Σ_{i>1} MSE(A_ib x_ib, x_1b)                                  equations 3 and 4
        + γ Σ_i KL(softmax(z_e / T) ‖ softmax(z_i / T))                       equations 5 and 6

Cross-entropy and KL are means over the batch, MSE over all elements, as in the official code; the sums are plain. The
ensemble and the pseudo teacher's block outputs are detached: the second term moves slimmer students and adapters, and
the base as ``base_gradient`` says. There is no gate, and no cross-entropy of the ensemble. Any student is deployed
alone (base and its own tail), or all as the ensemble.

Networks start as they do in coterie, and not as in the official code: CIFAR networks from N(0, 2 / (k² C_out)) with
PyTorch's linear layers (official code: Xavier, of convolutions and linear layers alike), timm's from their own
initialisation, of which slimmer students keep a share of the channels, each weighted more (official code: new layers by
Kaiming's rule, fan out).

Not ported from the official code: students that ``train()`` and ``eval()`` do not reach, adapters that are made in the
first step and trained from the second epoch on by another optimiser at half the rate, an inverted flag for the gradient
into the base, the best epoch chosen on test data.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor, nn

from coterie.bounds import Bounds, NonNegative, PositiveInt, Temperature
from coterie.errors import UserError
from coterie.functional import check_divergence, cross_entropy, distil, mean_squared_error
from coterie.methods.base import Edge, Method, Stage, Task, Turn
from coterie.methods.oem.slimmable import Adapters, BaseGradient, Maps, SlimmableEnsemble, make_slimmable_ensemble
from coterie.methods.vanilla import make_plain_stage
from coterie.networks.zoo import Backbone
from coterie.outputs import Batch, LossTerms, PeerOutput, StepResult


def oem_loss(output: PeerOutput, labels: Tensor, adapted: Sequence[Maps], options: "Oem | None" = None) -> LossTerms:
    """OEM's loss (equation 7), by terms.

    Args:
        output: Logits (B, S, C), their mean, the ensemble (B, C), and the outputs of blocks; the pseudo teacher's are
            the first, (B, c, H, W) each.
        labels: Class indices (B,), or distributions (B, C).
        adapted: For each student 2..S its blocks' outputs behind the adapters, of the pseudo teacher's shapes.
        options: The weights and the temperature; None for the paper's.

    Returns:
        ``cross_entropy``, ``intermediate`` and ``distillation``, each with its weight.
    """
    method = options or Oem()
    assert output.ensemble is not None
    assert output.blocks is not None
    students, teacher, wide = output.logits.unbind(1), output.ensemble.detach(), output.blocks[0]
    errors = [mean_squared_error(o, w.detach()) for own in adapted for o, w in zip(own, wide, strict=True)]
    apart = [distil(logits, teacher, method.temperature, labels, method.divergence) for logits in students]
    scale = method.temperature**2 if method.temperature_squared else 1.0
    return LossTerms(
        {
            "cross_entropy": method.alpha * torch.stack([cross_entropy(logits, labels) for logits in students]).sum(),
            "intermediate": method.beta * torch.stack(errors).sum(),
            "distillation": method.gamma * scale * torch.stack(apart).sum(),
        }
    )


@dataclass(kw_only=True)
class Oem(Method):
    """Train a network and slimmer ones over its base in one run, each to be deployed.

    Attributes:
        network: The backbone: a name, a factory, or a module of yours.
        epochs: Stage name to its own number of epochs; the one stage is ``train``.
        num_students: S, the network itself among them (paper: 5).
        at: The module with which the students part; None for the end of the stem (CIFAR networks) or of the first of
            four parts of about equal FLOPs (paper: "four blocks of roughly equal depth").
        alpha: Weight of the cross-entropies (paper: 0.7).
        beta: Weight of the block outputs' errors (paper: 0.15).
        gamma: Weight of the distillation (paper: 0.15).
        temperature: T of the soft targets (paper: 2).
        divergence: How far every student is from the ensemble, a name of ``coterie.functional.DIVERGENCES``: ``kl``,
            ``dkd``, ``dist`` or ``standardised``.
        temperature_squared: True multiplies the distillation by T² (official code; not in the paper's equation 6).
        base_gradient: ``all`` lets every student's gradient reach the base (the official ResNet code's default);
            ``pseudo-teacher`` only that of student 1 (the official DenseNet code's).
        alone: Train only student number ``alone``, with cross-entropy: the paper's baseline for it. None trains all.
    """

    name = "oem"
    summary = "a network and slimmer ones over one base, all deployable (Walawalkar, Shen, Savvides 2020)"

    num_students: Annotated[int, Bounds(least=2, most=1000)] = 5
    at: str | None = None
    alpha: NonNegative = 0.7
    beta: NonNegative = 0.15
    gamma: NonNegative = 0.15
    temperature: Temperature = 2.0
    temperature_squared: bool = False
    divergence: str = "kl"
    base_gradient: BaseGradient = "all"
    alone: PositiveInt | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_divergence(self.divergence)
        if self.alone is not None and self.alone > self.num_students:
            raise UserError(f"⟨method.alone⟩ is {self.alone}; students count from 1 to {self.num_students}")

    def stages(self, task: Task) -> Iterator[Stage]:
        """One stage, ``train``; it delivers ``target`` (student 1), ``student2`` to ``studentS``, and ``ensemble``."""
        network, size = Backbone.of(self.network), (task.num_classes, task.channels, task.image_size)
        example = torch.zeros(2, task.channels, *task.image_size)
        factory = None if isinstance(network.source, nn.Module) else lambda: network.build_fresh(*size)
        net = make_slimmable_ensemble(
            self.build(task), self.num_students, self.at, example, base_gradient=self.base_gradient, factory=factory
        )
        if self.alone is not None:
            student, name = net.students[self.alone - 1], f"{self._names[self.alone - 1]}-alone"
            yield replace(make_plain_stage("train", student), peers=(name,), deliver={name: student})
            return
        step = _Step(net, Adapters(net, example), self)
        deliver = dict(zip(self._names, net.students, strict=True)) | {"ensemble": net}
        yield Stage("train", [Turn(step, tuple(step.parameters()))], network=net, peers=self._names, deliver=deliver)

    @property
    def _names(self) -> tuple[str, ...]:
        return ("target", *(f"student{number}" for number in range(2, self.num_students + 1)))

    def teaching(self) -> Sequence[Edge]:
        """The mean teaches every student; the pseudo teacher's block outputs teach the slimmer ones."""
        if self.alone is not None:
            return ()
        averaged = [Edge(name, "ensemble", "mean", teaches=False) for name in self._names]
        taught = [Edge("ensemble", name, f"T = {self.temperature:g}") for name in self._names]
        return [*averaged, *taught, *(Edge("target", name, "block outputs") for name in self._names[1:])]


class _Step(nn.Module):
    def __init__(self, net: SlimmableEnsemble, adapters: Adapters, method: Oem) -> None:
        super().__init__()
        self.net, self.adapters, self.method = net, adapters, method

    def forward(self, batch: Batch) -> StepResult:
        output = self.net(batch.images)
        return StepResult(oem_loss(output, batch.labels, self.adapters(output.blocks[1:]), self.method), output)
