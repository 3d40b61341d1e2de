"""Soft targets: what peers are taught, made from what the peers say.

Each maps a :class:`~coterie.outputs.PeerOutput` with logits z (B, m, C), and the labels y (B,) or (B, C), to the logits
of t teachers for each of s students, (B, s, t, C); s is 1 where every student has the same. Nothing is detached here.
"""

from itertools import combinations
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from coterie.errors import UserError
from coterie.functional import label_mean
from coterie.outputs import PeerOutput, at_least_float32, ensemble_of
from coterie.peers.combine import pool


class Targets(nn.Module):
    """Soft targets made from some of the peers.

    Args:
        teachers: Which peers are read.
        students: Who is taught.
        example: An output of the peers, for the sizes of what they give.
    """

    summary: ClassVar[str]
    reads: ClassVar[str] = "logits"  # or "features", or the "ensemble"
    of_others: ClassVar[bool] = False  # whether each student has targets of its own, made from the other peers
    needs_validation: ClassVar[bool] = False

    def __init__(self, teachers: tuple[int, ...], students: tuple[int, ...], example: PeerOutput) -> None:
        super().__init__()
        self.teachers = teachers
        self.students = students

    def read(self, output: PeerOutput) -> Tensor:
        """The logits of the peers that are read, (B, n, C)."""
        return output.logits_of(self.teachers)

    def forward(self, output: PeerOutput, labels: Tensor) -> Tensor:
        """Logits (B, s or 1, t, C)."""
        raise NotImplementedError

    def renew(self, logits: Tensor, labels: Tensor) -> None:
        """After an epoch, learn from the peers' logits (N, m, C) on validation images of these labels (N,)."""


class Ensemble(Targets):
    """The group's own ensemble, as its combiner makes it (ONE, FFL, PCL, OEM)."""

    summary = "the ensemble"
    reads = "ensemble"

    def forward(self, output: PeerOutput, labels: Tensor) -> Tensor:
        """Logits (B, 1, 1, C)."""
        return ensemble_of(output)[:, None, None]


class Mean(Targets):
    """The mean of the peers' logits (OKDDip's leader, FFL's fused classifier)."""

    summary = "the mean of the logits"

    def forward(self, output: PeerOutput, labels: Tensor) -> Tensor:
        """Logits (B, 1, 1, C)."""
        return self.read(output).mean(1)[:, None, None]


class Others(Targets):
    """For each student the mean of the others' logits (CL-ILR)."""

    summary = "the mean of the others' logits"
    of_others = True

    def forward(self, output: PeerOutput, labels: Tensor) -> Tensor:
        """Logits (B, s, 1, C)."""
        means = [output.logits_of([peer for peer in self.teachers if peer != own]).mean(1) for own in self.students]
        return torch.stack(means, 1)[:, :, None]


class Each(Targets):
    """For each student every other peer, each a teacher of its own (DML, PCL)."""

    summary = "each of the others"
    of_others = True

    def forward(self, output: PeerOutput, labels: Tensor) -> Tensor:
        """Logits (B, s, t, C), where each student has t others."""
        others = [output.logits_of([peer for peer in self.teachers if peer != own]) for own in self.students]
        return torch.stack(others, 1)


class Attention(Targets):
    """Each student's own mixture of the peers, by the likeness of their features (OKDDip; Chen et al. 2020).

    t_a = Σ_b α_ab z_b,  α_a· = softmax_b(⟨W_q h_a, W_k h_b⟩), with h (B, D) what each classifier reads and W without
    bias from D to D/8; the student itself is among the peers, and the product is not divided by √D.
    """

    summary = "a mixture by attention"
    reads = "features"

    def __init__(self, teachers: tuple[int, ...], students: tuple[int, ...], example: PeerOutput) -> None:
        super().__init__(teachers, students, example)
        if example.features is None:
            raise UserError("attention reads what the classifiers read, and this network has no last linear layer")
        widths = {pool(feature).shape[1] for feature in example.features}
        if len(widths) > 1:
            raise UserError(f"attention compares features, and these peers' are {sorted(widths)} wide; use equal peers")
        (width,) = widths
        self.query = nn.Linear(width, max(1, width // 8), bias=False)
        self.key = nn.Linear(width, max(1, width // 8), bias=False)

    def forward(self, output: PeerOutput, labels: Tensor) -> Tensor:
        """Logits (B, s, 1, C)."""
        return (self.weights(output) @ self.read(output))[:, :, None]

    def weights(self, output: PeerOutput) -> Tensor:
        """α, (B, s, n), each row summing to 1."""
        assert output.features is not None
        features = [pool(feature).to(self.query.weight.dtype) for feature in output.features]
        with torch.autocast(output.logits.device.type, enabled=False):
            queries = self.query(torch.stack([features[peer] for peer in self.students], 1))
            keys = self.key(torch.stack([features[peer] for peer in self.teachers], 1))
            return at_least_float32(queries @ keys.transpose(1, 2)).softmax(2)


class Best(Targets):
    """For each image the logits of the peer with the lowest cross-entropy on it (KDCL-Naive; Guo et al. 2020)."""

    summary = "the best peer on each image"

    def forward(self, output: PeerOutput, labels: Tensor) -> Tensor:
        """Logits (B, 1, 1, C)."""
        logits = self.read(output)
        best = _losses(logits, labels).argmin(1)
        chosen = logits.gather(1, best[:, None, None].expand(-1, 1, logits.shape[2]))
        return chosen[:, None]


class Linear(Targets):
    """For each image the convex combination of the peers' logits with the lowest cross-entropy (KDCL-Linear).

    The problem is convex. Weight is moved between two peers at a time, each time to where the loss is lowest, found by
    halving an interval by the sign of the slope: one pair is two peers' solution, more are swept several times.

    How far above the optimum that ends (cross-entropy of 128 images of 100 classes, logits from N(0, s²), the true
    class's 2 s higher; against 200 sweeps of 50 halvings): with two peers at most 2e-6 (s = 8); with three at most 3e-7
    (s = 3) and 2e-5 (s = 8); with four 4e-7 and 6e-4, on average 4e-6.
    """

    summary = "the best mixture on each image"

    SWEEPS, HALVINGS = 8, 12

    def forward(self, output: PeerOutput, labels: Tensor) -> Tensor:
        """Logits (B, 1, 1, C)."""
        logits = self.read(output)
        with torch.no_grad():
            weights = self.weights(logits, labels)
        return (weights[:, None] @ logits)[:, None]

    def weights(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The best weights of peers' logits (B, n, C) for each image, (B, n)."""
        count = logits.shape[1]
        losses, best = _losses(logits, labels).min(1)
        alone = functional.one_hot(best, count).to(logits.dtype)
        weights = alone.clone()
        for _ in range(self.SWEEPS if count > 2 else 1):
            for one, other in combinations(range(count), 2):
                self._balance(weights, logits, labels, one, other)
        worse = _losses(weights[:, None] @ logits, labels)[:, 0] > losses
        return torch.where(worse[:, None], alone, weights)

    def _balance(self, weights: Tensor, logits: Tensor, labels: Tensor, one: int, other: int) -> None:
        """Share out what two peers weigh between them, in place, so that the loss is lowest."""
        apart = logits[:, one] - logits[:, other]
        wanted = label_mean(apart, labels)
        both = weights[:, one] + weights[:, other]
        rest = (weights[:, None] @ logits)[:, 0] - weights[:, one, None] * apart
        low, high = torch.zeros_like(both), both.clone()
        for _ in range(self.HALVINGS):
            middle = (low + high) / 2
            falls = ((rest + middle[:, None] * apart).softmax(1) * apart).sum(1) < wanted
            low, high = torch.where(falls, middle, low), torch.where(falls, high, middle)
        # An end that no step has moved is the solution itself: halving would stop short of it.
        share = torch.where(low == 0, low, torch.where(high == both, high, (low + high) / 2))
        weights[:, one], weights[:, other] = share, both - share


class MinLogit(Targets):
    """For each class the lowest margin over the true class that any peer gives it (KDCL-MinLogit).

    z^c = min_i (z_i^c − z_i^y): the true class stands at 0, and no wrong class higher than in any peer. Where labels y
    are distributions, which the paper does not treat, z_i^y is Σ_c y_c z_i^c.
    """

    summary = "the lowest margin of each class"

    def forward(self, output: PeerOutput, labels: Tensor) -> Tensor:
        """Logits (B, 1, 1, C)."""
        logits = self.read(output)
        true = torch.stack([label_mean(peer, labels) for peer in logits.unbind(1)], 1)
        return (logits - true[:, :, None]).amin(1)[:, None, None]


class Validated(Targets):
    """A mixture with the least expected squared error on validation images (KDCL-General; Perrone, Cooper 1993).

    w = Σ⁻¹1 / (1ᵀΣ⁻¹1) with Σ_ij = E[(p_i − y)·(p_j − y)] over the validation images, renewed after every epoch;
    equal weights before the first.
    """

    summary = "a mixture weighed on validation images"
    needs_validation = True

    weights: Tensor

    def __init__(self, teachers: tuple[int, ...], students: tuple[int, ...], example: PeerOutput) -> None:
        super().__init__(teachers, students, example)
        self.register_buffer("weights", torch.full((len(teachers),), 1 / len(teachers)))

    def forward(self, output: PeerOutput, labels: Tensor) -> Tensor:
        """Logits (B, 1, 1, C)."""
        return torch.einsum("n,bnc->bc", self.weights, self.read(output))[:, None, None]

    @torch.no_grad()
    def renew(self, logits: Tensor, labels: Tensor) -> None:
        """Weigh the peers by their answers (N, m, C) to validation images of these labels (N,)."""
        read = logits[:, list(self.teachers)].double()
        errors = read.softmax(2) - functional.one_hot(labels, logits.shape[2])[:, None]
        covariance = torch.einsum("bic,bjc->ij", errors, errors) / len(labels)
        count = len(covariance)
        ridge = 1e-6 * covariance.diagonal().mean() * torch.eye(count, dtype=torch.float64, device=logits.device)
        solved = torch.linalg.solve(covariance + ridge, torch.ones(count, dtype=torch.float64, device=logits.device))
        self.weights.copy_(solved / solved.sum())


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Every peer's cross-entropy on every image: logits (B, n, C) and labels (B,) or (B, C) to (B, n)."""
    spread = (labels[:, None] if labels.dim() == 1 else labels[:, :, None]).expand(
        logits.shape[:2] if labels.dim() == 1 else (-1, -1, logits.shape[1])
    )
    return functional.cross_entropy(logits.transpose(1, 2), spread, reduction="none")


TARGETS: dict[str, type[Targets]] = {
    "ensemble": Ensemble,
    "mean": Mean,
    "others": Others,
    "each": Each,
    "attention": Attention,
    "best": Best,
    "linear": Linear,
    "min-logit": MinLogit,
    "validated": Validated,
}
