"""What a network learns from labels. Shapes: B images, C classes."""

from torch import Tensor
from torch.nn import functional

from coterie.functional.precision import without_autocast
from coterie.outputs import at_least_float32


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of softmax(logits) against the labels, in nats, mean over the batch.

    Args:
        logits: (B, C).
        labels: Class indices (B,).
    """
    with without_autocast(logits):
        return functional.cross_entropy(at_least_float32(logits), labels)
