"""The controls: fixed features, which an ensemble helps too, but which learn nothing from soft labels.

Allen-Zhu, Li (2023), section 1: for random features and the neural tangent kernel an average of predictions does as
well, training it as one does as well or better, and distillation fails, since all that a model lacks is in features
that it cannot learn.

Shapes: k classes, n samples, N of them for training, c = k kernels, one a class, or c = 1 for all.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from coterie.errors import UserError
from coterie.studies.multiview.distribution import MultiView, stream
from coterie.studies.multiview.instance import Instance, Problem, Results, gain
from coterie.studies.multiview.networks import MultiViewNetworks
from coterie.studies.multiview.options import read_options

Kernels = dict[str, Tensor]  # by split, (c, n, N)


@dataclass(frozen=True, kw_only=True)
class Fixed(Instance):
    """Sizes of the experiments.

    Attributes:
        members: K.
        students: How many learn from the ensemble, and from labels as their control.
        ridge: λ > 0.
    """

    data: MultiView = field(default_factory=lambda: MultiView(background=1.0))
    test_multi: int = 500
    members: int = 10
    students: int = 5
    ridge: float = 1e-2

    def __post_init__(self) -> None:
        if self.members < 2 or self.students < 1 or self.ridge <= 0:
            raise UserError(
                f"multi-view kernels: {self.members} members, {self.students} students and a ridge of {self.ridge}; "
                "use 2 members or more, a student or more, and a positive ridge"
            )


@dataclass(frozen=True, kw_only=True)
class RandomFeatures(Fixed):
    """Sizes of the random features.

    Attributes:
        features: How many; away from N, where single models err most.
        spread: Standard deviation of the random directions' products with a vector of norm 1, times √d.
    """

    features: int = 400
    spread: float = 3.0


@dataclass(frozen=True, kw_only=True)
class TangentKernel(Fixed):
    """Sizes of the tangent kernel.

    Attributes:
        ridge: λ, as a multiple of the kernel's mean diagonal.
        power: q, of the activation; 1 is the ReLU, 4 the theorems' network.
    """

    ridge: float = 1e-3
    power: float = 1.0


def run_random_features(options: Mapping[str, Any], seed: int) -> Results:
    """Ridge regression on φ(X) = Σ_p ReLU(R x_p) with random R, of onehot(y) - 1/k.

    Parts: ``single``, ``ensemble`` (the mean of the predictions), ``joint`` (one regression on all members' features);
    with fresh features, ``labels``, and ``kd``, which regresses on the ensemble's predictions instead.

    Args:
        options: Of :class:`RandomFeatures`, by name.
        seed: From 0 up.

    Returns:
        For each part ``single_view_error``, ``multi_view_error``, ``train_error``, ``gain`` and ``kept_gain``.
    """
    size = read_options(RandomFeatures, options, "multiview-random-features")
    problem = Problem(size, seed)

    def kernels(index: int) -> Kernels:
        draw = torch.randn(size.features, size.data.dimension, generator=stream(problem.seed, 4, index))
        directions = draw * size.spread / size.data.dimension**0.5
        features = {
            name: (samples.patches @ directions.T).relu().sum(1)[None] for name, samples in problem.splits().items()
        }
        return _products(features)

    return _compare(problem, size, kernels)


def run_tangent_kernel(options: Mapping[str, Any], seed: int) -> Results:
    """The theorems' network, linear in its filters about their first values: regression with its tangent kernel.

    The kernel of class i is Σ_r ⟨φ_r(X), φ_r(X')⟩, φ_r(X) = Σ_p ReLU~'(⟨w_{i,r}, x_p⟩) x_p. What the network says
    before training is left out.

    Parts and metrics: as of :func:`run_random_features`.

    Args:
        options: Of :class:`TangentKernel`, by name.
        seed: From 0 up.
    """
    size = read_options(TangentKernel, options, "multiview-tangent-kernel")
    problem = Problem(size, seed)

    def kernels(index: int) -> Kernels:
        networks = problem.networks(1, 4, index)
        products = _products(
            {name: compute_tangents(networks, each.patches) for name, each in problem.splits().items()}
        )
        diagonal = products["train"].diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
        return {name: kernel / diagonal for name, kernel in products.items()}

    return _compare(problem, size, kernels)


def compute_tangents(networks: MultiViewNetworks, patches: Tensor) -> Tensor:
    """The derivative of each class's logit for its filters, (k, n, m d).

    Args:
        networks: One.
        patches: x (n, P, d).
    """
    slope = networks.respond(patches).slope[0]
    return torch.einsum("kmnp,npd->knmd", slope, patches).flatten(2)


def _products(features: dict[str, Tensor]) -> Kernels:
    """The kernels of features (c, n, f)."""
    train = features["train"].double().transpose(1, 2)
    return {name: each.double() @ train for name, each in features.items()}


def _regress(kernels: Kernels, target: Tensor, ridge: float) -> dict[str, Tensor]:
    """What ridge regression on a target (N, k) says of each split, (n, k)."""
    train = kernels["train"]
    shape = (target.shape[1], *train.shape[1:])
    system = (train + ridge * torch.eye(len(target), dtype=train.dtype)).expand(shape)
    weights = torch.linalg.solve(system, target.T[:, :, None])
    return {name: (kernel.expand(len(weights), -1, -1) @ weights)[:, :, 0].T for name, kernel in kernels.items()}


def _compare(problem: Problem, size: Fixed, kernels: Callable[[int], Kernels]) -> Results:
    k = size.data.classes
    target = functional.one_hot(problem.train.labels, k).double() - 1 / k
    predictions = []
    total: Kernels = {}
    for index in range(size.members):
        own = kernels(index)
        predictions.append(_regress(own, target, size.ridge))
        total = {name: total.get(name, 0) + kernel / size.members for name, kernel in own.items()}
    ensemble = {name: torch.stack([prediction[name] for prediction in predictions]).mean(0) for name in total}
    parts = {
        "single": _stack(predictions),
        "ensemble": ensemble,
        "joint": _regress(total, target, size.ridge),
    }
    students = [kernels(size.members + index) for index in range(size.students)]
    for name, taught in (("labels", target), ("kd", ensemble["train"])):
        parts[name] = _stack([_regress(student, taught, size.ridge) for student in students])
    errors = {name: problem.errors(logits) for name, logits in parts.items()}
    return {
        name: gain(metrics, errors["labels" if name == "kd" else "single"], errors["ensemble"])
        for name, metrics in errors.items()
    }


def _stack(predictions: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Of each split, (K, n, k)."""
    return {name: torch.stack([prediction[name] for prediction in predictions]) for name in predictions[0]}
