"""SRM: Knowledge Distillation by Sparse Representation Matching (Tran, Gabbouj, Iosifidis 2021, arXiv 2103.17012).

The student first learns sparse codes of the teacher's features, without labels, and then from the teacher's answers. At
matched places l the teacher's features are t (B, C, H, W), the student's s (B, C', H, W). Stages:

1. ``dictionaries``: D (C, M) and one bias c code every place of the frozen teacher's maps by its k most similar atoms,

       ψ = top-k of sigmoid(Dᵀ t + c),   L = Σ_l MSE(t, D ψ),   M = ⌊C μ⌋,   k = max(1, ⌊C λ μ⌋)

2. ``initialisation``: dictionaries D' (C', M) of the student's own, z = D'ᵀ s + c', dense. Labels are each place's
   strongest atom y = argmax ψ (B, H, W), and each atom's mean code h = mean_HW ψ (B, M):

       L = Σ_l [ CE(z, y) + BCE(mean_HW sigmoid(z), h) ]              the local and the global term, means over the rest

3. The student without D', its classifier as it began, is trained as by ``kd``; or by cross-entropy alone, as a whole,
   or its classifier on frozen features (a linear probe of what it learned without labels).

The paper's method section was not at hand: what is built is its released code, with its defects as options. There the
softmax of CE is of sigmoid(z) (``pixel_logits``), the teacher's batch norms drift in stage 1 (``teacher_bn``; never in
stage 3), and the probe is void. It asks for maps of equal size: here the larger of two is averaged down to the smaller
(``unequal``). A validation split chooses the epoch of the last stage only. As on CIFAR-100: ``--network allcnn-0.66
--method.teacher_network densenet121-cifar --method.features block1,block2,block4 --method.teacher_features
trans1,trans2,dense4 --method.schedule paper``.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from torch import Tensor, nn, zeros
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from coterie.bounds import NonNegative, Positive, PositiveShare, Share, Temperature
from coterie.errors import UserError
from coterie.functional import check_divergence
from coterie.methods.base import Edge, Stage, Task, Turn
from coterie.methods.frozen_teacher import Teacher
from coterie.methods.kd import DistillationStep
from coterie.methods.linear_probe import LinearProbe, make_probe_stage
from coterie.methods.offline import OfflineMethod
from coterie.methods.srm.matching import CodeTarget, DictionaryStep, InitialisationStep, pair_features
from coterie.methods.srm.sparse_coding import PixelLogits
from coterie.methods.vanilla import make_plain_stage
from coterie.networks.observe.features import find_classifier


@dataclass(kw_only=True)
class Srm(OfflineMethod):
    """A student that first learns a trained teacher's sparse codes, without labels, and then its answers.

    Attributes:
        network: The student: a name, a factory, or a module of yours.
        epochs: Stage name to its own number of epochs; the stages are ``teacher`` (none where one is given),
            ``dictionaries``, ``initialisation``, and the one that ``last`` names.
        features: Where the student is read, separated by commas: modules, or ``MODULE:in`` for what they are given.
            None takes the ends of both networks' stages, where these are of the same size, and what the classifiers
            read.
        teacher_features: Where the teacher is read, as many; None for modules of the same names.
        unequal: Maps of unequal size are met by ``pool``, averaging the larger down to the smaller, or ``refuse``.
        mu: μ, atoms per channel of the teacher.
        lam: λ, the share of the atoms that a place keeps, up to 1.
        target: What the student learns of the codes: ``local`` (of places), ``global`` (of images) or ``both``.
        pixel_logits: The local term's softmax is of the ``raw`` products, or of their ``sigmoid`` (official code).
        teacher_bn: The teacher's batch norms in stage ``dictionaries``: ``eval``, or ``train`` (official code).
        last: The last stage: ``distillation``, ``fine-tuning`` (cross-entropy alone), or ``probe`` (only the
            classifier, by cross-entropy).
        temperature: T of the soft targets (the middle of the official code's grid).
        alpha: α, the share of the soft targets, from 0 to 1 (the middle of the official code's grid).
        divergence: How far the student is from its teacher in the last stage, a name of
            ``coterie.functional.DIVERGENCES``: ``kl``, ``dkd``, ``dist`` or ``standardised``.
        dictionary_rate: Adam's learning rate in stage ``dictionaries``.
        initial_rate: Adam's learning rate in stage ``initialisation`` (over few epochs 1e-2 learns more).
        initial_decay: Its weight decay (L2).
        schedule: Of these two: the run's ``recipe``; or the ``paper``'s (CIFAR), which divides the rate by 10 after 10
            and 70 % of the first stage, 19 and 81 % of the second, and in few epochs comes less far.
    """

    name = "srm"
    summary = "a student learns a teacher's sparse codes, then its answers (Tran, Gabbouj, Iosifidis 2021)"

    features: str | Sequence[str] | None = None
    teacher_features: str | Sequence[str] | None = None
    unequal: Literal["pool", "refuse"] = "pool"
    mu: Positive = 2.0
    lam: PositiveShare = 0.02
    target: CodeTarget = "both"
    pixel_logits: PixelLogits = "raw"
    teacher_bn: Literal["eval", "train"] = "eval"
    last: Literal["distillation", "fine-tuning", "probe"] = "distillation"
    temperature: Temperature = 4.0
    alpha: Share = 0.5
    divergence: str = "kl"
    dictionary_rate: Positive = 1e-3
    initial_rate: Positive = 1e-3
    initial_decay: NonNegative = 1e-4
    schedule: Literal["recipe", "paper"] = "recipe"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_divergence(self.divergence)
        self.features, self.teacher_features = _split_paths(self.features), _split_paths(self.teacher_features)
        if self.teachers > 1 or (self.teacher is not None and len(self.teacher) > 1):
            raise UserError("method 'srm' reads one teacher's features; name one, and leave ⟨method.teachers⟩ out")

    def stage_names(self) -> tuple[str, ...]:
        """The teacher's, if it is trained first, ``dictionaries``, ``initialisation``, and the last."""
        return (*self.teacher_stage_names(), "dictionaries", "initialisation", self.last)

    def stages(self, task: Task) -> Iterator[Stage]:
        """As the file says; the last delivers ``target``, the student. Two in between train no classifier."""
        teacher = yield from self.teacher_stages(task)
        student = self.build(task)
        example, member = zeros(2, task.channels, *task.image_size), teacher.members[0]
        pairs = pair_features(student, member, example, self.features, self.teacher_features, self.unequal == "pool")
        learning = DictionaryStep(teacher, pairs, self.mu, self.lam, self.teacher_bn == "train")
        turn = Turn(learning, tuple(learning.codings.parameters()), partial(Adam, lr=self.dictionary_rate))
        yield Stage("dictionaries", [turn], schedule=self._falling(0.1, 0.7))
        step = InitialisationStep(student, learning.make_labels(), pairs, self.target, self.pixel_logits)
        adam = partial(Adam, lr=self.initial_rate, weight_decay=self.initial_decay)
        turn = Turn(step, (*student.parameters(), *step.heads.parameters()), adam)
        yield Stage("initialisation", [turn], schedule=self._falling(30 / 160, 130 / 160))
        yield replace(self._last(student, teacher, example), peers=("target",), deliver={"target": student})

    def teaching(self) -> Sequence[Edge]:
        """Every teacher teaches the student, by codes first and soft labels after."""
        soft = f", then soft labels, T = {self.temperature:g}" if self.last == "distillation" else ""
        return [Edge(name, "target", f"sparse codes{soft}") for name in self.teacher_names()]

    def _last(self, student: nn.Module, teacher: Teacher, example: Tensor) -> Stage:
        if self.last == "fine-tuning":
            return make_plain_stage(self.last, student)
        if self.last == "probe":
            return make_probe_stage(self.last, LinearProbe(student, [find_classifier(student, example)]))
        settings = self.temperature, 1 - self.alpha, self.alpha
        step = DistillationStep(student, teacher, *settings, divergence=self.divergence)
        return Stage(self.last, [Turn(step, tuple(student.parameters()))], network=student, teacher=teacher)

    def _falling(self, *shares: float) -> Callable[[Optimizer, int], LambdaLR] | None:
        """The paper's rate falls to a tenth after each of these shares of the stage."""
        if self.schedule == "recipe":
            return None
        return lambda optimiser, steps: LambdaLR(optimiser, lambda now: 0.1 ** sum(now >= s * steps for s in shares))


def _split_paths(paths: str | Sequence[str] | None) -> Sequence[str] | None:
    return [path.strip() for path in paths.split(",")] if isinstance(paths, str) else paths and list(paths)
