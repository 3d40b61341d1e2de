"""Theorems 1 to 4: single networks, their ensemble, distillation from it, self-distillation, and the controls."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional

from coterie.errors import UserError
from coterie.studies.multiview.descent import Objective, descend
from coterie.studies.multiview.instance import Instance, Problem, Results, gain
from coterie.studies.multiview.networks import sum_networks
from coterie.studies.multiview.options import read_options


@dataclass(frozen=True, kw_only=True)
class Theorems(Instance):
    """Sizes of the experiment.

    Attributes:
        members: K, the networks that form the ensemble.
        students: How many learn in each way; they start from the same filters in every way.
        steps: Of training on labels.
        distill_steps: Of distillation and its controls.
        temperature: τ of distillation.
        label_weight: α beside the soft labels.
        smoothing: ε of label smoothing: 1 - ε on the label and ε / k on every class.
    """

    members: int = 10
    students: int = 10
    steps: int = 1200
    distill_steps: int = 1500
    temperature: float = 4.0
    label_weight: float = 0.1
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        if self.members < 2 or not 1 <= self.students <= self.members:
            raise UserError(
                f"multiview-theorems: {self.members} members and {self.students} students; use 2 members or more, and "
                "at most as many students, since each learns from a member of its own"
            )


def run_theorems(options: Mapping[str, Any], seed: int) -> Results:
    """Who errs on samples that show one view of their class.

    Parts: ``single`` (mean of the members), ``ensemble`` (the mean of their logits), ``ensemble2`` (of pairs of them),
    ``joint`` (one network that starts as the members' sum and learns as one), and the students' means. ``labels`` learn
    as the members did. Others learn for ``distill_steps`` at the plain rate: ``labels_matched`` from labels alone,
    ``kd`` and ``kd_t1`` from the ensemble at τ and at 1, ``smoothing`` from smoothed labels, ``self_kd`` from a member
    each. ``labels_longer`` and ``self_kd_later`` do so after they have learned as the members did. ``gain`` is over
    ``single`` for what learned as the members did, over ``labels_longer`` for ``self_kd_later``, and over
    ``labels_matched`` otherwise.

    Args:
        options: Of :class:`Theorems`, by name.
        seed: From 0 up.

    Returns:
        For each part ``single_view_error``, ``multi_view_error``, ``train_error``, ``both``, ``gain`` (points),
        ``kept_gain`` (percent of the ensemble's).
    """
    size = read_options(Theorems, options, "multiview-theorems")
    problem = Problem(size, seed)
    members = problem.networks(size.members, 4)
    joint = problem.holding(sum_networks(members.weight).clone())
    first = problem.networks(size.students, 5).weight
    labels = problem.holding(first.clone())
    for networks in (members, joint, labels):
        descend(networks, problem.train, Objective(), size.steps, size.rate, size.boost)
    results: dict[str, dict[str, float]] = {
        "single": problem.measure(members),
        "ensemble": problem.measure_mean(members),
        "ensemble2": problem.measure_mean(members, 2),
        "joint": problem.measure(joint),
        "labels": problem.measure(labels),
    }
    as_members = tuple(results)
    lessons = _lessons(size, members.logits(problem.train.patches), problem.train.labels)
    later = {"labels_longer": lessons["labels_matched"], "self_kd_later": lessons["self_kd"]}
    for name, objective in (lessons | later).items():
        students = problem.holding((labels.weight if name in later else first).clone())
        descend(students, problem.train, objective, size.distill_steps, size.rate)
        results[name] = problem.measure(students)

    def baseline(name: str) -> str:
        return "single" if name in as_members else "labels_longer" if name in later else "labels_matched"

    return {name: gain(metrics, results[baseline(name)], results["ensemble"]) for name, metrics in results.items()}


def _lessons(size: Theorems, logits: Tensor, labels: Tensor) -> dict[str, Objective]:
    """What students learn from, by part; the members' logits are (K, n, k), the labels (n,)."""
    k, mean = logits.shape[2], logits.mean(0)

    def soft(teacher: Tensor, temperature: float) -> Objective:
        target = (teacher / temperature).softmax(-1)
        return Objective(labels=size.label_weight, soft=1.0, temperature=temperature, target=target)

    smooth = (1 - size.smoothing) * functional.one_hot(labels, k) + size.smoothing / k
    return {
        "labels_matched": Objective(),
        "kd": soft(mean, size.temperature),
        "kd_t1": soft(mean, 1.0),
        "smoothing": Objective(labels=0.0, soft=1.0, target=smooth),
        "self_kd": soft(logits[: size.students], size.temperature),
    }
