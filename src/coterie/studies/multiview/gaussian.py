"""The control on inputs without views: Gaussian-like data, on which the paper says that an ensemble gains nothing.

Allen-Zhu, Li (2023), section 1. The paper's data and networks for this are not known; these are plain ones, chosen
before anything was measured on them, and not tuned.

Shapes: K networks, k classes, d dimensions, n samples.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise
from math import sqrt
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from coterie.errors import UserError, unknown_name
from coterie.studies.multiview.distribution import stream
from coterie.studies.multiview.instance import Results, error, gain
from coterie.studies.multiview.options import read_options

_LABELS = ("mixture", "linear", "two-layer")


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """Sizes of the experiment.

    Attributes:
        labels: ``mixture``: x ~ N(μ_y, I), random means of norm ``distance``. Otherwise x ~ N(0, I), and y is the
            largest output of a random ``linear`` map, or of a random ``two-layer`` ReLU network of width ``teacher``.
        classes: k.
        dimension: d.
        samples: N.
        test: Test samples.
        distance: Norm of the mixture's means.
        teacher: Width of the two-layer labels.
        width: Of the two hidden layers.
        members: K.
        students: How many learn from the ensemble, and from labels as their control.
        epochs: Of SGD.
        batch: Samples a step.
        rate: The learning rate, which falls to 0 as a cosine.
        momentum: Of SGD.
        temperature: τ of distillation.
        label_weight: α beside the soft labels.
    """

    labels: str = "mixture"
    classes: int = 5
    dimension: int = 30
    samples: int = 1000
    test: int = 5000
    distance: float = 2.6
    teacher: int = 100
    width: int = 64
    members: int = 10
    students: int = 4
    epochs: int = 40
    batch: int = 100
    rate: float = 0.02
    momentum: float = 0.9
    temperature: float = 3.0
    label_weight: float = 0.1

    def __post_init__(self) -> None:
        if self.labels not in _LABELS:
            raise unknown_name("labels of multiview-gaussian", self.labels, _LABELS)
        if not 1 <= self.batch <= self.samples:
            raise UserError(f"multiview-gaussian: batch is {self.batch}; use 1 to samples, {self.samples}")


Networks = list[tuple[Tensor, Tensor]]  # of each layer, weights (K, in, out) and biases (K, 1, out)
Labelled = tuple[Tensor, Tensor]  # x (n, d) and y (n,)
Rule = Callable[[Tensor], Tensor]  # x (n, d) to scores (…, n, k)
Loss = Callable[[Tensor, Tensor], Tensor]  # logits (K, B, k) and their rows in the training set (B,) to a sum over K


def run_gaussian(options: Mapping[str, Any], seed: int) -> Results:
    """Three-layer ReLU networks alone, as an ensemble, trained as one, and distilled.

    Parts: ``single`` (mean of the members), ``ensemble`` (the mean of their logits), ``joint`` (their mean trained as
    one network, with K times the loss), students from other first weights, ``labels`` and ``kd``; and for the mixture
    ``optimum``, the error of the best rule there is.

    Args:
        options: Of :class:`Gaussian`, by name.
        seed: From 0 up.

    Returns:
        For each part ``error``, ``train_error``, ``gain`` (over ``single``, and for ``kd`` over ``labels``; points) and
        ``kept_gain`` (percent of the ensemble's).
    """
    size = read_options(Gaussian, options, "multiview-gaussian")
    seed += 201
    (x, labels), test, rule = _draw_task(size, seed)

    def hard(logits: Tensor, rows: Tensor) -> Tensor:
        return functional.cross_entropy(logits.flatten(0, 1), labels[rows].repeat(len(logits))) * len(logits)

    def joint_loss(logits: Tensor, rows: Tensor) -> Tensor:
        return len(logits) * functional.cross_entropy(logits.mean(0), labels[rows])

    members = _train(size, x, hard, seed, purpose=4, count=size.members)
    joint = _train(size, x, joint_loss, seed, purpose=4, count=size.members)
    soft = (_logits(members, x).mean(0) / size.temperature).log_softmax(1)

    def distilled(logits: Tensor, rows: Tensor) -> Tensor:
        student = (logits / size.temperature).log_softmax(2)
        target = soft[rows].expand_as(student)
        divergence = functional.kl_div(student, target, reduction="sum", log_target=True) / len(rows)
        return size.label_weight * hard(logits, rows) + size.temperature**2 * divergence

    students = {
        name: _train(size, x, loss, seed, purpose=5, count=size.students)
        for name, loss in (("labels", hard), ("kd", distilled))
    }

    answers: dict[str, Rule] = {
        "single": lambda x: _logits(members, x),
        "ensemble": lambda x: _logits(members, x).mean(0),
        "joint": lambda x: _logits(joint, x).mean(0),
        **{name: partial(_logits, networks) for name, networks in students.items()},
    }
    if size.labels == "mixture":
        answers["optimum"] = rule
    errors = {
        name: {"error": error(answer(test[0]), test[1]), "train_error": error(answer(x), labels)}
        for name, answer in answers.items()
    }
    return {
        name: gain(metrics, errors["labels" if name == "kd" else "single"], errors["ensemble"], "error")
        for name, metrics in errors.items()
    }


def _draw_task(size: Gaussian, seed: int) -> tuple[Labelled, Labelled, Rule]:
    """Training and test samples, and the rule that the labels follow: for the mixture the best there is."""
    draw = stream(seed, 0)
    if size.labels == "mixture":
        means = functional.normalize(torch.randn(size.classes, size.dimension, generator=draw)) * size.distance
        rule: Rule = lambda x: -torch.cdist(x, means)  # noqa: E731
    elif size.labels == "linear":
        linear = torch.randn(size.dimension, size.classes, generator=draw)
        rule = lambda x: x @ linear  # noqa: E731
    else:
        inner = torch.randn(size.dimension, size.teacher, generator=draw) / sqrt(size.dimension)
        outer = torch.randn(size.teacher, size.classes, generator=draw)
        rule = lambda x: (x @ inner).relu() @ outer  # noqa: E731

    def drawn(count: int, draw: torch.Generator) -> Labelled:
        x = torch.randn(count, size.dimension, generator=draw)
        if size.labels != "mixture":
            return x, rule(x).argmax(1)
        labels = torch.randint(size.classes, (count,), generator=draw)
        return x + means[labels], labels

    return drawn(size.samples, stream(seed, 1)), drawn(size.test, stream(seed, 2)), rule


def _train(size: Gaussian, x: Tensor, loss: Loss, seed: int, purpose: int, count: int) -> Networks:
    """Networks after SGD; all see the same batches."""
    draw = stream(seed, purpose)
    widths = (size.dimension, size.width, size.width, size.classes)
    networks: Networks = []
    for inputs, outputs in pairwise(widths):
        spread = sqrt((1 if outputs == size.classes else 2) / inputs)
        weight = spread * torch.randn(count, inputs, outputs, generator=draw)
        networks.append((weight.requires_grad_(), torch.zeros(count, 1, outputs, requires_grad=True)))
    optimiser = torch.optim.SGD(chain(*networks), size.rate, size.momentum)
    steps = size.epochs * (len(x) // size.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
    order = stream(seed, 3)
    for _ in range(size.epochs):
        shuffled = torch.randperm(len(x), generator=order)
        for rows in shuffled[: len(x) // size.batch * size.batch].view(-1, size.batch):
            optimiser.zero_grad()
            torch.autograd.backward(loss(_logits(networks, x[rows]), rows))
            optimiser.step()
            schedule.step()
    for tensor in chain(*networks):
        tensor.requires_grad_(False)
    return networks


def _logits(networks: Networks, x: Tensor) -> Tensor:
    """(K, n, k) for samples x (n, d)."""
    hidden = x.expand(len(networks[0][0]), -1, -1)
    for index, (weight, bias) in enumerate(networks):
        hidden = torch.baddbmm(bias, hidden if index == 0 else hidden.relu(), weight)
    return hidden
