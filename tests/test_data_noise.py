"""Labels made wrong on purpose: how many, which, and that nothing else changes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import coterie
from coterie import UserError
from coterie.cli import main
from coterie.data import Resident, Streaming, evaluation_batches, load
from coterie.data.noise import noisy
from coterie.evaluation.predictions import predict_batches
from coterie.methods import Vanilla
from toys import comparable, go, same


def split(labels):
    return Resident(torch.zeros(len(labels), 8, 8, 1, dtype=torch.uint8), np.array(labels))


def wrong_by_class(images, classes=10):
    return np.bincount(images.clean[images.labels != images.clean], minlength=classes)


@pytest.mark.parametrize("kind", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("share", [0.2, 0.29, 0.4, 1.0])
def test_exactly_the_stated_share_of_every_class_is_wrong(kind, share):
    images = noisy(split(np.repeat(np.arange(10), 100)), share, kind, None, 10, seed=0)
    assert wrong_by_class(images).tolist() == [round(100 * share)] * 10


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=80),
    st.lists(st.floats(0, 1), min_size=5, max_size=5),
    st.integers(0, 9),
)
def test_counts_that_do_not_come_out_are_less_than_one_off_and_their_sum_is_exact(labels, shares, seed):
    images = noisy(split(labels), shares, "symmetric", None, 5, seed)
    wanted = np.array(shares) * np.bincount(labels, minlength=5)
    found = wrong_by_class(images, 5)
    assert (abs(found - wanted) < 1 + 1e-6).all()
    assert abs(found.sum() - wanted.sum()) <= 0.5 + 1e-6
    assert images.labels.min() >= 0
    assert images.labels.max() < 5


def test_the_wrong_labels_are_those_that_the_kind_says():
    labels = np.repeat(np.arange(10), 300)
    symmetric = noisy(split(labels), 1.0, "symmetric", None, 10, seed=0)
    counts = np.bincount((symmetric.labels - labels) % 10, minlength=10)
    assert counts[0] == 0
    assert counts[1:] == pytest.approx(3000 / 9, rel=0.2)  # five standard deviations
    following = noisy(split(labels), 0.5, "asymmetric", None, 10, seed=0)
    assert set((following.labels - labels) % 10) == {0, 1}
    mapped = noisy(split(labels), 0.5, "asymmetric", {3: 5, 5: 3}, 10, seed=0)
    assert wrong_by_class(mapped).tolist() == [0, 0, 0, 150, 0, 150, 0, 0, 0, 0]
    assert set(mapped.labels[mapped.labels != labels]) == {3, 5}


def test_a_share_for_each_class():
    images = noisy(split(np.repeat([0, 1, 2], 10)), (0.0, 0.5, 0.1), "symmetric", None, 3, seed=0)
    assert wrong_by_class(images, 3).tolist() == [0, 5, 1]


def test_the_noise_is_a_function_of_the_seed_and_a_larger_share_adds_to_a_smaller(digits):
    first, again, other, more = (
        load("digits", noise=noise, seed=seed).train for noise, seed in ((0.2, 0), (0.2, 0), (0.2, 1), (0.4, 0))
    )
    assert np.array_equal(first.labels, again.labels)
    assert not np.array_equal(first.labels, other.labels)
    flipped = first.labels != first.clean
    assert np.array_equal(more.labels[flipped], first.labels[flipped])


def test_only_what_is_learned_and_chosen_by_is_noisy():
    data, pure = (load("digits", validation=0.2, noise=noise, train_samples=400) for noise in (0.4, 0.0))
    for spoiled, whole in ((data.train, pure.train), (data.validation, pure.validation)):
        assert np.array_equal(spoiled.clean, whole.labels)  # the same images, whatever the noise
        assert torch.equal(spoiled.data, whole.data)
        assert (spoiled.labels != whole.labels).sum() == round(0.4 * len(whole))
    assert np.array_equal(data.test.labels, pure.test.labels)
    assert data.test.clean is None
    assert pure.train.clean is None


def test_the_clean_labels_follow_their_images():
    labels, clean = np.array([0, 1, 2]), np.array([2, 1, 0])
    names = ["a", "b", "c"]
    for images in (
        Resident(torch.zeros(3, 8, 8, 1, dtype=torch.uint8), labels, names, clean),
        Streaming(names, labels, lambda path: np.zeros((8, 8, 1), np.uint8), 0, clean),
    ):
        part = images.subset(np.array([2, 0]))
        assert part.labels.tolist() == [2, 0]
        assert part.clean.tolist() == [0, 2]
        assert part.names == ["c", "a"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"noise": 1.5}, "noise is 1.5; use a number from 0 to 1"),
        ({"noise": (0.1, 0.2)}, "noise has 2 shares, and there are 10 classes"),
        ({"noise": 0.1, "noise_kind": "odd"}, "unknown noise_kind 'odd'"),
        ({"noise": 0.1, "noise_map": {1: 2}}, "add noise_kind='asymmetric'"),
        ({"noise_kind": "asymmetric", "noise_map": {1: 2}}, "noise is 0"),
        ({"noise": 0.1, "noise_kind": "asymmetric", "noise_map": {1: 10}}, "noise_map has 1: 10"),
        ({"noise": 0.1, "noise_kind": "asymmetric", "noise_map": {1: 1}}, "noise_map has 1: 1"),
    ],
)
def test_noise_that_cannot_be_is_refused(options, complaint):
    with pytest.raises(UserError, match=complaint):
        load("digits", **options)


def test_a_run_repeats_its_noise_and_is_measured_against_the_clean_labels(tmp_path):
    options = {"train_samples": 160, "test_samples": 100, "noise": 0.4, "noise_kind": "asymmetric"}
    data = load("digits", **options, noise_map={3: 5, 5: 3, 0: 8})
    run = go(Vanilla(network="resnet8"), data, tmp_path / "first", epochs=2)
    repeated = coterie.Run(run.path).data()
    assert np.array_equal(repeated.train.labels, data.train.labels)
    assert np.array_equal(repeated.train.clean, data.train.clean)
    found = coterie.evaluate(run, split="train")
    said = predict_batches(run.model, evaluation_batches(data, data.train)).logits[:, 0].argmax(1).numpy()
    assert found["error"] == pytest.approx(100 * (said != data.train.clean).mean())
    assert found["error_noisy"] == pytest.approx(100 * (said != data.train.labels).mean())
    assert "error_noisy" not in coterie.evaluate(run, split="test")


def test_the_command_line_takes_noise_and_its_configuration_repeats_it(tmp_path, capsys):
    line = ["train", "--method", "vanilla", "--network", "resnet8", "--data", "digits", "--epochs", "1"]
    line += ["--data.train_samples", "160", "--data.test_samples", "100", "--data.noise", "0.4"]
    line += ["--data.noise_kind", "asymmetric", "--data.noise_map", "{3: 5, 5: 3}", "--out", str(tmp_path / "first")]
    main(line)
    first = coterie.Run(tmp_path / "first")
    assert first.config["data"]["noise_map"] == {3: 5, 5: 3}
    main(["train", "--config", str(first.path / "config.yaml"), "--out", str(tmp_path / "again")])
    again = coterie.Run(tmp_path / "again")
    assert again.config == first.config
    assert same(first, again)
    assert comparable(first.metrics) == comparable(again.metrics)
    main([*line, "--resume"])
    assert "this run is finished" in " ".join(capsys.readouterr().err.split())
    shares = ", ".join(["0.5"] + ["0"] * 9)
    main([*line[:-8], "--data.noise", f"[{shares}]", "--out", str(tmp_path / "shares")])
    assert coterie.Run(tmp_path / "shares").config["data"]["noise"] == [0.5] + [0.0] * 9
