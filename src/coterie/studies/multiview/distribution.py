"""The synthetic multi-view distribution: every class has two features, and either is enough to tell it by.

Allen-Zhu, Li, *Towards Understanding Ensemble, Knowledge Distillation and Self-Distillation in Deep Learning* (ICLR
2023, arXiv 2012.09816). A compact instance: its constants are not the paper's, whose theory lets the number of classes
go to infinity, but of the same order among themselves. The paper's own definition and constants are unverified.

Shapes: k classes, d dimensions, P patches, n samples.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from coterie.errors import UserError


def stream(*entropy: int) -> torch.Generator:
    """A random generator for these numbers; others give independent draws, which plain nearby seeds do not promise.

    Args:
        entropy: For example a seed and what the draws are for; each 0 or more. A 0 at the end changes nothing.
    """
    state = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


@dataclass(frozen=True)
class Samples:
    """Samples of the distribution.

    Attributes:
        patches: x (n, P, d).
        labels: y, int64 (n,).
        single: Which samples show one view of their class only, bool (n,).
        strength: z (n, k, 2), of every feature that a sample has, 0 for those that it has not.
    """

    patches: Tensor
    labels: Tensor
    single: Tensor
    strength: Tensor


@dataclass(frozen=True, kw_only=True)
class MultiView:
    """The distribution's parameters.

    A sample of class y has P patches x_p. Both features of y, v_{y,1} and v_{y,2}, and some of the other classes' take
    one patch each, at random places: x_p = z v + noise · ξ_p; all other patches are x_p = background · ξ_p, with
    ξ_p ~ N(0, I/d), of norm about 1. A single-view sample shows one of its class's features, drawn at random, and the
    other ``weak`` times as strongly. After section 2 of the paper (unverified). That the other classes' features are
    stronger in such a sample than the missing view (``off_single`` > ``weak``) is what makes a network err that knows
    the missing view only.

    Attributes:
        classes: k.
        dimension: d, at least 2k: the features are orthonormal.
        patches: P, at least 2.
        main: The range of z, uniform, of the class's own features.
        off: The range of z of the other classes' features in a multi-view sample.
        off_single: Γ, their z in a single-view sample.
        off_count: s, how many of the other classes' 2(k - 1) features a sample has in the mean. Each is there
            independently of the others; where there are more than P - 2, some of them, drawn at random, stay away.
        weak: ρ, the missing view's strength in a single-view sample, as a multiple of ``main``'s.
        noise: The noise's norm on patches with a feature.
        background: The noise's norm on those without.

    Raises:
        UserError: A parameter is out of its range.
    """

    classes: int = 10
    dimension: int = 500
    patches: int = 9
    main: tuple[float, float] = (1.0, 1.4)
    off: tuple[float, float] = (0.35, 0.4)
    off_single: float = 0.3
    off_count: float = 4.0
    weak: float = 0.05
    noise: float = 0.2
    background: float = 2.0

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise UserError(f"multi-view data: classes is {self.classes}; use 2 or more")
        if self.dimension < 2 * self.classes:
            raise UserError(
                f"multi-view data: dimension is {self.dimension}, and two orthonormal features for each of "
                f"{self.classes} classes need {2 * self.classes} or more"
            )
        if self.patches < 2:
            raise UserError(f"multi-view data: patches is {self.patches}; two features of a class need 2 or more")
        for name in ("main", "off"):
            low, high = getattr(self, name)
            if not 0 <= low <= high:
                raise UserError(f"multi-view data: {name} is {low} to {high}; use a range from 0 up, as 1 to 1.4")
        if not 0 <= self.off_count <= 2 * (self.classes - 1):
            raise UserError(
                f"multi-view data: off_count is {self.off_count}; the other classes have {2 * (self.classes - 1)} "
                "features: use 0 to that"
            )
        for name in ("off_single", "weak", "noise", "background"):
            if not getattr(self, name) >= 0:
                raise UserError(f"multi-view data: {name} is {getattr(self, name)}; use 0 or more")

    def features(self, seed: int) -> Tensor:
        """A random orthonormal frame, v (k, 2, d)."""
        gaussian = torch.randn(self.dimension, self.dimension, generator=stream(seed, 0))
        frame = torch.linalg.qr(gaussian).Q
        return frame[: 2 * self.classes].reshape(self.classes, 2, self.dimension)

    def sample(self, features: Tensor, count: int, single: float, generator: torch.Generator) -> Samples:
        """Draw samples.

        Args:
            features: v (k, 2, d), as :meth:`features` gives them.
            count: n.
            single: μ, the share of single-view samples, from 0 to 1.
            generator: Of all draws.
        """
        if not 0 <= single <= 1:
            raise UserError(f"multi-view data: single is {single}; it is the share of single-view samples, 0 to 1")
        if count < 1:
            raise UserError(f"multi-view data: count is {count}; use 1 or more")
        k, patches, rows = self.classes, self.patches, torch.arange(count)
        labels = torch.randint(k, (count,), generator=generator)
        is_single = torch.rand(count, generator=generator) < single
        missing = torch.randint(2, (count,), generator=generator)
        own = _uniform(self.main, (count, 2), generator)
        own[rows[is_single], missing[is_single]] *= self.weak
        off = _uniform(self.off, (count, k, 2), generator)
        strength = torch.where(is_single[:, None, None], torch.full_like(off, self.off_single), off)
        strength[rows, labels] = own

        # Features take patches in the order of their rank: the class's own first, then the others that are there.
        present = torch.rand(count, k, 2, generator=generator) < self.off_count / (2 * (k - 1))
        rank = torch.where(present, torch.rand(count, k, 2, generator=generator), 2.0)
        rank[rows, labels] = -1.0
        rank = rank.flatten(1)
        place = rank.argsort(1).argsort(1)
        shown = (rank < 2) & (place < patches)
        strength = torch.where(shown.view_as(strength), strength, 0.0)

        where = torch.rand(count, patches, generator=generator).argsort(1).gather(1, place.clamp(max=patches - 1))
        at, feature = torch.nonzero(shown, as_tuple=True)
        x = torch.randn(count, patches, self.dimension, generator=generator) / self.dimension**0.5
        scale = torch.full((count, patches, 1), self.background)
        scale[at, where[at, feature]] = self.noise
        x *= scale
        x[at, where[at, feature]] += strength.flatten(1)[at, feature, None] * features.flatten(0, 1)[feature]
        return Samples(x, labels, is_single, strength)


def _uniform(bounds: tuple[float, float], shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    low, high = bounds
    return low + (high - low) * torch.rand(shape, generator=generator)
