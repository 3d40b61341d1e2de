"""The loss of every online method: what ``coterie train`` optimises, and what ``coterie.losses`` computes.

With z (B, m, C) the peers' logits, e (B, C) the ensemble's, y (B,) the labels, and for each distillation soft targets
q (B, s, t, C) of t teachers for each of s students:

    L = a Σ_i CE(z_i, y) + b CE(e, y) + Σ_distillations w(t) T² Σ_s mean_t KL(softmax(q_st / T) ‖ softmax(z_s / T))

KL stands for whichever of ``coterie.functional.DIVERGENCES`` the distillation names.
Sums are over peers and students, means over the batch. :func:`supervise` computes the first two terms and
:func:`imitate` one of the third; :class:`Loss` puts them together as a method's configuration says.
"""

from math import inf

import torch
from torch import Tensor, nn
from torch.nn import functional

from coterie.errors import UserError, unknown_name
from coterie.functional import DIVERGENCES, ramp_up
from coterie.methods.online.config import Distillation, OnlineConfig
from coterie.methods.online.targets import TARGETS
from coterie.outputs import LossTerms, PeerOutput, ensemble_of, without_autocast

# PyTorch's own, -100, would leave an image with such a label out in silence.
_NO_LABEL = -(2**62)


def supervise(
    output: PeerOutput,
    labels: Tensor,
    learners: tuple[int, ...] | None = None,
    ce_weight: float = 1.0,
    ensemble_ce_weight: float = 1.0,
) -> dict[str, Tensor]:
    """What the labels teach: a Σ_i CE(z_i, y), and b CE(e, y) where there is an ensemble and b is not 0.

    Args:
        output: Logits (B, m, C), and the ensemble's (B, C) or none.
        labels: Class indices (B,), or distributions (B, C).
        learners: The peers i, by number; None for all.
        ce_weight: a >= 0.
        ensemble_ce_weight: b >= 0.

    Returns:
        Scalars by name: ``cross_entropy`` and ``cross_entropy_ensemble``.

    Raises:
        UserError: The labels do not fit the logits.
    """
    check_labels(output, labels)
    if torch.compiler.is_compiling():
        return _supervise(output, labels, learners, ce_weight, ensemble_ce_weight)
    try:
        return _supervise(output, labels, learners, ce_weight, ensemble_ce_weight)
    except IndexError as error:  # what a CPU raises; looking at every batch's labels would make a GPU wait
        low, high, classes = labels.min().item(), labels.max().item(), output.logits.shape[2]
        raise UserError(
            f"labels go from {low} to {high}; with {classes} classes they go from 0 to {classes - 1}"
        ) from error


def _supervise(
    output: PeerOutput, labels: Tensor, learners: tuple[int, ...] | None, ce_weight: float, ensemble_ce_weight: float
) -> dict[str, Tensor]:
    peers = range(output.logits.shape[1]) if learners is None else learners
    with without_autocast(output.logits):
        losses = [functional.cross_entropy(output.logits[:, peer], labels, ignore_index=_NO_LABEL) for peer in peers]
        terms = {"cross_entropy": ce_weight * torch.stack(losses).sum()}
        if ensemble_ce_weight and output.ensemble is not None:
            terms["cross_entropy_ensemble"] = ensemble_ce_weight * functional.cross_entropy(
                output.ensemble, labels, ignore_index=_NO_LABEL
            )
    return terms


def imitate(
    students: Tensor,
    targets: Tensor,
    temperature: float,
    weight: float | Tensor = 1.0,
    *,
    detach: bool = True,
    scale_by_t2: bool = True,
    loss: str = "kl",
    labels: Tensor,
) -> Tensor:
    """What soft targets teach: w T² Σ_s mean_t KL(softmax(q_st / T) ‖ softmax(z_s / T)), a scalar.

    Args:
        students: Logits z (B, s, C).
        targets: Logits q (B, s, t, C), or (B, 1, t, C) where all students have the same.
        temperature: T > 0.
        weight: w >= 0, the ramp's value included; a scalar tensor is not looked at.
        detach: Whether the targets are held fixed; otherwise the gradient reaches what they are made of.
        scale_by_t2: Whether the term is multiplied by T².
        loss: What takes the place of KL, a name of ``coterie.functional.DIVERGENCES``.
        labels: Class indices (B,), or distributions (B, C), for losses that ask for them.

    Raises:
        UserError: The temperature or the weight is no number, or out of range; or the loss is unknown, or takes no such
            labels.
    """
    # Plain comparisons, which torch.compile looks through (PyTorch 2.9 not through `int | float`); NaN fails them.
    if not isinstance(temperature, (int, float)) or not 1e-6 <= temperature <= 1e6:
        raise UserError(f"temperature is {temperature!r}; use a number from 1e-06 to 1000000")
    if not isinstance(weight, Tensor) and not (isinstance(weight, (int, float)) and 0 <= weight < inf):
        raise UserError(f"weight is {weight!r}; use a finite number of 0 or more")
    scale = temperature**2 if scale_by_t2 else 1.0
    if loss not in DIVERGENCES:
        raise unknown_name("divergence", loss, DIVERGENCES)
    targets = targets.detach() if detach else targets
    return weight * scale * DIVERGENCES[loss](students, targets, temperature, labels)


def check_labels(output: PeerOutput, labels: Tensor) -> None:
    """Check that labels are those of an output: their shape and type.

    Raises:
        UserError: There is no output of peers, or the labels are neither class indices (B,) nor distributions (B, C).
    """
    if not isinstance(output, PeerOutput):
        raise UserError(f"the loss takes the output of peers, a PeerOutput; this is {type(output).__name__}")
    batch = len(output.logits)
    if not isinstance(labels, Tensor):
        raise UserError(f"labels are {type(labels).__name__}; give a tensor of {batch} class indices")
    indices = labels.shape == (batch,) and labels.dtype == torch.int64
    distributions = labels.shape == (batch, output.logits.shape[2]) and labels.is_floating_point()
    if not (indices or distributions):
        shape, kind = tuple(labels.shape), str(labels.dtype).removeprefix("torch.")
        raise UserError(
            f"labels are {kind} of shape {shape}; give class indices, int64 of shape ({batch},), or distributions, "
            f"floats of shape ({batch}, {output.logits.shape[2]})"
        )


class Loss(nn.Module):
    """The loss of an online method, for some of its peers.

    It holds what is learnt or kept for the soft targets: OKDDip's attention has parameters, which belong in the
    optimiser; KDCL's general teacher has a buffer, which :meth:`renew` sets.

    Args:
        config: The method's configuration.
        learners: Which peers learn, by number.
        example: An output of the peers, for the sizes of what it gives.

    Example:
        >>> method = coterie.methods.OkdDip(num_peers=3)
        >>> net = method.build_peers(model, images[:2])
        >>> loss = method.loss(net(images[:2]))
        >>> optimiser = torch.optim.SGD([*net.parameters(), *loss.parameters()], lr=0.1)
        >>> loss(net(images), labels, progress=0.5).total.backward()
    """

    def __init__(self, config: OnlineConfig, learners: tuple[int, ...], example: PeerOutput) -> None:
        super().__init__()
        if example.logits.shape[1] != config.peers.count:
            raise UserError(f"the output is of {example.logits.shape[1]} peers; the method has {config.peers.count}")
        self.config, self.learners = config, learners
        self.distillations: list[Distillation] = []
        self.students: list[tuple[int, ...]] = []  # of each distillation, by number; none where it is the ensemble
        self.targets = nn.ModuleList()
        for distillation in config.distillations:
            students = tuple(student for student in config.students(distillation) if student in learners)
            if students or distillation.students == "ensemble":
                self.distillations.append(distillation)
                self.students.append(students)
                self.targets.append(TARGETS[distillation.source](config.teachers(distillation), students, example))

    def forward(
        self, output: PeerOutput, labels: Tensor, progress: float | Tensor = 1.0, averaged: PeerOutput | None = None
    ) -> LossTerms:
        """The loss of an output, by terms.

        Args:
            output: Of the peers: logits (B, m, C), and the ensemble's (B, C).
            labels: Class indices (B,), or distributions (B, C).
            progress: The share of the training that is over, from 0 to 1, a number or a scalar tensor: weights rise
                with it.
            averaged: The output of the peers' moving averages, where they teach (PCL).

        Returns:
            ``cross_entropy``, ``cross_entropy_ensemble`` where the ensemble learns from labels, and ``distillation``,
            or ``distillation1_…``, ``distillation2_…`` where there are several.

        Raises:
            UserError: The labels do not fit the output; or it lacks the ensemble, or ``averaged`` is missing.
        """
        config = self.config
        terms = supervise(output, labels, self.learners, config.ce_weight, config.ensemble_ce_weight)
        for number, distillation in enumerate(self.distillations):
            name = "distillation" if len(self.distillations) == 1 else f"distillation{number + 1}_{distillation.source}"
            teachers = averaged if distillation.from_ema else output
            if teachers is None:
                raise UserError("the peers' moving averages teach here; give averaged=, their output")
            # Before the students are read: autograd adds up gradients in this order, and so to these last digits.
            targets = self.targets[number](teachers, labels)
            students = self.students[number]
            terms[name] = imitate(
                output.logits_of(students) if students else ensemble_of(output)[:, None],
                targets,
                config.temperature if distillation.temperature is None else distillation.temperature,
                self._weight(distillation, progress),
                detach=distillation.detach,
                scale_by_t2=distillation.scale_by_t2,
                loss=distillation.loss,
                labels=labels,
            )
        return LossTerms(terms)

    def renew(self, logits: Tensor, labels: Tensor) -> None:
        """Renew soft targets that are weighed on validation images, after an epoch (KDCL's general teacher).

        Args:
            logits: The peers' logits on the validation images (N, m, C).
            labels: Their class indices (N,).
        """
        for targets in self.targets:
            targets.renew(logits, labels)  # type: ignore[operator]

    @property
    def needs_validation(self) -> bool:
        """Whether soft targets are weighed on validation images."""
        return any(targets.needs_validation for targets in self.targets)

    def _weight(self, distillation: Distillation, progress: float | Tensor) -> float | Tensor:
        rampup = self.config.rampup if distillation.rampup is None else distillation.rampup
        return distillation.weight * ramp_up(progress, rampup)
