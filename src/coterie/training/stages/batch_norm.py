"""Batch norm over the images of all processes, as if one had them: no module is changed or replaced."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


@contextmanager
def sync_batch_norm() -> Iterator[None]:
    """Within the block, batch norms in training take mean and variance over all processes' images.

    The function is replaced that modules call, so that it is also found where a block is computed again in a backward.
    PyTorch's own SyncBatchNorm computes on CUDA alone, and takes the place of a network's modules.
    """
    plain = functional.batch_norm

    def batch_norm(
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if training:
            return _normalise(input, running_mean, running_var, weight, bias, momentum, eps)
        return plain(input, running_mean, running_var, weight, bias, training, momentum, eps)

    functional.batch_norm = batch_norm
    try:
        yield
    finally:
        functional.batch_norm = plain


class _Sum(torch.autograd.Function):
    """A sum over all processes; so are its gradients, each of which is of one process's loss."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        values = values.clone()
        torch.distributed.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        torch.distributed.all_reduce(total)
        return total


def _normalise(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: float,
    eps: float,
) -> Tensor:
    """What ``functional.batch_norm`` gives in training (B, C, ...), of B images in all processes together."""
    wide = x if x.dtype == torch.float64 else x.float()
    others, shape = [axis for axis in range(x.dim()) if axis != 1], [1, -1, *[1] * (x.dim() - 2)]
    count = x.new_full((1,), x.numel() / x.shape[1], dtype=wide.dtype)
    sums = _Sum.apply(torch.cat([wide.sum(others), count]))
    mean, total = sums[:-1] / sums[-1], sums[-1].detach()
    centred = wide - mean.view(shape)
    var = _Sum.apply(centred.square().sum(others)) / total
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((var * total / (total - 1)).to(running_var.dtype), momentum)
    y = centred * (var + eps).rsqrt().view(shape)
    y = y if weight is None else y * weight.view(shape)
    return (y if bias is None else y + bias.view(shape)).to(x.dtype)
