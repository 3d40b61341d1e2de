"""Self-distillation: a network learns from one of its own architecture, trained before it.

Generation 0 learns from the labels y (B,) alone. Every later one starts afresh from other random weights and learns
from the labels and from the one before it. With logits z_g (B, C) of generation g at temperature T:

    L_0 = CE(z_0, y)
    L_g = β CE(z_g, y) + T² KL(softmax(z_{g-1} / T) ‖ softmax(z_g / T)),    g = 1..G      mean over the batch

The last generation is deployed. Two published forms:

- Allen-Zhu, Li, *Towards Understanding Ensemble, Knowledge Distillation and Self-Distillation in Deep Learning* (ICLR
  2023, arXiv 2012.09816): G = 1. The paper's theory uses another update (only upwards, on clipped logits: unverified);
  β = 0.1 and T = 4, the defaults here, are ordinary distillation, and no figures of the paper's. On a small instance of
  its data (``docs/results/multiview.json``) its gain is inconclusive, and smaller than that of an ensemble of two.
- Furlanello, Lipton, Tschannen, Itti, Anandkumar, *Born-Again Neural Networks* (ICML 2018, arXiv 1805.04770): several
  generations, and their ensemble: ``--method.generations 3 --method.temperature 1 --method.label_weight 1
  --method.ensemble true`` (that labels and teacher weigh the same is unverified).

One run with one teacher is a matter of luck: average over five or more seeds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from torch import nn

from coterie.bounds import Count, NonNegative, Temperature
from coterie.functional import check_divergence
from coterie.methods.base import Edge, Method, Stage, Task, Turn
from coterie.methods.frozen_teacher import Teacher
from coterie.methods.kd import DistillationStep
from coterie.methods.vanilla import make_plain_stage
from coterie.peers.ensemble import Ensemble


@dataclass(kw_only=True)
class SelfDistillation(Method):
    """A network that learns from an earlier one of its own architecture.

    Attributes:
        network: The architecture of all generations: a name or a factory.
        epochs: Stage name to its own number of epochs; the stages are ``generation0``, ``generation1`` and so on.
        generations: G, how many learn from the one before; generation 0 is not counted.
        temperature: T of the soft labels.
        label_weight: β, the weight of the labels beside the soft labels; at 0 later generations do not use them.
        ensemble: Whether the mean probabilities of all generations are delivered too, as ``ensemble``.
        remember: Whether a generation is asked once an image, and not once an epoch, where images are not augmented
            (``--data.augment none``); the result is the same.
        divergence: How far a generation is from the one before, a name of ``coterie.functional.DIVERGENCES``: ``kl``,
            ``dkd``, ``dist`` or ``standardised``.
    """

    name = "self-distillation"
    summary = "a network learns from one of its own architecture (Furlanello et al. 2018; Allen-Zhu, Li 2023)"

    generations: Count = 1
    temperature: Temperature = 4.0
    label_weight: NonNegative = 0.1
    ensemble: bool = False
    remember: bool = True
    divergence: str = "kl"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_divergence(self.divergence)

    def stage_names(self) -> tuple[str, ...]:
        """One for each generation."""
        return tuple(f"generation{index}" for index in range(self.generations + 1))

    def stages(self, task: Task) -> Iterator[Stage]:
        """One for each generation; the last delivers ``target``, the earlier ones, and ``ensemble`` if asked for."""
        first, *later = self.stage_names()
        networks = {first: self.build_another(task)}
        yield make_plain_stage(first, networks[first])
        for name in later:
            stage = self._make_stage(name, networks, self.build_another(task))
            yield self._deliver(stage, networks) if name == later[-1] else stage

    def teaching(self) -> Sequence[Edge]:
        """Every generation teaches the next."""
        names = (*self.stage_names()[:-1], "target")
        return [Edge(a, b, f"soft labels, T = {self.temperature:g}") for a, b in pairwise(names)]

    def _make_stage(self, name: str, networks: dict[str, nn.Module], student: nn.Module) -> Stage:
        teacher = Teacher([list(networks.values())[-1]], self.remember)
        networks[name] = student
        settings = self.temperature, self.label_weight, 1.0
        step = DistillationStep(student, teacher, *settings, divergence=self.divergence)
        turn = Turn(step, tuple(student.parameters()))
        return Stage(name, [turn], network=student, peers=(name,), teacher=teacher)

    def _deliver(self, stage: Stage, networks: dict[str, nn.Module]) -> Stage:
        """The last stage: its network is the target, and a group's peer 0."""
        *earlier, last = networks
        deliver = {"target": networks[last], **{name: networks[name] for name in earlier}}
        stage = replace(stage, peers=("target",), deliver=deliver)
        if not self.ensemble:
            return stage
        group = Ensemble(list(deliver.values()))
        return replace(stage, deliver={**deliver, "ensemble": group}, group=tuple(deliver))
