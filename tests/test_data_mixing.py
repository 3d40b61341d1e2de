"""Mixed and smoothed labels: by their formulas, of their place in the training alone, the same for all views."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

import coterie
from coterie.data import read_ahead, training_batches
from coterie.data.mixing import Mixing, draw_mixtures, mix_images, partners, soften
from coterie.functional import cross_entropy, heaviest_labels, label_mean
from coterie.methods import Vanilla
from coterie.recipes import Recipe
from resuming import resumes_exactly
from toys import go

SIZE = (16, 12)
BOTH = Mixing(label_smoothing=0.1, mixup=0.4, cutmix=1.0, probability=0.75)


def drawn(mixing, steps=2000, progress=0.0, **place):
    return draw_mixtures(mixing, steps, SIZE, **({"seed": 1, "stage": 0, "epoch": 3} | place), progress=progress)


def batches(data, mixing, **options):
    return list(
        training_batches(data, **({"batch_size": 33, "seed": 0, "stage": 0, "epoch": 1} | options), mixing=mixing)
    )


def test_a_mixture_is_of_its_place_in_the_training_whatever_comes_after_it():
    whole, short = drawn(BOTH), drawn(BOTH, steps=7)
    for all_steps, first_steps in zip(whole, short, strict=True):
        assert np.array_equal(all_steps[:7], first_steps)
    for other in ({"seed": 2}, {"stage": 1}, {"epoch": 4}):
        assert not np.array_equal(drawn(BOTH, **other).share, whole.share)


def test_kinds_and_shares_are_drawn_as_they_are_asked_for():
    kind, share, box = drawn(BOTH)
    assert np.bincount(kind) / len(kind) == pytest.approx([0.25, 0.375, 0.375], abs=0.03)
    assert share[kind == 1].mean() == pytest.approx(0.5, abs=0.03)
    assert share[kind == 1].var() == pytest.approx(1 / (4 * 1.8), abs=0.02)  # Beta(α, α) has 1 / (4 (2α + 1))
    covered = (box[:, 1] - box[:, 0]) * (box[:, 3] - box[:, 2]) / (SIZE[0] * SIZE[1])
    assert share[kind == 2] == pytest.approx(1 - covered[kind == 2])
    assert share[kind == 0] == pytest.approx(1.0)
    assert (box[:, :2] <= SIZE[0]).all()
    assert (box[:, 2:] <= SIZE[1]).all()
    assert set(drawn(Mixing(mixup=1.0)).kind) == {1}
    assert set(drawn(Mixing(cutmix=1.0)).kind) == {2}
    assert set(drawn(Mixing(label_smoothing=0.1)).kind) == {0}


def test_no_batch_is_mixed_after_the_share_of_the_training_that_was_asked_for():
    mixing = replace(BOTH, probability=1.0, until=0.9)
    assert drawn(mixing, progress=0.89).kind.all()
    assert not drawn(mixing, progress=0.9).kind.any()


def test_images_are_mixed_by_the_formulas():
    images, others = torch.rand(5, 3, *SIZE), partners(5)
    assert others.tolist() == [1, 0, 3, 2, 3]
    mixtures = drawn(BOTH)
    step = int(np.flatnonzero(mixtures.kind == 1)[0])
    share = float(mixtures.share[step])
    expected = share * images + (1 - share) * images[torch.as_tensor(others)]
    torch.testing.assert_close(mix_images(images, others, mixtures, step), expected)
    step = int(np.flatnonzero((mixtures.kind == 2) & (mixtures.share < 0.9))[0])
    mixed = mix_images(images, others, mixtures, step)
    foreign = (mixed == images[torch.as_tensor(others)]).all(1)
    top, bottom, left, right = mixtures.box[step]
    inside = torch.zeros(SIZE, dtype=torch.bool)
    inside[top:bottom, left:right] = True
    assert torch.equal(foreign, inside.expand(5, -1, -1))
    assert foreign[0].double().mean().item() == pytest.approx(1 - mixtures.share[step])
    assert torch.equal(mixed[:, :, ~inside], images[:, :, ~inside])
    step = int(np.flatnonzero(mixtures.kind == 0)[0])
    assert torch.equal(mix_images(images, others, mixtures, step), images)


def test_soft_labels_are_the_mixture_of_both_images_smoothed():
    labels, others = torch.tensor([0, 2, 1]), torch.tensor([1, 2, 0])
    soft = soften(labels, others, 0.7, 4, 0.2)
    one_hot = 0.7 * functional.one_hot(labels, 4) + 0.3 * functional.one_hot(others, 4)
    torch.testing.assert_close(soft, 0.8 * one_hot + 0.2 / 4)
    assert heaviest_labels(soft).tolist() == [0, 2, 1]
    assert heaviest_labels(labels) is labels


def test_cross_entropy_of_a_mixture_is_the_mixture_of_cross_entropies():
    logits, labels, others = torch.randn(3, 4, dtype=torch.float64), torch.tensor([0, 2, 1]), torch.tensor([1, 2, 0])
    soft = soften(labels, others, 0.7, 4, 0.0).double()
    expected = 0.7 * cross_entropy(logits, labels) + 0.3 * cross_entropy(logits, others)
    torch.testing.assert_close(cross_entropy(logits, soft), expected)
    torch.testing.assert_close(label_mean(logits, labels), label_mean(logits, functional.one_hot(labels, 4)))


def test_all_views_of_a_batch_share_the_mixture(digits):
    still = replace(digits, augment="none")
    for batch in batches(still, BOTH, views=3):
        assert torch.equal(batch.views[0], batch.views[1])
        assert torch.equal(batch.views[0], batch.views[2])


def test_labels_are_distributions_that_say_what_the_images_hold(digits):
    mixing = Mixing(cutmix=1.0)
    for plain, mixed in zip(batches(digits, Mixing()), batches(digits, mixing), strict=True):
        assert torch.equal(plain.indices, mixed.indices)
        assert mixed.labels.shape == (len(plain.labels), 10)
        assert mixed.labels.dtype == torch.float32
        torch.testing.assert_close(mixed.labels.sum(1), torch.ones(len(plain.labels)))
        neighbours = plain.labels[torch.as_tensor(partners(len(plain.labels)))]
        assert bool((mixed.labels.gather(1, plain.labels[:, None]) > 0).all() or (mixed.labels[0] == 1).any())
        positive = mixed.labels > 0
        allowed = functional.one_hot(plain.labels, 10) + functional.one_hot(neighbours, 10) > 0
        assert not bool((positive & ~allowed).any())
    only_smooth = batches(digits, Mixing(label_smoothing=0.1))[0]
    assert torch.equal(only_smooth.images, batches(digits, Mixing())[0].images)
    assert only_smooth.labels.max().item() == pytest.approx(0.91)


@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_see_together_what_one_sees(digits, world):
    """Shares of 33 images are odd: partners are another process's images."""
    whole = batches(digits, BOTH, views=2)
    parts = [batches(digits, BOTH, views=2, rank=rank, world=world) for rank in range(world)]
    for step, batch in enumerate(whole):
        shares = [part[step] for part in parts]
        assert torch.equal(torch.cat([share.indices for share in shares]), batch.indices)
        assert torch.equal(torch.cat([share.labels for share in shares]), batch.labels)
        for view in range(2):
            assert torch.equal(torch.cat([share.views[view] for share in shares]), batch.views[view])


def test_a_resumed_epoch_goes_on_with_its_mixtures(digits):
    whole, rest = batches(digits, BOTH), batches(digits, BOTH, start=2)
    assert torch.equal(whole[2].images, rest[0].images)
    assert torch.equal(whole[2].labels, rest[0].labels)


def mixed_recipe():
    return Recipe(label_smoothing=0.1, mixup=0.4, cutmix=1.0, mix_probability=0.9, mix_until=0.7)


def test_a_training_with_mixed_labels_resumes_exactly(digits, tmp_path):
    def make():
        return Vanilla(network="resnet8")

    assert resumes_exactly(make, digits, tmp_path, "train", 3, recipe=mixed_recipe(), epochs=3)


def test_each_part_changes_what_is_trained(digits, tmp_path):
    finals = {}
    for name, recipe in {
        "plain": Recipe(),
        "smooth": Recipe(label_smoothing=0.1),
        "mixup": Recipe(mixup=1.0),
        "cutmix": Recipe(cutmix=1.0),
    }.items():
        run = go(Vanilla(network="resnet8"), digits, tmp_path / name, epochs=2, recipe=recipe)
        finals[name] = run.metrics[-1]["loss"]
        assert 0 <= run.metrics[-1]["train_error_target"] <= 100
    assert len(set(finals.values())) == 4
    assert finals["smooth"] > finals["plain"]


def test_an_old_batch_of_indices_is_what_a_recipe_without_mixing_gives(digits):
    assert batches(digits, Mixing())[0].labels.dtype == torch.int64


def test_a_loss_says_what_labels_it_takes():
    output = coterie.outputs.PeerOutput(torch.randn(4, 2, 3))
    with pytest.raises(coterie.UserError, match=r"^labels are float32 of shape \(4, 2\); give class indices"):
        coterie.losses.dml(output, torch.rand(4, 2))


def test_batches_read_ahead_are_the_same_and_stop_where_their_reader_does(digits):
    options = {"batch_size": 33, "seed": 0, "stage": 0, "epoch": 1, "mixing": BOTH}
    plain = list(training_batches(digits, **options))
    ahead = list(read_ahead(training_batches(digits, **options)))
    assert len(ahead) == len(plain)
    for mine, other in zip(ahead, plain, strict=True):
        assert torch.equal(mine.images, other.images)
        assert torch.equal(mine.labels, other.labels)
    threads = threading.active_count()
    reader = read_ahead(training_batches(digits, **options))
    next(reader)
    reader.close()
    assert threading.active_count() == threads

    def broken():
        yield plain[0]
        raise coterie.UserError("no such file")

    reader = read_ahead(broken())
    next(reader)
    with pytest.raises(coterie.UserError, match="no such file"):
        next(reader)
