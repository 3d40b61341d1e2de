"""How far students are from what they are taught, by name: one table for every method that distils.

Shapes: B images, C classes, s students, t teachers.
"""

from collections.abc import Callable

from torch import Tensor

from coterie.errors import unknown_name
from coterie.functional.correlation import correlation_distance
from coterie.functional.decoupled import decoupled_divergence, refuse_soft_labels
from coterie.functional.soft_targets import divergence, kl_divergence
from coterie.functional.standardised import standardised_divergence

Divergence = Callable[[Tensor, Tensor, float, Tensor], Tensor]

# Students (B, s, C), teachers (B, s, t, C) or (B, 1, t, C), T, and the labels (B,) or (B, C) to Σ_s mean_t, mean over
# the batch. A name added here is a ``--method.divergence`` of every method that distils.
DIVERGENCES: dict[str, Divergence] = {
    "kl": divergence,
    "dkd": decoupled_divergence,
    "dist": correlation_distance,
    "standardised": standardised_divergence,
}

# Those of them that ask for one true class an image, and refuse labels that are distributions.
OF_ONE_CLASS = {"dkd"}


def distil(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, labels: Tensor, name: str = "kl"
) -> Tensor:
    """How far one student is from one teacher, mean over the batch.

    Args:
        student_logits: (B, C).
        teacher_logits: (B, C).
        temperature: T > 0.
        labels: Class indices (B,), or distributions (B, C).
        name: Of ``coterie.functional.DIVERGENCES``.

    Returns:
        A scalar, in float32 at least; neither side is detached and it is not multiplied by T².

    Raises:
        UserError: There is no such name, or the loss does not take such labels or so few images.
    """
    check_divergence(name)
    if name == "kl":
        return kl_divergence(student_logits, teacher_logits, temperature)
    return DIVERGENCES[name](student_logits[:, None], teacher_logits[:, None, None], temperature, labels)


def check_divergence(name: str, kind: str = "divergence") -> None:
    """Refuse a name that is not in the table.

    Args:
        name: What the user wrote.
        kind: What it should have named.

    Raises:
        UserError: Names the nearest.
    """
    if name not in DIVERGENCES:
        raise unknown_name(kind, name, DIVERGENCES)


def check_soft_labels(name: str) -> None:
    """Refuse a loss that cannot have smoothed or mixed labels, before anything is trained.

    Raises:
        UserError: It needs one true class an image.
    """
    if name in OF_ONE_CLASS:
        raise refuse_soft_labels(name)
