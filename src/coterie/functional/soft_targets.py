"""What a network learns from other networks' logits, and how the weight of that rises during training.

Shapes: B images, C classes, s students, t teachers.
"""

import math
from typing import overload

import torch
from torch import Tensor
from torch.nn import functional

from coterie.outputs import at_least_float32, without_autocast


def kl_divergence(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher ‖ student) of the softened distributions, in nats: summed over classes, mean over the batch.

    KL = 1/B Σ_b Σ_c p_t log(p_t / p_s), p = softmax(logits / T). Neither side is detached and the result is not
    multiplied by T²; dividing by the classes as well, as ``torch.nn.KLDivLoss`` does by default, would make the
    published temperatures and weights meaningless. (Hinton, Vinyals, Dean 2015, section 2.)

    Args:
        student_logits: (B, C).
        teacher_logits: (B, C).
        temperature: T > 0.

    Returns:
        A scalar, in float32 at least.
    """
    with without_autocast(student_logits):
        student = functional.log_softmax(at_least_float32(student_logits) / temperature, dim=-1)
        teacher = functional.log_softmax(at_least_float32(teacher_logits) / temperature, dim=-1)
        return functional.kl_div(student, teacher, reduction="batchmean", log_target=True)


def divergence(students: Tensor, teachers: Tensor, temperature: float = 1.0, labels: Tensor | None = None) -> Tensor:
    """Σ_s mean_t KL(teacher_st ‖ student_s) of the softened distributions, in nats, mean over the batch.

    As :func:`kl_divergence` for many students of many teachers at once.

    Args:
        students: Logits (B, s, C).
        teachers: Logits (B, s, t, C), or (B, 1, t, C) where all students have the same.
        temperature: T > 0.
        labels: Not used.

    Returns:
        A scalar, in float32 at least; neither side is detached and it is not multiplied by T².
    """
    with without_autocast(students):
        student = functional.log_softmax(at_least_float32(students) / temperature, dim=-1).unsqueeze(2)
        teacher = functional.log_softmax(at_least_float32(teachers) / temperature, dim=-1)
        return (teacher.exp() * (teacher - student)).sum(3).mean(2).sum(1).mean()


@overload
def ramp_up(progress: float, length: float) -> float: ...
@overload
def ramp_up(progress: float | Tensor, length: float) -> float | Tensor: ...
def ramp_up(progress: float | Tensor, length: float) -> float | Tensor:
    """The sigmoid ramp exp(-5 (1 - t)²), t = min(progress / length, 1), from 0.0067 up to 1.

    (Laine, Aila, *Temporal ensembling for semi-supervised learning*, ICLR 2017; used by ONE's official code over
    80 of 300 epochs.)

    Args:
        progress: Share of the training that is over, in [0, 1]; a scalar tensor gives one.
        length: Share of the training over which the weight rises, in [0, 1]; 0 switches the ramp off (always 1).
    """
    if length <= 0:
        return 1.0
    if isinstance(progress, Tensor):
        return torch.exp(-5.0 * (1.0 - (progress / length).clamp(max=1.0)) ** 2)
    return math.exp(-5.0 * (1.0 - min(progress / length, 1.0)) ** 2)
