"""Two networks' features side by side, and the two steps in which one's are coded and the other predicts the codes."""

import copy
import logging
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from coterie.errors import UserError
from coterie.methods.frozen_teacher import Adapted, Teacher
from coterie.methods.srm.sparse_coding import (
    Codes,
    PixelLogits,
    SparseCoding,
    SparseHead,
    count_atoms,
    count_kept_codes,
    image_loss,
    pixel_loss,
    pool_to,
    reconstruction_loss,
)
from coterie.networks.observe.features import FeaturePlace, Features, describe_features, find_stage_ends, match_features
from coterie.outputs import Batch, LossTerms, StepResult

log = logging.getLogger("coterie")

CodeTarget = Literal["local", "global", "both"]


class FeaturePair(NamedTuple):
    """Features of a student, and those of the teacher that it learns from."""

    student: FeaturePlace
    teacher: FeaturePlace

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) at which the two meet: the smaller of the two maps'."""
        return min(self.student.size[0], self.teacher.size[0]), min(self.student.size[1], self.teacher.size[1])


def pair_features(
    student: nn.Module,
    teacher: Adapted,
    example: Tensor,
    features: Sequence[str] | None = None,
    teacher_features: Sequence[str] | None = None,
    pool: bool = True,
) -> list[FeaturePair]:
    """The features by which a student is to meet its teacher; they are logged.

    Args:
        student: A classifier.
        teacher: Another.
        example: Images (B, channels, H, W) as the student is given them.
        features: Where the student is read; None for the teacher's by name, or where these are None too, for the ends
            of both networks' stages (:func:`~coterie.networks.observe.features.find_stage_ends`) of the same size.
        teacher_features: Where the teacher is read; None for the student's by name.
        pool: Whether maps of unequal size may meet.

    Raises:
        UserError: There are no such modules, the lists differ in length, or sizes do and must not.
    """
    theirs = teacher.convert(example)
    if features is None and teacher_features is None:
        places = match_features(find_stage_ends(student, example), find_stage_ends(teacher.network, theirs))
    else:
        options = ("⟨method.features⟩", "⟨method.teacher_features⟩")
        ours, others = features or teacher_features or (), teacher_features or features or ()
        if len(ours) != len(others):
            raise UserError(f"{options[1]} names {len(others)}, and {options[0]} {len(ours)}; name as many of each")
        first = describe_features(student, ours, example, options[0] if features else options[1])
        second = describe_features(teacher.network, others, theirs, options[1] if teacher_features else options[0])
        places = list(zip(first, second, strict=True))
    if not places:
        raise UserError("no stages of student and teacher match; name ⟨method.features⟩ and ⟨method.teacher_features⟩")
    pairs = [FeaturePair(*pair) for pair in places]
    for pair in pairs:
        log.info("features %s", _describe(pair))
        if pair.student.size != pair.teacher.size and not pool:
            raise UserError(
                f"⟨method.unequal⟩ is refuse, and sizes differ: {_describe(pair)}; name other ⟨method.features⟩"
            )
    return pairs


def _describe(pair: FeaturePair) -> str:
    def describe(place: FeaturePlace) -> str:
        return f"{place.path} ({place.channels}x{place.size[0]}x{place.size[1]})"

    text = f"{describe(pair.student)} learns from the teacher's {describe(pair.teacher)}"
    return text if pair.student.size == pair.teacher.size else f"{text}, averaged to {pair.size[0]}x{pair.size[1]}"


class _FeatureReader:
    """Features at one side of the pairs, averaged to the size at which the two meet."""

    def __init__(self, network: nn.Module, places: Sequence[FeaturePlace], pairs: Sequence[FeaturePair]) -> None:
        self.features = Features(network, list(dict.fromkeys(place.path for place in places)))
        self.order = [(place.path, pair.size) for place, pair in zip(places, pairs, strict=True)]

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Images as the network wants them to features (B, C, H, W) or (B, C), one for each pair."""
        _, features = self.features(images)
        return [pool_to(features[path], size) for path, size in self.order]


class _TeacherFeatures(nn.Module):
    """A trained network's features for images as the data have them, without a gradient."""

    def __init__(self, teacher: Teacher, pairs: Sequence[FeaturePair], moving: Adapted | None = None) -> None:
        super().__init__()
        self.teacher, self.moving = teacher, moving
        self.read = _FeatureReader((moving or teacher.members[0]).network, [pair.teacher for pair in pairs], pairs)

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, channels, H, W) to features, one for each pair."""
        return self.read(self.teacher.members[0].convert(images))


class DictionaryStep(nn.Module):
    """The step in which dictionaries learn to reconstruct a frozen teacher's features: Σ_l MSE(t, D ψ).

    Args:
        teacher: One network.
        pairs: Where it is read.
        mu: M / C.
        lam: k / M.
        drifting: Whether it is read in training mode, its batch norms gathering statistics anew: on a copy, which then
            gives the labels.

    Attributes:
        codings: A :class:`~coterie.methods.srm.sparse_coding.SparseCoding` for each pair; all that learns.
        atoms: M of each.

    Raises:
        UserError: A dictionary would have fewer than 2 atoms.
    """

    def __init__(
        self, teacher: Teacher, pairs: Sequence[FeaturePair], mu: float, lam: float, drifting: bool = False
    ) -> None:
        super().__init__()
        widths = [pair.teacher.channels for pair in pairs]
        self.pairs, self.atoms = tuple(pairs), tuple(count_atoms(width, mu) for width in widths)
        for pair, atoms in zip(pairs, self.atoms, strict=True):
            if atoms < 2:
                raise UserError(f"⟨method.mu⟩ is {mu}: {pair.teacher.path} would have {atoms} atoms; raise it")
        self.features = _TeacherFeatures(teacher, pairs, copy.deepcopy(teacher.members[0]) if drifting else None)
        self.codings = nn.ModuleList(
            SparseCoding(width, atoms, count_kept_codes(width, mu, lam))
            for width, atoms in zip(widths, self.atoms, strict=True)
        )

    def forward(self, batch: Batch) -> StepResult:
        """A batch to the loss of its reconstruction; labels are not used."""
        losses = [
            reconstruction_loss(features, coding(features).reconstruction)
            for coding, features in zip(self.codings, self.features(batch.images), strict=True)
        ]
        return StepResult(LossTerms({"reconstruction": torch.stack(losses).sum()}))

    def make_labels(self) -> "CodeLabels":
        """The codes by these dictionaries of the teacher, or of its drifted copy as it is now."""
        moving = self.features.moving
        teacher = self.features.teacher if moving is None else Teacher([moving])
        return CodeLabels(_TeacherFeatures(teacher, self.pairs), self.codings, self.atoms)


class CodeLabels(nn.Module):
    """A teacher's sparse codes as labels for a student; made by :meth:`DictionaryStep.make_labels`."""

    def __init__(self, features: _TeacherFeatures, codings: nn.ModuleList, atoms: tuple[int, ...]) -> None:
        super().__init__()
        self.features, self.codings, self.atoms = features, codings, atoms

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Codes]:
        """Images (B, channels, H, W) as the data have them to codes, one for each pair."""
        return [coding(features) for coding, features in zip(self.codings, self.features(images), strict=True)]


class InitialisationStep(nn.Module):
    """The step in which a student learns to predict its teacher's sparse codes; class labels are not used.

    Args:
        student: What learns, up to its last features: nothing reaches what lies above.
        labelling: Gives the labels.
        pairs: Where the two meet.
        target: Which are learned: those of places (``local``), of images (``global``), or ``both``.
        logits: See :func:`~coterie.methods.srm.sparse_coding.pixel_loss`.
    """

    def __init__(
        self,
        student: nn.Module,
        labelling: CodeLabels,
        pairs: Sequence[FeaturePair],
        target: CodeTarget = "both",
        logits: PixelLogits = "raw",
    ) -> None:
        super().__init__()
        self.student, self.labelling = student, labelling
        self.target, self.logits = target, logits
        self.read = _FeatureReader(student, [pair.student for pair in pairs], pairs)
        self.heads = nn.ModuleList(
            SparseHead(pair.student.channels, atoms) for pair, atoms in zip(pairs, labelling.atoms, strict=True)
        )

    def forward(self, batch: Batch) -> StepResult:
        """A batch to Σ_l of the local and the global loss."""
        wanted = self.labelling(batch.images)
        predicted = [head(features) for head, features in zip(self.heads, self.read(batch.images), strict=True)]
        both = list(zip(predicted, wanted, strict=True))
        terms: dict[str, Tensor] = {}
        if self.target != "global":
            losses = [pixel_loss(z, codes.pixel_labels, self.logits) for z, codes in both]
            terms["local"] = torch.stack(losses).sum()
        if self.target != "local":
            losses = [image_loss(z, codes.image_labels) for z, codes in both]
            terms["global"] = torch.stack(losses).sum()
        return StepResult(LossTerms(terms))
