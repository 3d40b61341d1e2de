"""What peers are taught, against plain arithmetic."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from coterie import UserError
from coterie.methods.online.targets import TARGETS
from coterie.outputs import PeerOutput
from peers import LABELS, LOGITS

M = 4
EVERYONE = tuple(range(M))


def made(name, teachers=EVERYONE, students=EVERYONE, **output):
    said = PeerOutput(LOGITS, **output)
    targets = TARGETS[name](teachers, students, said).to(torch.float64)
    return targets, targets(said, LABELS)


def test_the_ensemble_and_the_mean_are_the_same_for_all():
    ensemble = torch.randn(2, 3, dtype=torch.float64)
    assert torch.equal(made("ensemble", ensemble=ensemble)[1], ensemble[:, None, None])
    torch.testing.assert_close(made("mean", teachers=(1, 3))[1], ((LOGITS[:, 1] + LOGITS[:, 3]) / 2)[:, None, None])


def test_others_leaves_each_student_out_of_its_own_teacher():
    got = made("others", students=(0, 2))[1]
    assert got.shape == (2, 2, 1, 3)
    torch.testing.assert_close(got[:, 0, 0], (LOGITS[:, 1] + LOGITS[:, 2] + LOGITS[:, 3]) / 3)
    torch.testing.assert_close(got[:, 1, 0], (LOGITS[:, 0] + LOGITS[:, 1] + LOGITS[:, 3]) / 3)


def test_each_of_the_others_is_a_teacher_of_its_own():
    got = made("each")[1]
    assert got.shape == (2, 4, 3, 3)
    assert torch.equal(got[:, 1], LOGITS[:, [0, 2, 3]])


def test_attention_mixes_by_the_likeness_of_features():
    torch.manual_seed(0)
    features = tuple(torch.randn(2, 16, dtype=torch.float64) for _ in range(M))
    targets, got = made("attention", teachers=(1, 2, 3), students=(1, 2, 3), features=features)
    assert targets.query.weight.shape == targets.key.weight.shape == (2, 16)
    assert targets.query.bias is None
    for image in range(2):
        for place, student in enumerate((1, 2, 3)):
            query = targets.query.weight @ features[student][image]
            scores = torch.stack([query @ (targets.key.weight @ features[peer][image]) for peer in (1, 2, 3)])
            expected = scores.softmax(0) @ LOGITS[image, 1:]
            torch.testing.assert_close(got[image, place, 0], expected)
    wrong = PeerOutput(LOGITS[:, :2], features=(features[0], torch.randn(2, 8)))
    with pytest.raises(UserError, match=r"\[8, 16\] wide"):
        TARGETS["attention"]((0, 1), (0, 1), wrong)
    with pytest.raises(UserError, match="no last linear layer"):
        TARGETS["attention"]((0, 1), (0, 1), PeerOutput(LOGITS[:, :2]))


def test_the_best_peer_is_chosen_for_each_image():
    losses = torch.stack([functional.cross_entropy(LOGITS[:, i], LABELS, reduction="none") for i in EVERYONE])
    best = losses.argmin(0)
    got = made("best")[1]
    for image in range(2):
        assert torch.equal(got[image, 0, 0], LOGITS[image, best[image]])


def test_the_best_mixture_is_found_on_the_simplex():
    _, got = made("linear", teachers=(1, 2))
    found = functional.cross_entropy(got[:, 0, 0], LABELS, reduction="none")
    shares = torch.linspace(0, 1, 1001, dtype=torch.float64)[:, None, None]
    grid = shares * LOGITS[:, 1] + (1 - shares) * LOGITS[:, 2]
    losses = functional.cross_entropy(grid.transpose(1, 2), LABELS.expand(1001, 2), reduction="none")
    torch.testing.assert_close(found, losses.amin(0), atol=1e-6, rtol=0)


@pytest.mark.parametrize("peers", [2, 3, 4])
def test_the_best_mixture_of_several_peers_lies_close_to_the_optimum(peers):
    torch.manual_seed(0)
    logits = 3 * torch.randn(64, peers, 20, dtype=torch.float64)
    labels = torch.randint(20, (64,))
    logits[torch.arange(64), :, labels] += 6
    weights = TARGETS["linear"](tuple(range(peers)), (0,), PeerOutput(logits)).weights(logits, labels)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(64, dtype=torch.float64))
    errors = (weights[:, None] @ logits)[:, 0].softmax(1) - functional.one_hot(labels, 20)
    slopes = (logits @ errors[:, :, None])[:, :, 0]
    # The loss is convex in the weights, so that it lies above its minimum by no more than this (Frank, Wolfe 1956).
    gap = (weights * slopes).sum(1) - slopes.amin(1)
    assert gap.max() < 1e-3


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
@example(4541)  # where the descent does not arrive
def test_a_mixture_is_never_worse_than_the_best_peer(seed):
    logits = 5 * torch.randn(6, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(6) % 5
    output = PeerOutput(logits)
    peers = (0, 1, 2)
    mixed = TARGETS["linear"](peers, peers, output)(output, labels)[:, 0, 0]
    best = TARGETS["best"](peers, peers, output)(output, labels)[:, 0, 0]
    assert (functional.cross_entropy(mixed, labels) <= functional.cross_entropy(best, labels) + 1e-12).all()


def test_min_logit_keeps_the_lowest_margin_of_each_class():
    got = made("min-logit")[1][:, 0, 0]
    for image, label in enumerate(LABELS.tolist()):
        for klass in range(3):
            expected = min((LOGITS[image, peer, klass] - LOGITS[image, peer, label]).item() for peer in EVERYONE)
            assert got[image, klass].item() == pytest.approx(expected, abs=1e-14)
    assert torch.equal(got.gather(1, LABELS[:, None]), torch.zeros(2, 1, dtype=torch.float64))


def test_validated_weights_minimise_the_expected_squared_error():
    targets, before = made("validated", teachers=(0, 1))
    torch.testing.assert_close(before[:, 0, 0], LOGITS[:, :2].mean(1))
    torch.manual_seed(0)
    labels = torch.randint(3, (50,))
    logits = torch.randn(50, 4, 3, dtype=torch.float64) + 2 * functional.one_hot(labels, 3)[:, None]
    logits[:, 1] = torch.randn(50, 3)  # a peer that knows less
    targets.renew(logits, labels)
    first, second = targets.weights.tolist()
    assert first + second == pytest.approx(1)
    assert first > second

    def error(weight):
        mixed = weight * logits[:, 0].softmax(1) + (1 - weight) * logits[:, 1].softmax(1)
        return (mixed - functional.one_hot(labels, 3)).square().sum().item()

    assert all(error(first) <= error(first + step) for step in (-0.05, 0.05))
