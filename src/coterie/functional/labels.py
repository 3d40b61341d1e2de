"""What a network learns from labels. Shapes: B images, C classes."""

from torch import Tensor
from torch.nn import functional

from coterie.outputs import at_least_float32, without_autocast


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of softmax(logits) against the labels, in nats, mean over the batch: -1/B Σ_b log p_b[y_b].

    Args:
        logits: (B, C).
        labels: Class indices y (B,), int64, from 0 to C - 1.

    Returns:
        A scalar, in float32 at least.
    """
    with without_autocast(logits):
        return functional.cross_entropy(at_least_float32(logits), labels)
