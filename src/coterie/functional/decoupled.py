"""DKD: the distillation of the true class and that of all others apart.

Zhao, Cui, Song, Qiu, Liang, *Decoupled Knowledge Distillation* (CVPR 2022, arXiv 2203.08679). With p = softmax(z / T)
of the student, q of the teacher, y the true class, and p̂, q̂ the softmax over all classes but y:

    KL(q ‖ p)  = TCKD + (1 - q_y) NCKD
    TCKD       = q_y log(q_y / p_y) + (1 - q_y) log((1 - q_y) / (1 - p_y))
    NCKD       = Σ_{c≠y} q̂_c log(q̂_c / p̂_c)
    DKD        = α TCKD + β NCKD,    α = 1, β = 8

β = 8 is what the released code has for most pairs of CIFAR-100 networks (unverified). Shapes: B images, C classes, s
students, t teachers.
"""

import torch
from torch import Tensor
from torch.nn import functional

from coterie.errors import UserError
from coterie.outputs import at_least_float32, without_autocast


def decoupled_divergence(
    students: Tensor,
    teachers: Tensor,
    temperature: float,
    labels: Tensor,
    true_weight: float = 1.0,
    other_weight: float = 8.0,
) -> Tensor:
    """Σ_s mean_t (α TCKD + β NCKD) of the softened distributions, in nats, mean over the batch.

    Args:
        students: Logits (B, s, C).
        teachers: Logits (B, s, t, C), or (B, 1, t, C) where all students have the same.
        temperature: T > 0.
        labels: The true classes y (B,), int64.
        true_weight: α >= 0.
        other_weight: β >= 0.

    Returns:
        A scalar, in float32 at least; neither side is detached and it is not multiplied by T².

    Raises:
        UserError: The labels are distributions (B, C), or there is one class.
    """
    if labels.dim() != 1:
        raise refuse_soft_labels("dkd")
    if students.shape[-1] < 2:
        raise UserError("dkd tells the true class from the others, and there is one class; use ⟨method.divergence kl⟩")
    with without_autocast(students):
        ours = _decouple(at_least_float32(students) / temperature, labels)
        theirs = _decouple(at_least_float32(teachers) / temperature, labels)
        apart = [
            (q.exp() * (q - p.unsqueeze(2))).sum(3).mean(2).sum(1).mean() for p, q in zip(ours, theirs, strict=True)
        ]
        return true_weight * apart[0] + other_weight * apart[1]


def refuse_soft_labels(name: str) -> UserError:
    """The error for labels (B, C) where a loss of this name needs the true class."""
    return UserError(
        f"{name} needs one true class an image, and labels are smoothed or mixed; use ⟨recipe.cutmix 0⟩, "
        "⟨recipe.mixup 0⟩ and ⟨recipe.label_smoothing 0⟩, or ⟨method.divergence⟩ kl, dist or standardised"
    )


def _decouple(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of (p_y, 1 - p_y) and of p̂: logits (B, …, C) to (B, …, 2) and (B, …, C - 1)."""
    true = labels.view(-1, *[1] * (logits.dim() - 1))
    # The others by their places: a mask of -inf would make NaN of 0 · ∞.
    places = torch.arange(logits.shape[-1] - 1, device=logits.device)
    places = places + (places >= true)
    rest = logits.gather(-1, places.expand(*logits.shape[:-1], -1))
    both = torch.cat([logits.gather(-1, true.expand(*logits.shape[:-1], 1)), rest.logsumexp(-1, keepdim=True)], -1)
    return functional.log_softmax(both, dim=-1), functional.log_softmax(rest, dim=-1)
