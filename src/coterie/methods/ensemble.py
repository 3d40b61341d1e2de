"""An ensemble of separately trained networks: the costly baseline of online methods, and the best of teachers.

k networks of one architecture are trained one after the other, each alone with cross-entropy, from another random
start, in another order and with other augmentations. With their logits z_i (B, C), i = 1..k, the ensemble answers

    p = 1/k Σ_i softmax(z_i)                                                                                     (B, C)

(Lakshminarayanan, Pritzel, Blundell, *Simple and scalable predictive uncertainty estimation using deep ensembles*,
NeurIPS 2017, without its adversarial training) or, with ``average="logits"``, softmax(1/k Σ_i z_i) (Allen-Zhu, Li, ICLR
2023, arXiv 2012.09816, who average outputs). The first member is what ``vanilla`` trains with the same seed.

To distil it into one network: ``--method kd --method.teacher RUN:ensemble``; or at once, ``--method kd
--method.teachers 3``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from coterie.bounds import Count
from coterie.errors import UserError
from coterie.methods.base import Edge, Method, Stage, Task
from coterie.methods.vanilla import make_plain_stage
from coterie.peers.combine import Average
from coterie.peers.ensemble import Ensemble as Group


@dataclass(kw_only=True)
class Ensemble(Method):
    """Separately trained networks, deployed as one.

    Attributes:
        network: The members' architecture: a name or a factory.
        epochs: Stage name to its own number of epochs; the stages are ``member1``, ``member2`` and so on.
        members: k, how many.
        average: The mean of ``probabilities`` or of ``logits``.
    """

    name = "ensemble"
    summary = "separately trained networks, deployed as one: the baseline that costs most"

    members: Count = 3
    average: Average = "probabilities"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.members < 2:
            raise UserError(f"⟨method.members⟩ is {self.members}; use 2 or more (method 'vanilla' trains one)")

    def stage_names(self) -> tuple[str, ...]:
        """One for each member."""
        return tuple(f"member{index + 1}" for index in range(self.members))

    def stages(self, task: Task) -> Iterator[Stage]:
        """One for each member; the last delivers ``ensemble`` and every member by its stage's name."""
        members = []
        *others, last = self.stage_names()
        for name in others:
            members.append(self.build_another(task))
            yield make_plain_stage(name, members[-1])
        members.append(self.build_another(task))
        group = Group(members, self.average)
        deliver = {"ensemble": group, **dict(zip(self.stage_names(), members, strict=True))}
        yield replace(make_plain_stage(last, members[-1]), deliver=deliver, group=self.stage_names())

    def teaching(self) -> Sequence[Edge]:
        """No member teaches another; their mean is the ensemble."""
        return [Edge(name, "ensemble", f"mean {self.average}", teaches=False) for name in self.stage_names()]
