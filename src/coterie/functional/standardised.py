"""Standardised logits: the student learns how a teacher ranks and spaces the classes, and not how large its logits are.

Sun, Ren, Li, Wang, Cao, *Logit Standardization in Knowledge Distillation* (CVPR 2024, arXiv 2403.01493). Of an image's
logits z (C,) the z-scores over the classes take their place in the KL:

    Z(z)  = (z - z̄) / sqrt(1/C Σ_c (z_c - z̄)² + 1e-7)
    L     = KL(softmax(Z(q) / T) ‖ softmax(Z(z) / T))

The 1e-7 keeps the gradient finite where all logits are equal. Temperatures are smaller than without, since z-scores are
about 1 (the released code: 2; unverified). Shapes: B images, C classes, s students, t teachers.
"""

from torch import Tensor
from torch.nn import functional

from coterie.functional.soft_targets import divergence
from coterie.outputs import at_least_float32, without_autocast


def standardised_divergence(
    students: Tensor, teachers: Tensor, temperature: float, labels: Tensor | None = None
) -> Tensor:
    """Σ_s mean_t KL(teacher_st ‖ student_s) of the softened z-scores, in nats, mean over the batch.

    Args:
        students: Logits (B, s, C).
        teachers: Logits (B, s, t, C), or (B, 1, t, C) where all students have the same.
        temperature: T > 0.
        labels: Not used.

    Returns:
        A scalar, in float32 at least; neither side is detached and it is not multiplied by T².
    """
    return divergence(standardise(students), standardise(teachers), temperature)


def standardise(logits: Tensor) -> Tensor:
    """The z-scores of logits (…, C) over the classes, in float32 at least."""
    with without_autocast(logits):
        return functional.layer_norm(at_least_float32(logits), logits.shape[-1:], eps=1e-7)
