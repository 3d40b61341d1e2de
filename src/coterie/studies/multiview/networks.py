"""The network of the multi-view theorems, several of them at once.

Allen-Zhu, Li, *Towards Understanding Ensemble, Knowledge Distillation and Self-Distillation in Deep Learning* (ICLR
2023, arXiv 2012.09816), section 2 (unverified): one layer of filters with a smoothed ReLU whose output weights are
fixed to 1. Its power q > 2 makes filters compete, so that of a class's two features mostly one is learned.

Shapes: K networks, k classes, m filters a class, d dimensions, P patches, n samples.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from coterie.errors import UserError


class Response(NamedTuple):
    """What networks say about samples.

    Attributes:
        logits: F (K, n, k).
        slope: The activation's derivative at every filter's every product, (K, k, m, n, P).
    """

    logits: Tensor
    slope: Tensor


class MultiViewNetworks:
    """K networks F_i(X) = Σ_r Σ_p ReLU~(⟨w_{i,r}, x_p⟩), without biases; the logits are used as they are.

        ReLU~(z) = 0 for z <= 0;    z^q / (q a^{q-1}) for 0 <= z <= a;    z - (1 - 1/q) a for z >= a

    Plain tensors and a gradient written out, as the theory has it: of the whole set, by hand, in parallel. With q = 1
    it is the ReLU.

    Args:
        weight: w (K, k, m, d), which training changes in place.
        power: q, at least 1.
        linear_from: a > 0, from where on the activation is linear (the paper's ρ, said to have two meanings
            there: unverified).

    Raises:
        UserError: The power or the bound is out of its range.
    """

    def __init__(self, weight: Tensor, power: float = 4.0, linear_from: float = 0.5) -> None:
        if power < 1:
            raise UserError(f"multi-view network: power is {power}; use 1 (the ReLU) or more")
        if linear_from <= 0:
            raise UserError(f"multi-view network: linear_from is {linear_from}; use a positive number, for example 0.5")
        self.weight, self.power, self.linear_from = weight, power, linear_from

    def respond(self, patches: Tensor) -> Response:
        """Logits and slopes for samples x (n, P, d)."""
        networks, classes, filters, dimension = self.weight.shape
        products = self.weight.reshape(-1, dimension) @ patches.reshape(-1, dimension).T
        value, slope = activation(products, self.power, self.linear_from)
        value = value.view(networks, classes, filters, *patches.shape[:2])
        return Response(value.sum((2, 4)).transpose(1, 2), slope.view(value.shape))

    def logits(self, patches: Tensor) -> Tensor:
        """F (K, n, k) for samples x (n, P, d)."""
        return self.respond(patches).logits

    def gradient(self, patches: Tensor, slope: Tensor, upstream: Tensor) -> Tensor:
        """The loss's gradient for the filters, (K, k, m, d).

        Args:
            patches: x (n, P, d).
            slope: As :meth:`respond` gives it for them; it is overwritten.
            upstream: The loss's gradient for the logits, (K, n, k).
        """
        slope *= upstream.transpose(1, 2)[:, :, None, :, None]
        return (slope.view(-1, patches.shape[:2].numel()) @ patches.reshape(-1, patches.shape[2])).view_as(self.weight)

    def seen(self, features: Tensor) -> Tensor:
        """How strongly each network sees each feature: max_r ⟨w_{i,r}, v_{i,l}⟩, (K, k, 2).

        Args:
            features: v (k, 2, d).
        """
        return torch.einsum("Kkmd,kld->Kklm", self.weight, features).amax(3)


def make_networks(
    networks: int, classes: int, filters: int, dimension: int, scale: float, generator: torch.Generator
) -> Tensor:
    """First filters w (K, k, m, d) ~ N(0, scale²)."""
    return scale * torch.randn(networks, classes, filters, dimension, generator=generator)


def sum_networks(weight: Tensor) -> Tensor:
    """The filters of the one network that is the sum of these: (K, k, m, d) to (1, k, K m, d)."""
    networks, classes, filters, dimension = weight.shape
    return weight.transpose(0, 1).reshape(1, classes, networks * filters, dimension)


def activation(z: Tensor, power: float, linear_from: float) -> tuple[Tensor, Tensor]:
    """ReLU~(z) and its derivative.

    Args:
        z: Any shape.
        power: q, at least 1.
        linear_from: a.
    """
    part = z.clamp(0, linear_from) / linear_from
    slope = (z > 0).to(z.dtype) if power == 1 else part.pow(power - 1)
    value = part * slope * (linear_from / power) + (z - linear_from).clamp(min=0)
    return value, slope
