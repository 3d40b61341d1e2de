"""The distillation losses by name: closed forms in float64, and every method that has them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import coterie
from coterie import UserError
from coterie import functional as losses
from coterie.functional import DIVERGENCES
from coterie.methods import METHODS, Distillation, Online, Task
from coterie.outputs import Batch, PeerOutput
from coterie.training import Recipe
from toys import go

OTHERS = ["dkd", "dist", "standardised"]
T, B, S, TEACHERS, C = 2.5, 4, 2, 3, 5
TASK = Task(10, 1, (8, 8), 1)

OPTIONS = {
    "one": {},
    "dml": {"updates": "simultaneous"},
    "cl-ilr": {"num_branches": 2},
    "kdcl": {},
    "okddip": {"num_peers": 3},
    "ffl": {},
    "pcl": {"num_branches": 2},
    "oem": {"num_students": 2},
    "online": {},
    "ensemble": {"members": 2},
    "snapshot": {},
    "vanilla": {},
    "kd": {},
    "self-distillation": {},
    "meal": {"teachers": 2, "label_weight": 0.5},
    "compact": {},
    "srm": {},
}
DISTILLING = [name for name in OPTIONS if name not in ("ensemble", "snapshot", "vanilla", "meal", "online")]


def softmax(values):
    raised = np.exp(values - values.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def kl(q, p):
    return (q * np.log(q / p)).sum(-1)


def dkd_by_hand(student, teacher, labels):
    """Over images: α TCKD + β NCKD, from probabilities."""
    total = 0.0
    for z, v, y in zip(student, teacher, labels, strict=True):
        p, q = softmax(z / T), softmax(v / T)
        rest = np.arange(C) != y
        tckd = kl(np.array([q[y], 1 - q[y]]), np.array([p[y], 1 - p[y]]))
        nckd = kl(q[rest] / (1 - q[y]), p[rest] / (1 - p[y]))
        total += tckd + 8 * nckd
    return total / len(labels)


def dist_by_hand(student, teacher, labels):
    p, q = softmax(student / T), softmax(teacher / T)
    inter = 1 - np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(p, q, strict=True)])
    intra = 1 - np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(p.T, q.T, strict=True)])
    return inter + intra


def standardised_by_hand(student, teacher, labels):
    z, v = ((x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True) for x in (student, teacher))
    return kl(softmax(v / T), softmax(z / T)).mean()


def kl_by_hand(student, teacher, labels):
    return kl(softmax(teacher / T), softmax(student / T)).mean()


BY_HAND = {"kl": kl_by_hand, "dkd": dkd_by_hand, "dist": dist_by_hand, "standardised": standardised_by_hand}


def drawn(own_teachers=True):
    generator = np.random.default_rng(0)
    students = generator.normal(size=(B, S, C)) * 2
    teachers = generator.normal(size=(B, S if own_teachers else 1, TEACHERS, C)) * 2
    return students, teachers, generator.integers(0, C, B)


@pytest.mark.parametrize("own_teachers", [True, False])
@pytest.mark.parametrize("name", BY_HAND)
def test_a_loss_is_the_closed_form_in_float64(name, own_teachers):
    students, teachers, labels = drawn(own_teachers)
    expected = sum(
        np.mean([BY_HAND[name](students[:, s], teachers[:, s if own_teachers else 0, t], labels) for t in range(3)])
        for s in range(S)
    )
    got = DIVERGENCES[name](torch.tensor(students), torch.tensor(teachers), T, torch.tensor(labels))
    # The 1e-8 and 1e-7 that keep denominators from 0.
    assert got.item() == pytest.approx(expected, rel={"kl": 1e-12, "dkd": 1e-12}.get(name, 1e-6))
    one = losses.distil(torch.tensor(students[:, 0]), torch.tensor(teachers[:, 0, 0]), T, torch.tensor(labels), name)
    assert one.item() == pytest.approx(BY_HAND[name](students[:, 0], teachers[:, 0, 0], labels), rel=1e-6)


def test_standardised_logits_have_mean_0_and_variance_1_and_forget_their_scale():
    students, teachers, labels = (torch.tensor(each) for each in drawn())
    scores = losses.standardise(students)
    assert torch.allclose(scores.mean(-1), torch.zeros(B, S, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(scores.var(-1, unbiased=False), torch.ones(B, S, dtype=torch.float64), atol=1e-6)
    values = [losses.standardised_divergence(students, scale * teachers + 3, T, labels) for scale in (1, 7)]
    assert torch.allclose(*values, rtol=1e-6)


@pytest.mark.parametrize("name", OTHERS)
def test_gradients_reach_both_sides_and_are_the_right_ones(name):
    students, teachers, labels = (torch.tensor(each) for each in drawn())
    sides = students.requires_grad_(), teachers.requires_grad_()
    assert torch.autograd.gradcheck(lambda *both: DIVERGENCES[name](*both, T, labels), sides)


@pytest.mark.parametrize("name", OTHERS)
def test_a_loss_is_0_for_equals_and_finite_for_extremes_and_for_constants(name):
    students, _, labels = (torch.tensor(each) for each in drawn())
    assert DIVERGENCES[name](students, students[:, :, None], T, labels).item() == pytest.approx(0, abs=1e-5)
    for scale in (0.0, 1e4):
        mine = (scale * students).float().requires_grad_()
        value = DIVERGENCES[name](mine, (-scale * students[:, :, None]).float(), T, labels)
        value.backward()
        assert value.isfinite()
        assert mine.grad.isfinite().all()


@pytest.mark.parametrize("name", OTHERS)
def test_a_loss_leaves_autocast_and_widens_half_precision(name):
    students, teachers, labels = (torch.tensor(each) for each in drawn())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = DIVERGENCES[name](students.bfloat16(), teachers.bfloat16(), T, labels)
    wide = DIVERGENCES[name](students.bfloat16().float(), teachers.bfloat16().float(), T, labels)
    assert value.dtype == torch.float32
    assert torch.equal(value, wide)


@pytest.mark.parametrize("name", OTHERS)
def test_a_loss_goes_through_torch_compile_in_one_graph(name):
    students, teachers, labels = (torch.tensor(each) for each in drawn())
    graphs = torch._dynamo.explain(DIVERGENCES[name])(students, teachers, T, labels)
    assert graphs.graph_break_count == 0


def test_what_a_loss_does_not_take_is_refused_in_one_line(digits, tmp_path):
    students, teachers, labels = (torch.tensor(each) for each in drawn())
    soft = torch.full((B, C), 1 / C)
    with pytest.raises(UserError, match=r"true class.*use cutmix=0, mixup=0 and label_smoothing=0, or divergence kl"):
        DIVERGENCES["dkd"](students, teachers, T, soft)
    with pytest.raises(UserError, match=r"correlates the images of a batch, and there is one; use batch_size=2"):
        DIVERGENCES["dist"](students[:1], teachers[:1], T, labels[:1])
    with pytest.raises(UserError, match="there is one class"):
        DIVERGENCES["dkd"](students[..., :1], teachers[..., :1], T, labels * 0)
    # Before a teacher is trained.
    by_name = METHODS["kd"](network="resnet8", divergence="dkd")
    composed = Online(network="resnet8", distillations=[Distillation(loss="dkd")])
    for method in (by_name, composed):
        for recipe in (Recipe(cutmix=1.0), Recipe(label_smoothing=0.1)):
            with pytest.raises(UserError, match="needs one true class an image"):
                go(method, digits, tmp_path / "run", recipe=recipe)
            assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", DISTILLING)
def test_an_unknown_name_is_refused_with_the_nearest(name):
    with pytest.raises(UserError, match="unknown divergence 'dists'; did you mean 'dist'"):
        METHODS[name](network="resnet8", divergence="dists")


def steps(method, labels):
    """The terms of every turn of every stage on one batch, with the module and the stage's name."""
    images = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    for stage in method.stages(TASK):
        views = tuple(images + 0.1 * view for view in range(stage.views))
        for turn in stage.turns:
            torch.manual_seed(1)
            turn.module.train()
            batch = Batch(views, labels, torch.arange(8), 0.5)
            if stage.schedule is not None:  # where a penalty's strength follows from the rate
                stage.schedule(Recipe().make_optimiser(turn.groups()), 10)
            yield stage.name, turn, turn.module(batch).loss.terms


LABELS = torch.arange(8) % 10


@pytest.mark.parametrize("name", DISTILLING)
def test_every_method_that_distils_learns_by_the_loss_that_is_named(name):
    values = {}
    for loss in DIVERGENCES.keys() & BY_HAND:
        method = METHODS[name](network="resnet8", divergence=loss, **OPTIONS[name])
        for stage, turn, terms in steps(method, LABELS):
            for term, value in terms.items():
                if term.startswith("distillation"):
                    values.setdefault((stage, term), {})[loss] = value.item()
                    wanted = [parameter for parameter in turn.trainable() if parameter.dim() > 1]
                    gradients = torch.autograd.grad(value, wanted, retain_graph=True, allow_unused=True)
                    assert any(gradient is not None and gradient.any() for gradient in gradients)
    assert values
    for found in values.values():
        assert len(set(found.values())) == len(BY_HAND)


@pytest.mark.parametrize("name", ["one", "dml", "cl_ilr", "kdcl", "ffl", "pcl"])
def test_the_losses_for_loops_of_ones_own_take_the_name(name):
    generator = torch.Generator().manual_seed(0)
    output = PeerOutput(torch.randn(6, 3, 5, generator=generator), ensemble=torch.randn(6, 5, generator=generator))
    rest = (output,) if name == "pcl" else ()
    function = getattr(coterie.losses, name)
    found = {loss: function(output, torch.arange(6) % 5, *rest, divergence=loss).total.item() for loss in BY_HAND}
    assert len(set(found.values())) == len(BY_HAND)
    assert found["kl"] == function(output, torch.arange(6) % 5, *rest).total.item()
    with pytest.raises(UserError, match="unknown divergence 'dists'"):
        function(output, torch.arange(6) % 5, *rest, divergence="dists")


def test_every_method_is_looked_at_here():
    assert set(OPTIONS) == set(METHODS)


def terms_of(name, labels):
    method = METHODS[name](network="resnet8", **OPTIONS[name])
    return [(stage, term, value.item()) for stage, _, terms in steps(method, labels) for term, value in terms.items()]


@pytest.mark.parametrize("name", OPTIONS)
def test_label_distributions_reach_every_cross_entropy_of_every_method(name):
    one_hot = nn.functional.one_hot(LABELS, 10).float()
    other = LABELS.flip(0)
    mixed = 0.7 * one_hot + 0.3 * nn.functional.one_hot(other, 10)
    first, same, second, between = (terms_of(name, labels) for labels in (LABELS, one_hot, other, mixed))
    assert [each[:2] for each in first] == [each[:2] for each in same] == [each[:2] for each in between]
    supervised = 0
    for (_, term, a), (*_, b), (*_, c), (*_, d) in zip(first, same, second, between, strict=True):
        assert b == pytest.approx(a, rel=1e-5)  # one-hot labels are indices
        if term.startswith("cross_entropy"):
            supervised += 1
            assert abs(a - c) > 1e-3
            assert d == pytest.approx(0.7 * a + 0.3 * c, rel=1e-4)
        elif name != "kdcl":  # whose soft targets are made by the labels
            assert d == pytest.approx(a, rel=1e-5)  # soft targets are of the images, which are the same here
    assert supervised


@pytest.mark.parametrize("name", OPTIONS)
def test_distillation_sees_the_images_of_the_batch(name):
    """What is mixed in the images moves every term that is no cross-entropy: nobody learns from other images."""
    method = METHODS[name](network="resnet8", **OPTIONS[name])
    images = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    for stage in method.stages(TASK):
        for turn in stage.turns:
            found = []
            for share in (1.0, 0.6):
                torch.manual_seed(1)
                turn.module.train()
                pixels = share * images + (1 - share) * images.flip(0)
                if stage.schedule is not None:
                    stage.schedule(Recipe().make_optimiser(turn.groups()), 10)
                batch = Batch((pixels,) * stage.views, LABELS, torch.arange(8), 0.5)
                found.append(turn.module(batch).loss.terms)
            for term, value in found[0].items():
                if term not in ("cost", "penalty"):
                    assert value.item() != found[1][term].item(), (stage.name, term)


def test_a_run_by_another_loss_is_another_training_and_opens_again(digits, tmp_path):
    method = METHODS["one"](network="resnet8", divergence="dist")
    run = go(method, digits, tmp_path / "run", epochs=1)
    assert run.config["method"]["divergence"] == "dist"
    assert coterie.Run(run.path).method().divergence == "dist"
    (run.path / "model.json").unlink()
    with pytest.raises(UserError, match=r"divergence is standardised, and the run in .* has dist"):
        go(replace(method, divergence="standardised"), digits, run.path, resume=True, epochs=1)
