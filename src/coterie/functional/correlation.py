"""DIST: a student whose probabilities correlate with the teacher's, whatever their scale.

Huang, You, Wang, Qian, Xu, *Knowledge Distillation from a Stronger Teacher* (NeurIPS 2022, arXiv 2205.10536). With P
and Q (B, C) the softened probabilities of student and teacher and ρ Pearson's correlation:

    inter = 1 - 1/B Σ_b ρ(P_b·, Q_b·)               of an image's classes
    intra = 1 - 1/C Σ_c ρ(P_·c, Q_·c)               of a class's images
    DIST  = β inter + γ intra,    β = γ = 1
    ρ(a, b) = ⟨a - ā, b - b̄⟩ / (‖a - ā‖ ‖b - b̄‖ + 1e-8)

Shapes: B images, C classes, s students, t teachers. The images are those of one process.
"""

from torch import Tensor
from torch.linalg import vector_norm
from torch.nn import functional

from coterie.errors import UserError
from coterie.outputs import at_least_float32, without_autocast

_SMALLEST = 1e-8


def correlation_distance(
    students: Tensor,
    teachers: Tensor,
    temperature: float,
    labels: Tensor | None = None,
    inter_weight: float = 1.0,
    intra_weight: float = 1.0,
) -> Tensor:
    """Σ_s mean_t (β inter + γ intra): 0 where student and teacher correlate, up to 4 where they do the opposite.

    Args:
        students: Logits (B, s, C), of two images or more.
        teachers: Logits (B, s, t, C), or (B, 1, t, C) where all students have the same.
        temperature: T > 0.
        labels: Not used.
        inter_weight: β >= 0.
        intra_weight: γ >= 0.

    Returns:
        A scalar, in float32 at least; neither side is detached and it is not multiplied by T².

    Raises:
        UserError: There is one image.
    """
    if len(students) < 2:
        raise UserError("dist correlates the images of a batch, and there is one; use ⟨batch_size 2⟩ or more")
    with without_autocast(students):
        ours = functional.softmax(at_least_float32(students) / temperature, dim=-1).unsqueeze(2)
        theirs = functional.softmax(at_least_float32(teachers) / temperature, dim=-1)
        inter = 1 - _correlation(ours, theirs, 3).mean(0)
        intra = 1 - _correlation(ours, theirs, 0).mean(2)
        return (inter_weight * inter + intra_weight * intra).mean(1).sum()


def _correlation(a: Tensor, b: Tensor, along: int) -> Tensor:
    """Pearson's correlation along a dimension, which is gone in the result."""
    a, b = a - a.mean(along, keepdim=True), b - b.mean(along, keepdim=True)
    return (a * b).sum(along) / (vector_norm(a, dim=along) * vector_norm(b, dim=along) + _SMALLEST)
