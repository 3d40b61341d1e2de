"""What people expect of a trainer: patience, accumulation, uneven classes, frozen layers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import coterie
import resuming
from coterie import UserError, cli
from coterie.cli.arguments import expanded
from coterie.data import training_batches
from coterie.data.base import Resident
from coterie.data.loader import balanced_order, class_weights
from coterie.data.mixing import Mixing
from coterie.data.transforms import normalise
from coterie.methods import METHODS, Dml, Meal, One, Vanilla
from coterie.networks.zoo import Backbone
from coterie.outputs import Batch
from coterie.recipes import Recipe
from toys import comparable, go, plain, same, weights


@pytest.fixture(scope="module")
def held_out():
    return coterie.data.load("digits", train_samples=160, test_samples=100, validation=0.25)


@pytest.fixture(scope="module")
def uneven():
    """160 digits, of which class 0 has 120 and class 9 none."""
    data = coterie.data.load("digits", train_samples=160, test_samples=100)
    labels = np.r_[np.zeros(120, int), np.arange(40) % 8 + 1]
    return replace(data, train=Resident(data.train.data, labels))


# Patience


def test_a_stage_ends_when_the_validation_error_no_longer_falls(held_out, tmp_path, capsys):
    still = Recipe(learning_rate=1e-12, schedule="constant")  # nothing is learned after the first epoch
    run = go(Vanilla(network=plain()), held_out, tmp_path / "run", epochs=9, patience=3, recipe=still, progress=True)
    assert [row["epoch"] for row in run.metrics] == [1, 2, 3, 4]
    assert run.card["epoch"] == 1
    assert "test_error_target" in run.metrics[-1]
    assert "ends after 4 epochs: the validation error was lowest after epoch 1 (patience 3)" in " ".join(
        capsys.readouterr().err.split()
    )


def test_patience_is_counted_over_a_resumed_run(held_out, tmp_path):
    options = {"epochs": 12, "patience": 2, "batch_size": 40}
    whole = go(One(network="resnet8"), held_out, tmp_path / "whole", **options)
    step = 3 * (len(whole.metrics) - 1) + 1  # in its last epoch
    cut = resuming.cut_and_resumed(lambda: One(network="resnet8"), held_out, tmp_path / "cut", "train", step, **options)
    assert same(whole, cut)
    assert comparable(whole.metrics) == comparable(cut.metrics)


def test_patience_needs_validation_images_and_no_late_average(digits, held_out, tmp_path):
    with pytest.raises(UserError, match="add validation=0.1"):
        go(Vanilla(network="resnet8"), digits, tmp_path / "run", patience=2)
    with pytest.raises(UserError, match="use .*average.*ema"):
        go(Vanilla(network="resnet8"), held_out, tmp_path / "run", patience=2, recipe=Recipe(average="tail"))
    assert not (tmp_path / "run").exists()


# Accumulation


def without_norm(channels=1):
    return lambda **options: nn.Sequential(
        nn.Conv2d(channels, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10)
    )


ACCUMULATING = {
    "vanilla": lambda: Vanilla(network=without_norm()),
    "one": lambda: One(network=without_norm(), at="3", gate="uniform"),
    "dml": lambda: Dml(network=without_norm()),
}


@pytest.mark.parametrize("name", ACCUMULATING)
def test_parts_make_the_step_of_the_whole_batch(name, digits, tmp_path):
    options = {"epochs": 2, "batch_size": 48, "precision": "fp32", "recipe": Recipe(clip_norm=1.0, momentum=0.0)}
    whole = go(ACCUMULATING[name](), digits, tmp_path / "whole", **options)
    parts = go(ACCUMULATING[name](), digits, tmp_path / "parts", accumulate=3, **options)
    expected = weights(whole)
    for key, tensor in weights(parts).items():
        torch.testing.assert_close(tensor, expected[key], rtol=1e-3, atol=1e-5)
    for ours, theirs in zip(parts.metrics, whole.metrics, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        assert ours["training_flops"] == pytest.approx(theirs["training_flops"])


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_in_parts(name, digits, tmp_path):
    more = {"ensemble": {"members": 2}, "self-distillation": {"generations": 2}}.get(name, {})
    run = go(METHODS[name](network="resnet8", **more), digits, tmp_path / "run", epochs=1, accumulate=4)
    assert run.config["accumulate"] == 4
    assert all(np.isfinite(row["loss"]) for row in run.metrics)


def test_meals_student_learns_each_part_from_the_teacher_that_was_drawn_for_it(digits, tmp_path):
    run = go(Meal(network="resnet8", adversarial="alternating"), digits, tmp_path / "run", epochs=1, accumulate=3)
    assert np.isfinite(run.metrics[-1]["loss"])


def test_a_batch_falls_into_parts_of_two_images_at_least():
    batch = Batch((torch.arange(5.0)[:, None],), torch.arange(5), torch.arange(5))
    assert [part.labels.tolist() for part in batch.parts(4)] == [[0, 1, 2], [3, 4]]
    assert [part.part for part in batch.parts(2)] == [0, 1]
    assert batch.parts(1) == [batch]


def test_what_batch_norm_sees_is_said(digits, tmp_path, capsys):
    go(Vanilla(network="resnet8"), digits, tmp_path / "run", epochs=1, accumulate=4, progress=True)
    assert "in 4 parts, of which batch norm sees one at a time" in " ".join(capsys.readouterr().err.split())


# Uneven classes


def test_balanced_sampling_shows_classes_alike(uneven):
    labels = uneven.train.labels
    orders = [balanced_order(labels, 0, 0, epoch) for epoch in range(40)]
    for each in orders:
        assert len(each) == 160
        assert set(np.bincount(labels[each], minlength=9)) <= {17, 18}
    shown = np.bincount(np.concatenate(orders), minlength=160)
    assert shown[:120].max() - shown[:120].min() < 20  # in the long run every image of a class alike
    assert not np.array_equal(orders[0], orders[1])
    assert np.array_equal(orders[3], balanced_order(labels, 0, 0, 3))
    options = {"seed": 0, "stage": 0, "epoch": 0, "sampling": "balanced"}
    whole = [batch.indices.tolist() for batch in training_batches(uneven, batch_size=32, **options)]
    assert [index for part in whole for index in part] == orders[0].tolist()
    mine = [
        [batch.indices.tolist() for batch in training_batches(uneven, batch_size=32, rank=rank, world=2, **options)]
        for rank in range(2)
    ]
    assert [first + second for first, second in zip(*mine, strict=True)] == whole


def test_balanced_weights_make_classes_count_alike(uneven):
    own = class_weights(uneven.train.labels, 10)
    assert own[9] == 0
    counts = torch.bincount(torch.from_numpy(uneven.train.labels), minlength=10)
    torch.testing.assert_close((own * counts)[:9], torch.full((9,), 160 / 9))
    (batch,) = training_batches(
        uneven, batch_size=160, seed=0, stage=0, epoch=0, mixing=Mixing(label_smoothing=0.1, weighs=True)
    )
    true = torch.from_numpy(uneven.train.labels)[batch.indices]
    soft = torch.full((160, 10), 0.01).scatter_add_(1, true[:, None], torch.full((160, 1), 0.9))
    torch.testing.assert_close(batch.labels, soft * own)


@pytest.mark.parametrize("option", [{"class_weights": "balanced"}, {"sampling": "balanced"}])
def test_rare_classes_are_found_more_often(option, tmp_path):
    """Two kinds of noise that overlap, nine images of the one to each of the other."""
    draw = np.random.default_rng(0)
    labels = (np.arange(400) % 10 == 0).astype(int)
    pixels = np.clip(draw.normal(118 + 5 * labels[:, None, None, None], 40, (400, 8, 8, 1)), 0, 255)
    split = Resident(torch.from_numpy(pixels.astype(np.uint8)), labels)
    digits = coterie.data.load("digits", train_samples=160, augment="none", mean=(0.47,), std=(0.02,))
    data = replace(digits, classes=("many", "few"), train=split, test=split)

    def found(recipe, out):
        network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2))
        run = go(Vanilla(network=network), data, tmp_path / out, epochs=20, recipe=recipe)
        with torch.inference_mode():
            answers = run.network()(normalise(split.data, data.mean, data.std)).argmax(1).numpy()
        return (answers[labels == 1] == 1).mean()

    assert found(Recipe(), "alike") < 0.2
    assert found(Recipe(**option), "balanced") > 0.5


# Frozen parameters


def test_frozen_parameters_stay_and_the_others_move(digits, tmp_path):
    network = Backbone("resnet8", freeze="conv*, layer1.*")
    torch.manual_seed(0)
    run = go(One(network=network), digits, tmp_path / "run", epochs=1)
    again = go(One(network=network), digits, tmp_path / "again", epochs=1, recipe=Recipe(learning_rate=0.01))
    ours, theirs = weights(run), weights(again)
    trained = {key for key in ours if not torch.equal(ours[key], theirs[key]) and "running" not in key}
    still = [key for key in ours if key.startswith(("target.conv", "target.layer1")) and "running" not in key]
    assert still
    assert not trained & {key for key in still if "num_batches" not in key}
    assert any(key.startswith("target.layer3") for key in trained)
    assert run.config["network"]["freeze"] == "conv*, layer1.*"
    assert Backbone.from_record(run.config["network"]).freeze == "conv*, layer1.*"


@pytest.mark.parametrize(
    ("patterns", "line"),
    [("conv7.*", "no parameter is named 'conv7.\\*'; they go from 'conv"), ("*", "leaves nothing to train")],
)
def test_patterns_that_freeze_nothing_or_all_are_refused(patterns, line, digits, tmp_path):
    with pytest.raises(UserError, match=line):
        go(Vanilla(network=Backbone("resnet8", freeze=patterns)), digits, tmp_path / "run", epochs=1)
    assert not (tmp_path / "run").exists()


# Going on from a finished Run


def test_a_run_goes_on_from_another_with_its_branches(digits, tmp_path):
    first = go(One(network="resnet8"), digits, tmp_path / "first", epochs=2)
    still = Recipe(learning_rate=1e-12, schedule="constant", weight_decay=0.0)
    options = {"epochs": 1, "start_from": str(first.path), "recipe": still}
    second = go(One(network="resnet8"), digits, tmp_path / "second", **options)
    before, after = weights(first), weights(second)
    assert before.keys() == after.keys()
    for key in before:  # all but what batch norm has seen since
        if "running" not in key and "num_batches" not in key:
            torch.testing.assert_close(after[key], before[key])
    assert second.card["training_flops"] == pytest.approx(1.5 * first.card["training_flops"])
    assert second.card["seconds"] > first.card["seconds"]
    assert second.config["start_from"] == str(first.path)


def test_the_run_may_be_named_from_home_and_is_read_before_training(digits, tmp_path, monkeypatch):
    go(Vanilla(network="resnet8"), digits, tmp_path / "first", epochs=1)
    monkeypatch.setenv("HOME", str(tmp_path))
    method = Vanilla(network="resnet8")
    method.stages = lambda task: _gone(Vanilla.stages(method, task), tmp_path / "first" / "model.json")
    second = go(method, digits, tmp_path / "second", epochs=1, start_from="~/first")
    assert second.card["training_flops"] > second.metrics[0]["training_flops"]


def _gone(stages, card):
    for stage in stages:
        yield replace(stage, hooks=replace(stage.hooks, after_step=lambda done: card.unlink(missing_ok=True)))


def test_an_average_that_was_delivered_is_gone_on_from_and_resumed(digits, tmp_path):
    first = go(
        Vanilla(network="resnet8"),
        digits,
        tmp_path / "first",
        epochs=3,
        recipe=Recipe(average="ema", deliver="average"),
    )
    still = Recipe(learning_rate=1e-12, schedule="constant", weight_decay=0.0)
    second = go(
        Vanilla(network="resnet8"), digits, tmp_path / "second", epochs=1, start_from=str(first.path), recipe=still
    )
    assert torch.allclose(weights(second)["target.fc.weight"], weights(first)["target-average.fc.weight"])
    make, options = (lambda: Vanilla(network="resnet8")), {"epochs": 2, "start_from": str(first.path)}
    whole = go(make(), digits, tmp_path / "whole", **options)
    cut = resuming.cut_and_resumed(make, digits, tmp_path / "cut", "train", 7, **options)
    assert same(whole, cut)


def test_of_several_stages_the_last_is_trained_again(digits, tmp_path):
    make = lambda: METHODS["kd"](network="resnet8", epochs={"teacher": 1})  # noqa: E731
    first = go(make(), digits, tmp_path / "first", epochs=1)
    options = {"epochs": 2, "start_from": str(first.path)}
    second = go(make(), digits, tmp_path / "second", **options)
    stages = [row["stage"] for row in first.metrics]
    assert {row["stage"] for row in second.metrics} == {stages[-1]}
    assert (second.path / "checkpoints" / "stage0.safetensors").is_file()
    cut = resuming.cut_and_resumed(make, digits, tmp_path / "cut", stages[-1], 4, **options)
    assert same(second, cut)


def test_another_run_than_the_same_is_refused(digits, finished, tmp_path):
    for method, line in (
        (Dml(network="resnet8"), "its method is 'one'"),
        (One(network="resnet14"), "its network is 'resnet8'"),
        (One(network="resnet8", num_branches=5), "checkpoint is of another network"),
    ):
        with pytest.raises(UserError, match=line):
            go(method, digits, tmp_path / "run", epochs=1, start_from=str(finished.path))
    with pytest.raises(UserError, match="no finished Run is there"):
        go(One(network="resnet8"), digits, tmp_path / "run2", epochs=1, start_from=str(tmp_path))


def test_the_command_knows_from(finished, tmp_path):
    parsed = expanded(["--from", "a", "--from=b", "--method", "one", "--", "--from"])
    assert parsed == ["--start_from", "a", "--start_from=b", "--method.name", "one", "--", "--from"]


def test_the_command_line_names_its_own_flag_of_the_run_to_go_on_from(tmp_path, capsys):
    options = ["--network", "resnet8", "--data", "digits", "--from", str(tmp_path), "--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit):
        cli.main(["train", *options])
    assert f"--from {tmp_path}: no finished Run is there" in capsys.readouterr().err
