"""DIST: a student whose probabilities correlate with the teacher's, whatever their scale.

Huang, You, Wang, Qian, Xu, *Knowledge Distillation from a Stronger Teacher* (NeurIPS 2022, arXiv 2205.10536). With P
and Q (B, C) the softened probabilities of student and teacher and ρ Pearson's correlation:

    inter = 1 - 1/B Σ_b ρ(P_b·, Q_b·)               of an image's classes
    intra = 1 - 1/C Σ_c ρ(P_·c, Q_·c)               of a class's images
    DIST  = β inter + γ intra,    β = γ = 1
    ρ(a, b) = ⟨a - ā, b - b̄⟩ / (‖a - ā‖ ‖b - b̄‖ + 1e-8)

Shapes: B images, C classes, s students, t teachers. Where several processes share a batch, a class's images are those
of all of them: each then calls this as often as the others.
"""

import torch
from torch import Tensor, distributed
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
        inter = 1 - _correlation_of_classes(ours, theirs).mean(0)
        intra = 1 - _correlation_of_images(ours, theirs).mean(2)
        return (inter_weight * inter + intra_weight * intra).mean(1).sum()


def _correlation_of_classes(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation along the last dimension, which is gone in the result."""
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    return (a * b).sum(-1) / (vector_norm(a, dim=-1) * vector_norm(b, dim=-1) + _SMALLEST)


def _correlation_of_images(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation along the first dimension, over all processes; it is gone in the result."""
    count = _of_all_processes(a.new_full((), len(a))).sum(0)
    a, b = (values - _of_all_processes(values.sum(0)).sum(0) / count for values in (a, b))
    norms = [vector_norm(_of_all_processes(vector_norm(values, dim=0)), dim=0) for values in (a, b)]
    return _of_all_processes((a * b).sum(0)).sum(0) / (norms[0] * norms[1] + _SMALLEST)


def _of_all_processes(values: Tensor) -> Tensor:
    """Each process's values (processes, *); gradients flow back to where they came from."""
    shared = distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
    if not shared or not torch.is_grad_enabled():
        return values.unsqueeze(0)
    from torch.distributed.nn.functional import all_gather  # not there in builds of PyTorch without distribution

    return torch.stack(all_gather(values))  # type: ignore[no-untyped-call]
