"""How far apart two networks' features are."""

from torch import Tensor
from torch.nn import functional

from coterie.functional.precision import without_autocast
from coterie.outputs import at_least_float32


def mean_squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    """The squared difference of two tensors of one shape, mean over all elements. Neither side is detached.

    Args:
        student: Features of any shape.
        teacher: Of the same shape.
    """
    with without_autocast(student):
        return functional.mse_loss(at_least_float32(student), at_least_float32(teacher))
