"""What a network learns from labels. Shapes: B images, C classes.

Labels are class indices (B,), int64, or distributions (B, C) where they are smoothed or mixed.
"""

from torch import Tensor
from torch.nn import functional

from coterie.outputs import at_least_float32, without_autocast


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of softmax(logits) against the labels, in nats, mean over the batch: -1/B Σ_b Σ_c y_bc log p_bc.

    Args:
        logits: (B, C).
        labels: Class indices (B,), int64, from 0 to C - 1: y is 1 there; or distributions y (B, C).

    Returns:
        A scalar, in float32 at least.
    """
    with without_autocast(logits):
        return functional.cross_entropy(at_least_float32(logits), labels)


def label_mean(values: Tensor, labels: Tensor) -> Tensor:
    """What each image's labels say of a value per class: Σ_c y_bc v_bc / Σ_c y_bc, (B,); v_b[y_b] for indices.

    Args:
        values: v (B, C).
        labels: (B,) or (B, C).
    """
    if labels.dim() == 1:
        return values.gather(1, labels[:, None])[:, 0]
    return (values * labels).sum(1) / labels.sum(1)


def heaviest_labels(labels: Tensor) -> Tensor:
    """The class (B,) that weighs most in each image's label, the first of equals; indices as they are."""
    return labels if labels.dim() == 1 else labels.argmax(1)
