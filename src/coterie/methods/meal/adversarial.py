"""The steps of a student that learns from teachers beside discriminators (MEAL).

Shapes: B images, d the length of a matched output's vector, t teachers. The equations stand in ``method.py``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from coterie.functional import cross_entropy
from coterie.methods.meal.discriminators import StudentTeacherPair, deception_loss, discriminator_loss, scale_gradient
from coterie.outputs import Batch, LossTerms, PeerOutput, StepResult, at_least_float32, without_autocast
from coterie.peers.combine import average_logits
from coterie.peers.independent import freeze_statistics

Adversarial = Literal["joint", "grl", "alternating", "none"]
Similarity = Literal["ce", "l1", "l2", "l1_soft", "l2_soft"]


def similarity_loss(student: Tensor, teachers: Tensor, kind: Similarity = "ce") -> Tensor:
    """How far a student's vectors are from its teachers'.

    Args:
        student: (B, d).
        teachers: (B, t, d), taken as their mean: of softmax where one is taken. No gradient reaches them.
        kind: ``ce``, cross-entropy of softmax in nats, mean over the batch; ``l1`` and ``l2``, the absolute and squared
            difference, mean over all B · d values; ``l1_soft`` and ``l2_soft``, the same of softmax.
    """
    with without_autocast(student):
        student, teachers = at_least_float32(student), at_least_float32(teachers.detach())
        if kind == "ce":
            return functional.cross_entropy(student, average_logits(teachers).exp())
        distance = functional.l1_loss if kind.startswith("l1") else functional.mse_loss
        if kind.endswith("_soft"):
            return distance(student.softmax(1), average_logits(teachers).exp())
        return distance(student, teachers.mean(1))


@dataclass(frozen=True)
class Objective:
    """What a student is trained for.

    Attributes:
        adversarial: How discriminators and student act on each other.
        similarity: How vectors are compared.
        weights: γ of each matched output, the logits' last.
        adversarial_weight: β.
        label_weight: Of the labels' cross-entropy; at 0 they are not used.
    """

    adversarial: Adversarial = "joint"
    similarity: Similarity = "ce"
    weights: Sequence[float] = (1.0,)
    adversarial_weight: float = 1.0
    label_weight: float = 0.0


class ImitationStep(nn.Module):
    """The student's step; the discriminators' too, unless these have a turn of their own before it.

    Args:
        pair: Student and teachers.
        discriminators: One for each matched output, or none.
        objective: What for.
    """

    def __init__(self, pair: StudentTeacherPair, discriminators: nn.ModuleList, objective: Objective) -> None:
        super().__init__()
        self.pair, self.discriminators, self.objective = pair, discriminators, objective
        # The discriminators' turn leaves the teachers' vectors of each part of the batch here: the student's turn on
        # the same images must learn from the teacher that was drawn for them.
        self.taught: dict[int, tuple[Tensor, ...]] = {}

    def forward(self, batch: Batch) -> StepResult:
        """A batch's loss, ``similarity`` and what else there is, and the student's logits."""
        objective = self.objective
        taught = self.taught.pop(batch.part, None) or self.pair.teacher_vectors(batch)
        student = self.pair.student_vectors(batch)
        pairs = zip(objective.weights, student, taught, strict=True)
        terms = {"similarity": _sum([γ * similarity_loss(s, t, objective.similarity) for γ, s, t in pairs])}
        if objective.adversarial == "alternating":
            asked = zip(self.discriminators, student, strict=True)
            terms["adversarial"] = objective.adversarial_weight * _sum([deception_loss(d, s) for d, s in asked])
        elif objective.adversarial != "none":
            sign = -1 if objective.adversarial == "grl" else 1
            given = [scale_gradient(s, sign * objective.adversarial_weight) for s in student]
            terms["discriminator"] = self.discriminator_loss(given, taught)
        if objective.label_weight:
            terms["cross_entropy"] = objective.label_weight * cross_entropy(student[-1], batch.labels)
        return StepResult(LossTerms(terms), PeerOutput(student[-1].unsqueeze(1)))

    def discriminator_loss(self, student: Sequence[Tensor], teachers: Sequence[Tensor]) -> Tensor:
        """The discriminators' loss on student's (B, d_j) and teachers' (B, t, d_j) vectors, summed over outputs."""
        asked = zip(self.discriminators, student, teachers, strict=True)
        return _sum([discriminator_loss(d, s, t.mean(1)) for d, s, t in asked])


class DiscriminatorStep(nn.Module):
    """The discriminators' turn before the student's: what they look at is held fixed.

    Args:
        step: The student's step of the same batch, which learns from the same teacher.
    """

    def __init__(self, step: ImitationStep) -> None:
        super().__init__()
        self.step = step

    def forward(self, batch: Batch) -> StepResult:
        """A batch's loss, ``discriminator``, and the student's logits."""
        pair = self.step.pair
        with torch.no_grad(), freeze_statistics(pair.student):  # batch norm counts a batch once, in the student's turn
            student = pair.student_vectors(batch)
        taught = self.step.taught[batch.part] = pair.teacher_vectors(batch)
        loss = self.step.discriminator_loss(student, taught)
        return StepResult(LossTerms({"discriminator": loss}), PeerOutput(student[-1].unsqueeze(1)))


def _sum(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).sum()
