"""How far apart two networks' features are, wherever in the networks they were computed."""

from torch import Tensor
from torch.nn import functional

from coterie.outputs import at_least_float32, without_autocast


def mean_squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    """The squared difference of two tensors, mean over all elements. Neither side is detached.

    1/N Σ_n (a_n - b_n)². (Hints: Romero et al., *FitNets*, ICLR 2015, equation 3, without its factor 1/2.)

    Args:
        student: Features a of any shape, for example (B, D, H, W).
        teacher: Features b of the same shape.

    Returns:
        A scalar, in float32 at least.
    """
    with without_autocast(student):
        return functional.mse_loss(at_least_float32(student), at_least_float32(teacher))
