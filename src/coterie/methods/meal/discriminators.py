"""What tells a student's outputs from a teacher's, and the vectors it looks at. Shapes: B images, d the length.

(Shen, He, Xue, *MEAL*, AAAI 2019, arXiv 1812.02425; details of its released code are marked so.)
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from coterie.methods.frozen_teacher import Teacher
from coterie.networks.observe.features import Features
from coterie.outputs import Batch, answer, at_least_float32, without_autocast

Pooling = Literal["avg", "max"]


def align(features: Tensor, length: int, pooling: Pooling = "avg") -> Tensor:
    """Features of any network as vectors of one length, without parameters.

    Space is flattened row by row and pooled to ``length`` bins; the mean (or maximum) over channels is taken of these.
    Neither channels nor places need be those of the other network; with fewer places than bins, places are repeated.

    Args:
        features: (B, C, H, W), or vectors (B, C), which are one place high and C long.
        length: d.
        pooling: ``avg`` or ``max``, over places and channels alike (released code).

    Returns:
        (B, d), float32 at least.
    """
    with without_autocast(features):
        places = at_least_float32(features)
        places = places.flatten(2) if places.dim() == 4 else places.unsqueeze(1)
        # Over channels first: the same, with less to pool.
        if pooling == "max":
            return functional.adaptive_max_pool1d(places.amax(1, keepdim=True), length).squeeze(1)
        return pool_to_bins(places.mean(1), length)


def pool_to_bins(places: Tensor, length: int) -> Tensor:
    """Adaptive average pooling of (B, P) to (B, length), by a matrix where only that is deterministic."""
    if not (places.is_cuda and torch.are_deterministic_algorithms_enabled()):
        return functional.adaptive_avg_pool1d(places.unsqueeze(1), length).squeeze(1)
    return places @ make_bin_shares(places.shape[1], length).to(places)


def make_bin_shares(places: int, length: int) -> Tensor:
    """The share of each place in each bin of adaptive average pooling, (places, length)."""
    first = torch.arange(length) * places // length
    end = -(-(torch.arange(length) + 1) * places // length)
    place = torch.arange(places)[:, None]
    return ((place >= first) & (place < end)) / (end - first)


class Discriminator(nn.Module):
    """Tells whose a vector is: fully connected layers d → d//k → d//k//k → 2, ReLU between them, none below 1 wide.

    Its two outputs are logits of independent questions, is it the student's and is it the teacher's, each learned by
    binary cross-entropy: :func:`discriminator_loss`.

    Args:
        length: d.
        final_relu: A ReLU after the last layer too, as in the released code. It bounds the outputs' sigmoids to [1/2,
            1), so that the loss cannot fall below ln 2 / 2, and stops learning at ln 2 where all outputs are negative.
        divisor: k, 1 or more.
    """

    def __init__(self, length: int, final_relu: bool = False, divisor: int = 2) -> None:
        super().__init__()
        first = max(length // divisor, 1)
        second = max(first // divisor, 1)
        layers = [nn.Linear(length, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU(), nn.Linear(second, 2)]
        self.layers = nn.Sequential(*layers, *([nn.ReLU()] if final_relu else []))

    def forward(self, vectors: Tensor) -> Tensor:
        """VectorReader (B, d) to logits (B, 2): the student's, the teacher's."""
        with without_autocast(vectors):
            return self.layers(at_least_float32(vectors))


def discriminator_loss(discriminator: nn.Module, student: Tensor, teacher: Tensor) -> Tensor:
    """A discriminator's loss: binary cross-entropy against (1, 0) for student's rows and (0, 1) for teacher's.

    The mean over all 4 B answers, in nats: the rows are stacked along the batch.

    Args:
        discriminator: VectorReader to logits (B, 2).
        student: (B, d).
        teacher: (B, d).
    """
    logits = discriminator(torch.cat([student, teacher]))
    with without_autocast(logits):
        labels = torch.eye(2, dtype=logits.dtype, device=logits.device).repeat_interleave(len(student), 0)
        return functional.binary_cross_entropy_with_logits(logits, labels)


def deception_loss(discriminator: nn.Module, student: Tensor) -> Tensor:
    """-log D_teacher of student (B, d), in nats, mean over the batch: what it lowers to pass for a teacher."""
    logits = discriminator(student)
    with without_autocast(logits):
        return -functional.logsigmoid(logits[:, 1]).mean()


class VectorReader:
    """A network that answers with vectors: aligned features of some modules, and last its logits.

    No module, as :class:`~coterie.networks.observe.features.Features`: whoever holds it holds the network.

    Args:
        network: Maps images to logits or to a group's answer.
        paths: Of the modules.
        lengths: d of each.
        pooling: Of the alignment.
        option: Who named the modules, for complaints.

    Raises:
        UserError: The network has no such module.
    """

    def __init__(
        self,
        network: nn.Module,
        paths: Sequence[str] = (),
        lengths: Sequence[int] = (),
        pooling: Pooling = "avg",
        option: str | None = None,
    ) -> None:
        self.network, self.lengths, self.pooling = network, tuple(lengths), pooling
        self.features = Features(network, paths, option) if paths else None

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images as the network wants them to the modules' vectors (B, d_j), in order, and the logits (B, C)."""
        if self.features is None:
            return (answer(self.network(images)),)
        output, features = self.features(images)
        pairs = zip(features.values(), self.lengths, strict=True)
        return (*(align(value, length, self.pooling) for value, length in pairs), answer(output))


class StudentTeacherPair(nn.Module):
    """A student and its teachers, asked about the same images for the vectors that they are compared by.

    Args:
        student: What the student answers with; its network belongs to this module.
        teacher: The teachers.
        answers: What each of them answers with, in order; None to ask for logits alone, which may be remembered.
        draws: Whether one teacher is drawn for each batch, uniformly, by PyTorch's generator of the CPU (in a Run a
            function of seed, stage, epoch and step); False asks all.
    """

    def __init__(
        self, student: VectorReader, teacher: Teacher, answers: Sequence[VectorReader] | None, draws: bool
    ) -> None:
        super().__init__()
        self.student, self.teacher = student.network, teacher
        self.vectors, self.answers, self.draws = student, answers, draws

    def student_vectors(self, batch: Batch) -> tuple[Tensor, ...]:
        """The student's vectors (B, d_j), the logits last."""
        return self.vectors(batch.images)

    @torch.no_grad()
    def teacher_vectors(self, batch: Batch) -> tuple[Tensor, ...]:
        """The teachers' vectors (B, t, d_j), the logits last; t is 1 where one is drawn."""
        member = int(torch.randint(len(self.teacher.members), ())) if self.draws else None
        if self.answers is None:
            return (self.teacher.answers(batch, member),)
        chosen = range(len(self.answers)) if member is None else [member]
        answers = [self.answers[i](self.teacher.members[i].convert(batch.images)) for i in chosen]
        return tuple(torch.stack(vectors, 1) for vectors in zip(*answers, strict=True))


def scale_gradient(tensor: Tensor, factor: float) -> Tensor:
    """The same values, with a gradient multiplied by ``factor``: at a negative one it is reversed.

    (Ganin et al., *Domain-adversarial training of neural networks*, JMLR 2016, section 4.2.)
    """
    scaled: Tensor = _ScaledGradient.apply(tensor, factor)
    return scaled


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0] * ctx.factor, None
