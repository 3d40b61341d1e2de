"""Knowledge distillation (Hinton, Vinyals, Dean, *Distilling the Knowledge in a Neural Network*, arXiv 1503.02531).

A student with logits z (B, C) learns from the labels y (B,) and from trained teachers' logits z_i (B, C), i = 1..t, at
temperature T:

    p = 1/t Σ_i softmax(z_i / T)                                                        the soft targets, (B, C)
    L = (1 - α) CE(z, y) + α T² KL(p ‖ softmax(z / T))                                  mean over the batch (section 2)

The cross-entropy is taken at temperature 1. T² keeps the soft targets' share of the gradient the same at any T. The
teachers are frozen. Logits may be averaged instead of probabilities: p = softmax(1/t Σ_i z_i / T). A teacher may itself
be an ensemble (``--method.teacher RUN:ensemble``), which answers by its own rule. KL may give way to another of
``coterie.functional.DIVERGENCES`` (``divergence``).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from coterie.bounds import Share, Temperature
from coterie.functional import check_divergence, cross_entropy, distil
from coterie.methods.base import Edge, Stage, Task, Turn
from coterie.methods.frozen_teacher import Teacher
from coterie.methods.offline import OfflineMethod
from coterie.outputs import Batch, LossTerms, PeerOutput, StepResult
from coterie.peers.combine import Average, average_logits


def kd_loss(
    logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float = 4.0,
    label_weight: float = 0.1,
    soft_weight: float = 0.9,
    average: Average = "probabilities",
    divergence: str = "kl",
) -> LossTerms:
    """The loss of a student that learns from labels and from teachers, by terms.

    Args:
        logits: The student's (B, C).
        teacher_logits: (B, t, C); no gradient reaches them.
        labels: Class indices (B,), or distributions (B, C).
        temperature: T > 0.
        label_weight: Of the cross-entropy: 1 - α. At 0 the term is left out.
        soft_weight: Of T² KL: α.
        average: What of several teachers is averaged.
        divergence: What takes the place of KL, a name of ``coterie.functional.DIVERGENCES``.

    Returns:
        ``cross_entropy`` and ``distillation``.

    Raises:
        UserError: There is no such divergence, or it does not take such labels.
    """
    soft = average_logits(teacher_logits.detach(), average, temperature)
    distillation = soft_weight * temperature**2 * distil(logits, soft, temperature, labels, divergence)
    if label_weight == 0:
        return LossTerms({"distillation": distillation})
    return LossTerms({"cross_entropy": label_weight * cross_entropy(logits, labels), "distillation": distillation})


@dataclass(kw_only=True)
class Kd(OfflineMethod):
    """A student that learns from the softened answers of one or several trained teachers.

    Attributes:
        network: The student: a name, a factory, or a module of yours.
        epochs: Stage name to its own number of epochs; the stages are ``teacher`` (or ``teacher1``, ``teacher2`` and so
            on; none where teachers are given) and ``student``.
        temperature: T of the soft targets.
        alpha: α, the share of the soft targets, from 0 to 1; at 1 the labels are not used.
        average: Of several teachers, the mean of ``probabilities`` or of ``logits``.
        divergence: How far the student is from its teachers, a name of ``coterie.functional.DIVERGENCES``: ``kl``,
            ``dkd``, ``dist`` or ``standardised``.
    """

    name = "kd"
    summary = "a student learns from trained teachers' soft labels (Hinton, Vinyals, Dean 2015)"

    temperature: Temperature = 4.0
    alpha: Share = 0.9
    average: Average = "probabilities"
    divergence: str = "kl"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_divergence(self.divergence)

    def stage_names(self) -> tuple[str, ...]:
        """The teachers', if they are trained first, and ``student``."""
        return (*self.teacher_stage_names(), "student")

    def stages(self, task: Task) -> Iterator[Stage]:
        """The teachers', if they are trained first, and ``student``; it delivers ``target``, the student."""
        teacher = yield from self.teacher_stages(task)
        student = self.build(task)
        settings = self.temperature, 1 - self.alpha, self.alpha, self.average, self.divergence
        step = DistillationStep(student, teacher, *settings)
        turn = Turn(step, tuple(student.parameters()))
        yield Stage("student", [turn], network=student, deliver={"target": student}, teacher=teacher)

    def teaching(self) -> Sequence[Edge]:
        """Every teacher teaches the student."""
        return [Edge(name, "target", f"soft labels, T = {self.temperature:g}") for name in self.teacher_names()]


class DistillationStep(nn.Module):
    """The step of a student that learns from labels and teachers; the arguments are those of :func:`kd_loss`."""

    def __init__(
        self,
        student: nn.Module,
        teacher: Teacher,
        temperature: float,
        label_weight: float,
        soft_weight: float,
        average: Average = "probabilities",
        divergence: str = "kl",
    ) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher
        self.settings = (temperature, label_weight, soft_weight, average, divergence)

    def forward(self, batch: Batch) -> StepResult:
        """A batch to the student's loss and logits."""
        logits = self.student(batch.images)
        loss = kd_loss(logits, self.teacher.answers(batch), batch.labels, *self.settings)
        return StepResult(loss, PeerOutput(logits.unsqueeze(1)))
