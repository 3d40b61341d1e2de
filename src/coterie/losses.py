"""Loss primitives on tensors. All are means over the batch, computed in float32 at least and in log space.

Shapes: B images, C classes.
"""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from coterie.outputs import at_least_float32

if TYPE_CHECKING:
    from coterie.methods.one import one_loss as one

__all__ = ["cross_entropy", "divergence", "kl_divergence", "mean_squared_error", "one", "ramp_up"]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of softmax(logits) against the labels, in nats, mean over the batch.

    Args:
        logits: (B, C).
        labels: Class indices (B,).
    """
    with _no_autocast(logits):
        return functional.cross_entropy(at_least_float32(logits), labels)


def kl_divergence(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher ‖ student) of the softened distributions, in nats: summed over classes, mean over the batch.

    KL = 1/B Σ_b Σ_c p_t log(p_t / p_s), p = softmax(logits / T). Neither side is detached and the result is not
    multiplied by T²; dividing by the classes as well, as ``torch.nn.KLDivLoss`` does by default, would make the
    published temperatures and weights meaningless. (Hinton, Vinyals, Dean 2015, section 2.)

    Args:
        student_logits: (B, C).
        teacher_logits: (B, C).
        temperature: T > 0.
    """
    with _no_autocast(student_logits):
        student = functional.log_softmax(at_least_float32(student_logits) / temperature, dim=-1)
        teacher = functional.log_softmax(at_least_float32(teacher_logits) / temperature, dim=-1)
        return functional.kl_div(student, teacher, reduction="batchmean", log_target=True)


def divergence(students: Tensor, teachers: Tensor, temperature: float = 1.0) -> Tensor:
    """Σ_s mean_t KL(teacher_st ‖ student_s) of the softened distributions, in nats, mean over the batch.

    As :func:`kl_divergence` for many students of many teachers at once.

    Args:
        students: (B, s, C).
        teachers: (B, s, t, C), or (B, 1, t, C) where all students have the same.
        temperature: T > 0.
    """
    with _no_autocast(students):
        student = functional.log_softmax(at_least_float32(students) / temperature, dim=-1).unsqueeze(2)
        teacher = functional.log_softmax(at_least_float32(teachers) / temperature, dim=-1)
        return (teacher.exp() * (teacher - student)).sum(3).mean(2).sum(1).mean()


def mean_squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    """The squared difference of two tensors of one shape, mean over all elements. Neither side is detached.

    Args:
        student: Features of any shape.
        teacher: Of the same shape.
    """
    with _no_autocast(student):
        return functional.mse_loss(at_least_float32(student), at_least_float32(teacher))


def ramp_up(progress: float, length: float) -> float:
    """The sigmoid ramp exp(-5 (1 - t)²), t = min(progress / length, 1), from 0.0067 up to 1.

    (Laine, Aila, *Temporal ensembling for semi-supervised learning*, ICLR 2017; used by ONE's official code over
    80 of 300 epochs.)

    Args:
        progress: Share of the training that is over, in [0, 1].
        length: Share of the training over which the weight rises, in [0, 1]; 0 switches the ramp off (always 1).
    """
    if length <= 0:
        return 1.0
    return math.exp(-5.0 * (1.0 - min(progress / length, 1.0)) ** 2)


def _no_autocast(tensor: Tensor) -> torch.autocast:
    return torch.autocast(tensor.device.type, enabled=False)


def __getattr__(name: str) -> Any:
    # ONE's loss lives with its method, which imports this file: the public name is looked up when it is asked for.
    if name == "one":
        from coterie.methods.one import one_loss

        return one_loss
    raise AttributeError(f"module 'coterie.losses' has no attribute '{name}'")
