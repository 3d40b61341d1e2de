"""Sparse codes of feature maps by learned dictionaries, and the labels that they give (SRM; Tran et al. 2021).

Shapes: B images, C channels, M atoms, H x W places. Vectors (B, C) are maps of one place. All is computed in float32 at
least.
"""

from dataclasses import dataclass
from math import log
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from coterie.outputs import at_least_float32, without_autocast

PixelLogits = Literal["raw", "sigmoid"]


@dataclass(frozen=True)
class Codes:
    """A batch's sparse codes, and what follows from them.

    Attributes:
        products: z (B, M, H, W), how much each place is like each atom, before the sigmoid.
        codes: ψ (B, M, H, W), in [0, 1].
        dictionary: D (C, M).
    """

    products: Tensor
    codes: Tensor
    dictionary: Tensor

    @property
    def reconstruction(self) -> Tensor:
        """D ψ, by the dictionary that made the codes: (B, C, H, W)."""
        with without_autocast(self.codes):
            return functional.conv2d(self.codes, self.dictionary[:, :, None, None])

    @property
    def pixel_labels(self) -> Tensor:
        """Each place's strongest atom, int64 (B, H, W); found before the sigmoid, which may saturate and tie them."""
        return self.products.argmax(1)

    @property
    def image_labels(self) -> Tensor:
        """Each atom's mean code over the places, (B, M)."""
        return self.codes.mean((2, 3))


class _Similarity(nn.Module):
    """How much each place is like each atom, before the sigmoid: z_m = d_mᵀ t + c.

    The dictionary D (C, M) starts Kaiming-uniform over its M columns, U(±√(6/M)); the one bias c from U(-1, 1).
    """

    def __init__(self, channels: int, atoms: int) -> None:
        super().__init__()
        self.dictionary = nn.Parameter(torch.empty(channels, atoms))
        self.bias = nn.Parameter(torch.empty(()))
        nn.init.kaiming_uniform_(self.dictionary)
        nn.init.uniform_(self.bias, -1, 1)

    def products(self, features: Tensor) -> Tensor:
        """Features (B, C, H, W) or (B, C) to z (B, M, H, W)."""
        maps = features if features.dim() == 4 else features[:, :, None, None]
        with without_autocast(features):
            kernel = self.dictionary.t()[:, :, None, None]
            return functional.conv2d(at_least_float32(maps), kernel) + self.bias


class SparseCoding(_Similarity):
    """A teacher's features as sums of few atoms: ψ (B, M, H, W), the k largest of κ = sigmoid(d_mᵀ t + c), else 0.

    Codes that tie with the k-th largest are kept too. Which are kept carries no gradient; those that are do.

    Args:
        channels: C.
        atoms: M.
        kept: k, from 1 to M.
    """

    def __init__(self, channels: int, atoms: int, kept: int) -> None:
        super().__init__(channels, atoms)
        self.kept = kept

    def forward(self, features: Tensor) -> Codes:
        """Features (B, C, H, W) or (B, C) to codes."""
        products = self.products(features)
        similar = products.sigmoid()
        threshold = similar.detach().topk(self.kept, dim=1).values[:, -1:]
        return Codes(products, similar * (similar >= threshold), self.dictionary)


class SparseHead(_Similarity):
    """A student's prediction of its teacher's codes: dense, by a dictionary of its own.

    Args:
        channels: The student's C.
        atoms: M, the teacher's.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, H, W) or (B, C) to z (B, M, H, W), before the sigmoid."""
        return self.products(features)


def reconstruction_loss(features: Tensor, reconstruction: Tensor) -> Tensor:
    """The mean squared error over all elements of features (B, C, H, W) or (B, C)."""
    features = at_least_float32(features)
    return functional.mse_loss(reconstruction.view_as(features), features)


def pixel_loss(products: Tensor, labels: Tensor, logits: PixelLogits = "raw") -> Tensor:
    """Cross-entropy of a student's predictions against the strongest atoms, in nats, mean over images and places.

    Args:
        products: z (B, M, H, W).
        labels: (B, H, W).
        logits: The softmax is of ``raw`` z; or, as in the official code, of sigmoid(z), which lies between 0 and 1, so
            that the loss does not fall below ln((M - 1 + e) / e).
    """
    with without_autocast(products):
        scores = products.sigmoid() if logits == "sigmoid" else products
        # On CUDA the mean that it takes itself is summed in another order every time.
        return functional.cross_entropy(scores, labels, reduction="none").mean()


def image_loss(products: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of the mean of sigmoid(z) over the places against mean codes, in nats, mean over B and M.

    Args:
        products: z (B, M, H, W).
        labels: (B, M), in [0, 1].
    """
    with without_autocast(products):
        places = log(products.shape[2] * products.shape[3])
        true = functional.logsigmoid(products).logsumexp((2, 3)) - places
        false = functional.logsigmoid(-products).logsumexp((2, 3)) - places
        return -(labels * true + (1 - labels) * false).mean()


def count_atoms(channels: int, mu: float) -> int:
    """How many atoms M = ⌊C μ⌋ code C channels."""
    return int(channels * mu)


def count_kept_codes(channels: int, mu: float, lam: float) -> int:
    """How many of them a place keeps, k = max(1, ⌊C λ μ⌋)."""
    return max(1, int(channels * (lam * mu)))


def pool_to(features: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (B, C, H, W) averaged down to (B, C, *size); maps of that size, and vectors, as they are."""
    if features.dim() != 4 or tuple(features.shape[2:]) == size:
        return features
    return functional.adaptive_avg_pool2d(features, size)
