"""MEAL: adversarial distillation of an ensemble (Shen, He, Xue, AAAI 2019, arXiv 1812.02425; V2: arXiv 2009.08453).

A student learns the answers of trained teachers, and no labels. Of each matched output j, block or logits, it gives a
vector s_j and its teacher t_j, (B, d_j). A discriminator D_j learns to tell them apart by its loss L_D = Σ_j BCE_j, and

    L_sim = Σ_j γ_j · -mean_B Σ_c softmax(t_j)_c log softmax(s_j)_c         at temperature 1, or an l1 or l2 distance
    joint        L_sim + L_D, one backward; of L_D the student gets β times the gradient: to differ (released code)
    grl          as joint, with -β: on its way to the student the gradient is reversed
    alternating  a step of D on L_D, s held fixed; then one of the student on L_sim - β Σ_j mean_B log D_j(s_j)
    none         L_sim alone

D_j(s_j) is the probability that it is the teacher's. One teacher, drawn uniformly, teaches a batch (MEAL); or the mean
of all: of softmax in L_sim, of logits in L_D (V2, whose student starts pretrained). As released: ``joint`` and
``final_relu``, and for V2 ``discriminator_divisor=8``. MEAL's released code leaves its teachers in training mode; here
they are always in evaluation mode, as V2's are. Which mode is best, or whether any is
better than none, is inconclusive in ``benchmarks/meal_modes.json`` (ResNet-8, 300 digits, six seeds; test error in %,
mean ± standard deviation): joint 3.30 ± 0.52, alternating 3.47 ± 0.70, grl 3.50 ± 0.56, none 3.43 ± 1.19. The default
is the released one. How the journal version (arXiv 1908.08520) treats noisy labels is not public: see
``docs/guides/noisy-labels.md`` for MEAL soft-label refinement (reconstruction).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal

import torch
from torch import nn

from coterie.bounds import Count, NonNegative, PositiveInt
from coterie.errors import UserError
from coterie.methods.base import ParameterGroup, Stage, Task, Turn
from coterie.methods.frozen_teacher import Teacher
from coterie.methods.meal.adversarial import Adversarial, DiscriminatorStep, ImitationStep, Objective, Similarity
from coterie.methods.meal.discriminators import Discriminator, Pooling, StudentTeacherPair, VectorReader
from coterie.methods.offline import OfflineMethod
from coterie.networks.observe.features import describe_features

TeacherChoice = Literal["random", "mean"]
# Of the released recipe for VGG-19: four blocks and the logits.
_WEIGHTS = (0.001, 0.01, 0.05, 0.1, 1.0)


@dataclass(kw_only=True)
class Meal(OfflineMethod):
    """A student that learns to answer as trained teachers do, beside discriminators that tell it from them.

    Attributes:
        network: The student: a name, a factory, or a module of yours.
        epochs: Stage name to its own number of epochs; the stages are ``teacher1``, ``teacher2`` and so on (none where
            teachers are given) and ``student``.
        teachers: How many teachers are trained first.
        teacher_choice: ``random`` draws one for each batch (each process its own); ``mean`` takes all (MEAL V2).
        adversarial: ``joint`` (released code; no other measured better), ``grl``, ``alternating`` or ``none``.
        adversarial_weight: β: what of the discriminators' loss reaches the student.
        similarity: ``ce``, or ``l1``, ``l2``, ``l1_soft``, ``l2_soft``. The losses of other methods' ``divergence``
            are of logits over classes, and blocks' vectors are compared here too: none of these stands here.
        label_weight: Of the labels' cross-entropy beside it; at 0 (paper) labels are not used.
        blocks: Modules of the student whose outputs are matched beside the logits, by path.
        teacher_blocks: The teachers' modules that answer to these, one each; None for the same paths.
        lengths: d of each block; None for the places (H · W) of the student's map.
        block_weights: γ of each block and, last, of the logits; None for the last of 0.001, 0.01, 0.05, 0.1, 1.
        pooling: How blocks are aligned: ``avg`` or ``max``.
        discriminator_rate: The discriminators' own peak learning rate, on the recipe's schedule.
        discriminator_divisor: How many times narrower a discriminator's hidden layers are than what they read: 2
            (MEAL's released code) or 8 (MEAL V2's: 1000, 125, 15 and 2 wide).
        final_relu: Whether discriminators end in a ReLU, as in the released code: their loss stays above ln 2 / 2.
    """

    name = "meal"
    summary = "a student learns from trained teachers and discriminators, not from labels (Shen, He, Xue 2019)"

    teachers: Count = 3
    teacher_choice: TeacherChoice = "random"
    adversarial: Adversarial = "joint"
    adversarial_weight: NonNegative = 1.0
    similarity: Similarity = "ce"
    label_weight: NonNegative = 0.0
    blocks: tuple[str, ...] = ()
    teacher_blocks: tuple[str, ...] | None = None
    lengths: tuple[PositiveInt, ...] | None = None
    block_weights: tuple[NonNegative, ...] | None = None
    pooling: Pooling = "avg"
    discriminator_rate: NonNegative = 1e-3
    discriminator_divisor: PositiveInt = 2
    final_relu: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_blocks()

    def _check_blocks(self) -> None:
        count = len(self.blocks)
        for option, values, wanted in (
            ("teacher_blocks", self.teacher_blocks, count),
            ("lengths", self.lengths, count),
            ("block_weights", self.block_weights, count + 1),
        ):
            if values is not None and len(values) != wanted:
                raise UserError(f"⟨method.{option}⟩ has {len(values)} values, and {count} blocks want {wanted}")
        if self.block_weights is None and count >= len(_WEIGHTS):
            raise UserError(f"⟨method.block_weights⟩ has no default for {count} blocks; give {count + 1} values")

    def stage_names(self) -> tuple[str, ...]:
        """The teachers', if they are trained first, and ``student``."""
        return (*self.teacher_stage_names(), "student")

    def stages(self, task: Task) -> Iterator[Stage]:
        """The teachers', if they are trained first, and ``student``; it delivers ``target``, the student."""
        lengths = (*self._block_lengths(task), task.num_classes)
        teacher = yield from self.teacher_stages(task)
        student = self.build(task)
        discriminators = nn.ModuleList(
            Discriminator(length, self.final_relu, self.discriminator_divisor)
            for length in lengths
            if self.adversarial != "none"
        )
        weights = tuple(self.block_weights or _WEIGHTS[-len(lengths) :])
        objective = Objective(self.adversarial, self.similarity, weights, self.adversarial_weight, self.label_weight)
        step = ImitationStep(self._pair(student, teacher, lengths[:-1]), discriminators, objective)
        ours: ParameterGroup = {"params": list(student.parameters())}
        theirs: ParameterGroup = {"params": list(discriminators.parameters()), "lr": self.discriminator_rate}
        turns = [Turn(step, [ours, theirs])]
        if self.adversarial == "alternating":
            turns = [Turn(DiscriminatorStep(step), [theirs]), Turn(step, [ours])]
        yield Stage("student", turns, network=student, deliver={"target": student}, teacher=teacher)

    def _block_lengths(self, task: Task) -> tuple[int, ...]:
        """The d of each block; found before any stage, so that one that is not there is told at once."""
        if not self.blocks:
            return ()
        example = torch.zeros(2, task.channels, *task.image_size)
        with torch.random.fork_rng(devices=[]):  # these networks must not change the random numbers of the next
            places = describe_features(self.build(task), self.blocks, example, "⟨method.blocks⟩")
            if self.teacher is None:
                describe_features(
                    self._untrained_teacher(task), self._teacher_blocks, example, "⟨method.teacher_blocks⟩"
                )
        return tuple(self.lengths or (prod(place.size) if place.size != (1, 1) else place.channels for place in places))

    @property
    def _teacher_blocks(self) -> tuple[str, ...]:
        return self.blocks if self.teacher_blocks is None else self.teacher_blocks

    def _pair(self, student: nn.Module, teacher: Teacher, lengths: tuple[int, ...]) -> StudentTeacherPair:
        own = VectorReader(student, self.blocks, lengths, self.pooling, "⟨method.blocks⟩")
        theirs = [
            VectorReader(member.network, self._teacher_blocks, lengths, self.pooling, "⟨method.teacher_blocks⟩")
            for member in teacher.members
        ]
        return StudentTeacherPair(own, teacher, theirs if self.blocks else None, self.teacher_choice == "random")
