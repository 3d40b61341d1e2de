"""Two networks' sites side by side, and the two steps in which one's features are coded and the other predicts them."""

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
    codes_kept,
    dictionary_size,
    image_loss,
    pixel_loss,
    pooled_to,
    reconstruction_loss,
)
from coterie.networks.features import FeaturePlace, Features, describe_features, find_stage_ends, match_features
from coterie.outputs import Batch, LossTerms, StepResult

log = logging.getLogger("coterie")

Target = Literal["local", "global", "both"]


class Pair(NamedTuple):
    """A student's site and the teacher's that it learns from."""

    student: FeaturePlace
    teacher: FeaturePlace

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) at which the two meet: the smaller of the two maps'."""
        return min(self.student.size[0], self.teacher.size[0]), min(self.student.size[1], self.teacher.size[1])


def paired(
    student: nn.Module,
    teacher: Adapted,
    example: Tensor,
    sites: Sequence[str] | None = None,
    teacher_sites: Sequence[str] | None = None,
    pool: bool = True,
) -> list[Pair]:
    """The sites at which a student is to meet its teacher; they are said.

    Args:
        student: A classifier.
        teacher: Another.
        example: Images (B, channels, H, W) as the student is given them.
        sites: The student's; None for the teacher's by name, or where these are None too, for the ends of both
            networks' stages (:func:`~coterie.networks.features.find_stage_ends`) of the same size.
        teacher_sites: The teacher's; None for the student's by name.
        pool: Whether maps of unequal size may meet.

    Raises:
        UserError: There are no such sites, the lists differ in length, or sizes do and must not.
    """
    theirs = teacher.convert(example)
    if sites is None and teacher_sites is None:
        found = match_features(find_stage_ends(student, example), find_stage_ends(teacher.network, theirs))
    else:
        options = ("⟨method.sites⟩", "⟨method.teacher_sites⟩")
        ours, others = sites or teacher_sites or (), teacher_sites or sites or ()
        if len(ours) != len(others):
            raise UserError(f"⟨method.teacher_sites⟩ names {len(others)}, and ⟨method.sites⟩ {len(ours)}; pair them")
        first = describe_features(student, ours, example, options[0] if sites else options[1])
        second = describe_features(teacher.network, others, theirs, options[1] if teacher_sites else options[0])
        found = list(zip(first, second, strict=True))
    if not found:
        raise UserError("no stages of student and teacher match; name ⟨method.sites⟩ and ⟨method.teacher_sites⟩")
    pairs = [Pair(*each) for each in found]
    for pair in pairs:
        log.info("site %s", _said(pair))
        if pair.student.size != pair.teacher.size and not pool:
            raise UserError(f"⟨method.unequal⟩ is refuse, and sizes differ: {_said(pair)}; name other ⟨method.sites⟩")
    return pairs


def _said(pair: Pair) -> str:
    def one(site: FeaturePlace) -> str:
        return f"{site.path} ({site.channels}x{site.size[0]}x{site.size[1]})"

    text = f"{one(pair.student)} learns from the teacher's {one(pair.teacher)}"
    return text if pair.student.size == pair.teacher.size else f"{text}, averaged to {pair.size[0]}x{pair.size[1]}"


class _Reader:
    """Features at one side of the pairs, averaged to the size at which the two meet."""

    def __init__(self, network: nn.Module, sites: Sequence[FeaturePlace], pairs: Sequence[Pair]) -> None:
        self.sites = Features(network, list(dict.fromkeys(site.path for site in sites)))
        self.order = [(site.path, pair.size) for site, pair in zip(sites, pairs, strict=True)]

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Images as the network wants them to features (B, C, H, W) or (B, C), one for each pair."""
        _, features = self.sites(images)
        return [pooled_to(features[path], size) for path, size in self.order]


class _Read(nn.Module):
    """A trained network's features for images as the data have them, without a gradient."""

    def __init__(self, teacher: Teacher, pairs: Sequence[Pair], moving: Adapted | None = None) -> None:
        super().__init__()
        self.teacher, self.moving = teacher, moving
        self.read = _Reader((moving or teacher.members[0]).network, [pair.teacher for pair in pairs], pairs)

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, channels, H, W) to features, one for each pair."""
        return self.read(self.teacher.members[0].convert(images))


class LearningDictionaries(nn.Module):
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

    def __init__(self, teacher: Teacher, pairs: Sequence[Pair], mu: float, lam: float, drifting: bool = False) -> None:
        super().__init__()
        widths = [pair.teacher.channels for pair in pairs]
        self.pairs, self.atoms = tuple(pairs), tuple(dictionary_size(width, mu) for width in widths)
        for pair, atoms in zip(pairs, self.atoms, strict=True):
            if atoms < 2:
                raise UserError(f"⟨method.mu⟩ is {mu}: site {pair.teacher.path} would have {atoms} atoms; raise it")
        self.features = _Read(teacher, pairs, copy.deepcopy(teacher.members[0]) if drifting else None)
        self.codings = nn.ModuleList(
            SparseCoding(width, atoms, codes_kept(width, mu, lam))
            for width, atoms in zip(widths, self.atoms, strict=True)
        )

    def forward(self, batch: Batch) -> StepResult:
        """A batch to the loss of its reconstruction; labels are not used."""
        losses = [
            reconstruction_loss(features, coding(features).reconstruction)
            for coding, features in zip(self.codings, self.features(batch.images), strict=True)
        ]
        return StepResult(LossTerms({"reconstruction": torch.stack(losses).sum()}))

    def labelling(self) -> "Labelling":
        """What the dictionaries say of the teacher, or of its drifted copy as it is now."""
        moving = self.features.moving
        teacher = self.features.teacher if moving is None else Teacher([moving])
        return Labelling(_Read(teacher, self.pairs), self.codings, self.atoms)


class Labelling(nn.Module):
    """A teacher's sparse codes as labels for a student; made by :meth:`LearningDictionaries.labelling`."""

    def __init__(self, features: _Read, codings: nn.ModuleList, atoms: tuple[int, ...]) -> None:
        super().__init__()
        self.features, self.codings, self.atoms = features, codings, atoms

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Codes]:
        """Images (B, channels, H, W) as the data have them to codes, one for each pair."""
        found = self.features(images)
        return [coding(features) for coding, features in zip(self.codings, found, strict=True)]


class Initialising(nn.Module):
    """The step in which a student learns to predict its teacher's sparse codes; class labels are not used.

    Args:
        student: What learns, up to its last site: nothing reaches what lies above.
        labelling: Gives the labels.
        pairs: Where the two meet.
        target: Which are learned: those of places (``local``), of images (``global``), or ``both``.
        logits: See :func:`~coterie.methods.srm.sparse_coding.pixel_loss`.
    """

    def __init__(
        self,
        student: nn.Module,
        labelling: Labelling,
        pairs: Sequence[Pair],
        target: Target = "both",
        logits: PixelLogits = "raw",
    ) -> None:
        super().__init__()
        self.student, self.labelling = student, labelling
        self.target, self.logits = target, logits
        self.read = _Reader(student, [pair.student for pair in pairs], pairs)
        self.heads = nn.ModuleList(
            SparseHead(pair.student.channels, atoms) for pair, atoms in zip(pairs, labelling.atoms, strict=True)
        )

    def forward(self, batch: Batch) -> StepResult:
        """A batch to Σ_l of the local and the global loss."""
        wanted = self.labelling(batch.images)
        said = [head(features) for head, features in zip(self.heads, self.read(batch.images), strict=True)]
        terms: dict[str, Tensor] = {}
        if self.target != "global":
            losses = [pixel_loss(z, codes.pixel_labels, self.logits) for z, codes in zip(said, wanted, strict=True)]
            terms["local"] = torch.stack(losses).sum()
        if self.target != "local":
            losses = [image_loss(z, codes.image_labels) for z, codes in zip(said, wanted, strict=True)]
            terms["global"] = torch.stack(losses).sum()
        return StepResult(LossTerms(terms))
