"""The methods' losses, for a training loop of your own.

Each function computes what ``coterie train --method NAME`` optimises, by the same code. It takes what peers say of a
batch (:class:`~coterie.outputs.PeerOutput`, the output of :func:`coterie.branch` or of ``method.build_peers``) and the
labels, and gives :class:`~coterie.outputs.LossTerms`, whose ``total`` is differentiated:

    net = coterie.branch(model, 3, example=images[:2])
    coterie.losses.one(net(images), labels, temperature=3.0, weight=1.0).total.backward()

``weight`` is the weight of the distillation in this step. Methods let it rise at the beginning, which
:func:`coterie.functional.ramp_up` computes. Every option of a method, and every method, :func:`okddip` and KDCL's
general teacher with what they learn included, is had by ``method.loss(example)``: a module that holds parameters and
buffers, and lets the weight rise by itself:

    method = coterie.methods.Dml(num_peers=3)
    net = method.build_peers(model, images[:2])
    loss = method.loss(net(images[:2]))
    loss(net(images), labels, progress=0.5).total.backward()

Shapes: B images, m peers, C classes. Labels are class indices (B,), int64, or distributions
(B, C). Values are means over the batch, in nats.
"""

from typing import Literal

from torch import Tensor

from coterie.errors import UserError, unknown_name
from coterie.methods.kd import kd_loss as kd
from coterie.methods.online.loss import Loss, imitate, supervise
from coterie.methods.online.okddip import OkdDip
from coterie.methods.online.targets import Best, Each, Ensemble, Linear, Mean, MinLogit, Others, Targets
from coterie.outputs import LossTerms, PeerOutput, ensemble_of

__all__ = ["Loss", "cl_ilr", "dml", "ffl", "kd", "kdcl", "okddip", "one", "pcl"]

_KDCL: dict[str, type[Targets]] = {"naive": Best, "linear": Linear, "min-logit": MinLogit}


def one(
    output: PeerOutput,
    labels: Tensor,
    temperature: float = 3.0,
    weight: float = 1.0,
    *,
    detach_teacher: bool = True,
    distill: bool = True,
    divergence: str = "kl",
) -> LossTerms:
    """ONE's loss: Σ_i CE(z_i, y) + CE(z_e, y) + w T² Σ_i KL(softmax(z_e / T) ‖ softmax(z_i / T)).

    (Lan, Zhu, Gong 2018, equation 7; see :mod:`coterie.methods.online.one`.)

    Args:
        output: Logits z (B, m, C) and the ensemble's z_e (B, C).
        labels: y (B,).
        temperature: T > 0.
        weight: w >= 0, the ramp's value.
        detach_teacher: Whether the ensemble is held fixed inside the KL, as in the official code.
        distill: False drops the KL (the paper's ablation "without online distillation").
        divergence: What takes the place of KL, a name of ``coterie.functional.DIVERGENCES``.

    Returns:
        ``cross_entropy`` (sum over branches), ``cross_entropy_ensemble``, and ``distillation``.

    Raises:
        UserError: The output has no ensemble, the labels do not fit it, or a number is out of range.
    """
    teacher = ensemble_of(output)[:, None, None]
    terms = supervise(output, labels)
    if distill:
        terms["distillation"] = imitate(
            output.logits, teacher, temperature, weight, detach=detach_teacher, loss=divergence, labels=labels
        )
    return LossTerms(terms)


def dml(
    output: PeerOutput, labels: Tensor, temperature: float = 1.0, weight: float = 1.0, *, divergence: str = "kl"
) -> LossTerms:
    """DML's loss: Σ_k [ CE(z_k, y) + w T² / (m - 1) Σ_{j≠k} KL(softmax(z_j / T) ‖ softmax(z_k / T)) ].

    All peers learn at once. The paper updates one after another: give each its own loss,
    ``Dml().loss(example, learners=(k,))``, and a forward of all before each update. (Zhang et al. 2018; see
    :mod:`coterie.methods.online.dml`.)

    Args:
        output: Logits z (B, m, C) of two peers or more; those of teachers are held fixed.
        labels: y (B,).
        temperature: T > 0.
        weight: w >= 0.
        divergence: What takes the place of KL, a name of ``coterie.functional.DIVERGENCES``.

    Returns:
        ``cross_entropy`` and ``distillation``, each summed over peers.

    Raises:
        UserError: There is one peer, the labels do not fit the output, or a number is out of range.
    """
    terms = supervise(output, labels, ensemble_ce_weight=0.0)
    terms["distillation"] = imitate(
        output.logits, _make(Each, output, labels), temperature, weight, loss=divergence, labels=labels
    )
    return LossTerms(terms)


def cl_ilr(
    output: PeerOutput, labels: Tensor, temperature: float = 2.0, beta: float = 0.5, *, divergence: str = "kl"
) -> LossTerms:
    """CL-ILR's loss: Σ_h [ β CE(z_h, y) + (1 - β) KL(softmax(1/(m-1) Σ_{j≠h} z_j / T) ‖ softmax(z_h / T)) ].

    Branch with ``rescale=True``, as the method does. (Song, Chai 2018; see :mod:`coterie.methods.online.cl_ilr`, whose
    ``ClIlr(weights=…)`` has the weights of others' code.)

    Args:
        output: Logits z (B, m, C) of two heads or more; those of teachers are held fixed.
        labels: y (B,).
        temperature: T > 0.
        beta: β, from 0 to 1.
        divergence: What takes the place of KL, a name of ``coterie.functional.DIVERGENCES``.

    Returns:
        ``cross_entropy`` and ``distillation``, each summed over heads.

    Raises:
        UserError: There is one head, the labels do not fit the output, or a number is out of range.
    """
    if not isinstance(beta, (int, float)) or not 0 <= beta <= 1:
        raise UserError(f"beta is {beta!r}; use a number from 0 to 1")
    terms = supervise(output, labels, ce_weight=beta, ensemble_ce_weight=0.0)
    teachers = _make(Others, output, labels)
    terms["distillation"] = imitate(
        output.logits, teachers, temperature, 1 - beta, scale_by_t2=False, loss=divergence, labels=labels
    )
    return LossTerms(terms)


def kdcl(
    output: PeerOutput,
    labels: Tensor,
    temperature: float = 2.0,
    weight: float = 1.0,
    *,
    teacher: Literal["naive", "linear", "min-logit"] = "min-logit",
    divergence: str = "kl",
) -> LossTerms:
    """KDCL's loss: Σ_i [ CE(z_i, y) + λ T² KL(softmax(z_t / T) ‖ softmax(z_i / T)) ], z_t made of all z_i.

    (Guo et al. 2020; see :mod:`coterie.methods.online.kdcl`.) The general teacher is weighed on validation images and
    keeps the weights: ``Kdcl(teacher="general").loss(example)``, whose ``renew`` is called after every epoch.

    Args:
        output: Logits z (B, m, C).
        labels: y (B,).
        temperature: T > 0.
        weight: λ >= 0.
        teacher: How z_t is made: ``naive``, ``linear`` or ``min-logit``.
        divergence: What takes the place of KL, a name of ``coterie.functional.DIVERGENCES``.

    Returns:
        ``cross_entropy`` and ``distillation``, each summed over peers.

    Raises:
        UserError: The teacher is unknown, the labels do not fit the output, or a number is out of range.
    """
    if str(teacher) == "general":
        raise UserError('the general teacher keeps weights; use Kdcl(teacher="general").loss(example)')
    if teacher not in _KDCL:
        raise unknown_name("teacher", str(teacher), _KDCL)
    terms = supervise(output, labels, ensemble_ce_weight=0.0)
    terms["distillation"] = imitate(
        output.logits, _make(_KDCL[teacher], output, labels), temperature, weight, loss=divergence, labels=labels
    )
    return LossTerms(terms)


def ffl(
    output: PeerOutput, labels: Tensor, temperature: float = 3.0, weight: float = 1.0, *, divergence: str = "kl"
) -> LossTerms:
    """FFL's loss, with f the logits of the fused classifier and z̄ the mean of the sub-networks' z_k.

    Σ_k CE(z_k, y) + CE(f, y) + w T² [ Σ_k KL(softmax(f / T) ‖ softmax(z_k / T)) + KL(softmax(z̄ / T) ‖ softmax(f / T)) ]

    ``Ffl().build_peers(model, example)`` makes the sub-networks and the fused classifier. (Kim et al. 2020; see
    :mod:`coterie.methods.online.ffl`.)

    Args:
        output: Logits z (B, m, C) and the fused classifier's f (B, C) as the ensemble; each is held fixed as a teacher.
        labels: y (B,).
        temperature: T > 0.
        weight: w >= 0, the ramp's value.
        divergence: What takes the place of KL, a name of ``coterie.functional.DIVERGENCES``.

    Returns:
        ``cross_entropy``, ``cross_entropy_ensemble``, ``distillation1_ensemble`` (to the sub-networks) and
        ``distillation2_mean`` (to the fused classifier).

    Raises:
        UserError: The output has no ensemble, the labels do not fit it, or a number is out of range.
    """
    fused = ensemble_of(output)
    terms = supervise(output, labels)
    terms["distillation1_ensemble"] = imitate(
        output.logits, _make(Ensemble, output, labels), temperature, weight, loss=divergence, labels=labels
    )
    terms["distillation2_mean"] = imitate(
        fused[:, None], _make(Mean, output, labels), temperature, weight, loss=divergence, labels=labels
    )
    return LossTerms(terms)


def pcl(
    output: PeerOutput,
    labels: Tensor,
    averaged: PeerOutput,
    temperature: float = 3.0,
    weight: float = 1.0,
    *,
    divergence: str = "kl",
) -> LossTerms:
    """PCL's loss, with e the ensemble's logits and z̄_k those of peer k's moving average.

    Σ_j CE(z_j, y) + CE(e, y) + w T² Σ_j KL(softmax(e / T) ‖ softmax(z_j / T))
    + T² / (m - 1) Σ_j Σ_{k≠j} KL(softmax(z̄_k / T) ‖ softmax(z_j / T))

    ``Pcl().build_peers(model, example)`` makes the peers and the ensemble's classifier,
    :class:`~coterie.networks.moving_average.MovingAverage` the averages. (Wu, Gong 2021; see
    :mod:`coterie.methods.online.pcl`.)

    Args:
        output: Logits z (B, m, C) of two peers or more, and the ensemble's e (B, C).
        labels: y (B,).
        averaged: The moving averages' output, logits z̄ (B, m, C).
        temperature: T > 0.
        weight: w >= 0, the ramp's value; the averages' weight does not rise.
        divergence: What takes the place of KL, a name of ``coterie.functional.DIVERGENCES``.

    Returns:
        ``cross_entropy``, ``cross_entropy_ensemble``, ``distillation1_ensemble`` and ``distillation2_each``.

    Raises:
        UserError: An output has no ensemble or too few peers, the labels do not fit, or a number is out of range.
    """
    teacher = ensemble_of(output)[:, None, None]
    terms = supervise(output, labels)
    terms["distillation1_ensemble"] = imitate(
        output.logits, teacher, temperature, weight, loss=divergence, labels=labels
    )
    terms["distillation2_each"] = imitate(
        output.logits, _make(Each, averaged, labels), temperature, loss=divergence, labels=labels
    )
    return LossTerms(terms)


def okddip(example: PeerOutput, temperature: float = 3.0, *, rampup: float = 80 / 300, divergence: str = "kl") -> Loss:
    """OKDDip's loss as a module: its attention has parameters, to be given to the optimiser with the network's.

    Call it as ``loss(output, labels, progress=…)``. (Chen et al. 2020; see :mod:`coterie.methods.online.okddip`.)

    Args:
        example: An output of the peers, for its number of peers and the widths of their features.
        temperature: T > 0.
        rampup: Share of the training over which the distillation's weight rises; 0 for none.
        divergence: What takes the place of KL, a name of ``coterie.functional.DIVERGENCES``.

    Returns:
        A module whose terms are ``cross_entropy``, ``distillation1_attention`` (the auxiliaries) and
        ``distillation2_mean`` (peer 0, the leader).

    Raises:
        UserError: There are fewer than three peers, they give no features of one width, or a number is out of range.
    """
    peers = example.logits.shape[1]
    return OkdDip(num_peers=peers, temperature=temperature, rampup=rampup, divergence=divergence).loss(example)


def _make(kind: type[Targets], output: PeerOutput, labels: Tensor) -> Tensor:
    """Soft targets of a kind without parameters, from all peers for all peers: (B, s, t, C)."""
    peers = tuple(range(output.logits.shape[1]))
    if len(peers) < 2 and kind in (Each, Others):
        raise UserError("peers teach each other here, and the output is of one; use two or more")
    targets: Tensor = kind(peers, peers, output)(output, labels)
    return targets
