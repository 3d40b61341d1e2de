"""What a run promises: repeatable, resumable, nothing lost."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import coterie
from coterie import UserError
from coterie.data import Resident
from coterie.methods import Kdcl, One, Task, Vanilla
from coterie.recipes import OfficialCode, Paper
from coterie.training import Interrupted, Recipe
from coterie.training.precision import find_unwritten, resolve_precision
from resuming import stopping
from toys import go, same, weights


@pytest.mark.processor
def test_the_same_configuration_gives_the_same_weights(digits, tmp_path):
    first, second = (go(One(network="resnet8"), digits, tmp_path / name, epochs=2) for name in "ab")
    assert same(first, second)
    other = go(One(network="resnet8"), digits, tmp_path / "c", epochs=2, seed=1)
    assert not same(first, other)


def test_bfloat16_trains_and_is_written_down(digits, tmp_path):
    run = go(One(network="resnet8"), digits, tmp_path / "run", precision="bf16", epochs=2)
    assert run.config["precision"] == "bf16"
    assert all(tensor.dtype != torch.bfloat16 for tensor in weights(run).values())


def test_precision_follows_a_fixed_rule(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr("coterie.training.precision.has_native_bfloat16", lambda device: True)
    assert resolve_precision("auto", cpu, int(1e8)) == "bf16"
    assert resolve_precision("auto", cpu, int(1e5)) == "fp32"
    monkeypatch.setattr("coterie.training.precision.has_native_bfloat16", lambda device: False)
    assert resolve_precision("auto", cpu, int(1e8)) == "fp32"


def shrinking(strides):
    """A network of digits, which are 8x8: it halves them as often as this, and has a strided layer too many at 4."""
    layers = [nn.Conv2d(1 if place == 0 else 8, 8, 3, 2, 1) for place in range(strides)]
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(10))


def test_bfloat16_is_not_taken_where_its_gradient_is_partly_unwritten(digits, tmp_path, monkeypatch):
    monkeypatch.setattr("coterie.training.precision.has_native_bfloat16", lambda device: True)
    monkeypatch.setattr("coterie.training.precision._WORTH_IT", 1)
    networks = {strides: shrinking(strides) for strides in (3, 4)}
    for network in networks.values():
        network(torch.zeros(2, 1, 8, 8))  # its last layer takes its size
    assert find_unwritten(networks[3], digits) is None
    assert find_unwritten(networks[4], digits) == "3"
    chosen = {
        strides: go(Vanilla(network=network), digits, tmp_path / str(strides), epochs=1).config["precision"]
        for strides, network in networks.items()
    }
    assert chosen == {3: "bf16", 4: "fp32"}
    with pytest.raises(UserError, match="layer '3' is a strided convolution on maps of one pixel"):
        go(Vanilla(network=networks[4]), digits, tmp_path / "refused", precision="bf16", epochs=1)
    assert not (tmp_path / "refused" / "model.json").exists()


@pytest.mark.processor
def test_the_best_epoch_on_validation_is_delivered(digits, tmp_path):
    data = coterie.data.load("digits", train_samples=200, test_samples=50, validation=0.2)
    run = go(Vanilla(network="resnet8"), data, tmp_path / "run", epochs=4)
    errors = [row["validation_error_target"] for row in run.metrics]
    assert run.card["selected"] == "best on validation"
    assert run.card["epoch"] == errors.index(min(errors)) + 1
    measured = coterie.evaluate(run, split="validation")
    assert measured["error"] == pytest.approx(min(errors), abs=1e-9)


def test_the_users_own_module_is_trained_in_place(digits, tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    before = model[0].weight.detach().clone()
    run = go(One(network=model, at="1"), digits, tmp_path / "run", epochs=1)
    assert not torch.equal(before, model[0].weight)
    assert run.config["network"] is None
    assert torch.equal(run.network("target")[0].weight, model[0].weight)
    with pytest.raises(UserError, match="module of yours"):
        coterie.Run(run.path).network()


def test_a_factory_of_the_users_own_is_asked_again(digits, tmp_path):
    def small(num_classes, in_channels):
        pooled = nn.Sequential(nn.Conv2d(in_channels, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return nn.Sequential(pooled, nn.Linear(8, num_classes))

    run = go(Vanilla(network=small), digits, tmp_path / "run", epochs=1)
    images = next(iter(coterie.data.evaluation_batches(digits, digits.test))).images
    assert torch.equal(run.model(images), coterie.Run(run.path, network=small).model(images))
    with pytest.raises(UserError, match="or a factory; open it with Run"):
        _ = coterie.Run(run.path).model


def test_resuming_says_what_it_finds(digits, tmp_path, finished, capsys):
    run = go(One(network="resnet8"), digits, tmp_path / "new", resume=True, progress=True)
    assert "from the beginning" in " ".join(capsys.readouterr().err.split())
    again = go(One(network="resnet8"), digits, run.path, resume=True, progress=True)
    assert "finished" in capsys.readouterr().err
    assert same(run, again)
    with pytest.raises(UserError, match="temperature is 4.0.*3.0"):
        go(One(network="resnet8", temperature=4.0), digits, run.path, resume=True)
    with pytest.raises(UserError, match="resume=True"):
        go(One(network="resnet8"), digits, run.path)


def test_going_on_compares_what_options_mean_and_the_images(digits, tmp_path, capsys):
    out, options = tmp_path / "run", {"epochs": 2, "threads": 1}
    whole = go(One(network="resnet8"), digits, tmp_path / "whole", **options)
    with pytest.raises(Interrupted):
        go(stopping(One(network="resnet8"), "train", 3), digits, out, **options)
    elsewhere = replace(digits, options={**digits.options, "workers": 3, "memory_gb": 0.5, "root": "elsewhere"})
    fewer = replace(digits, train=digits.train.subset(np.arange(150)))
    with pytest.raises(UserError, match=r"has 150 train images, and the run in .* began with 160; restore them"):
        go(One(network="resnet8"), fewer, out, resume=True, **options)
    others = replace(digits, test=digits.test.subset(np.arange(100)[::-1].copy()))
    with pytest.raises(UserError, match="has other images or labels than the run in"):
        go(One(network="resnet8"), others, out, resume=True, **options)
    cut = go(One(network="resnet8"), elsewhere, out, resume=True, progress=True, **options | {"device": "cpu"})
    assert "device is cpu, and the run had auto: results may differ" in " ".join(capsys.readouterr().err.split())
    assert same(whole, cut)


def test_batch_sizes_fit_the_data(digits, tmp_path):
    with pytest.raises(UserError, match="batch_size is 500.*160"):
        go(Vanilla(network="resnet8"), digits, tmp_path / "a", batch_size=500)
    few = coterie.data.load("digits", train_samples=40, test_samples=20)
    run = go(Vanilla(network="resnet8"), few, tmp_path / "b", batch_size=None, epochs=1)
    assert run.config["batch_size"] == 40


def test_a_loss_that_became_nan_is_named_and_loses_nothing(digits, tmp_path):
    with pytest.raises(UserError, match="became nan.*learning_rate") as caught:
        go(Vanilla(network="resnet8"), digits, tmp_path / "run", recipe=Recipe(learning_rate=1e30))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "model.json").exists()


def test_recipes_are_the_published_ones():
    steps = Paper().make_schedule(Paper().make_optimiser([nn.Parameter(torch.zeros(2, 2))]), 100)
    factors = [steps.lr_lambdas[0](step) for step in (0, 49, 50, 74, 75, 99)]
    assert factors == [1, 1, 0.1, 0.1, 0.01, 0.01]
    assert (Paper().weight_decay, Paper().nesterov, OfficialCode().nesterov) == (1e-4, True, False)


def test_the_rate_falls_where_it_is_told_to():
    recipe = Recipe(optimiser="adam", learning_rate=1e-3, schedule="step", drops=(0.15, 0.65), weight_decay=1e-4)
    optimiser = recipe.make_optimiser([nn.Parameter(torch.zeros(2, 2))])
    steps = recipe.make_schedule(optimiser, 200)
    assert [steps.lr_lambdas[0](step) for step in (0, 29, 30, 129, 130, 199)] == [1, 1, 0.1, 0.1, 0.01, 0.01]
    assert type(optimiser) is torch.optim.Adam
    assert optimiser.param_groups[0]["weight_decay"] == 1e-4
    with pytest.raises(UserError, match="drops, item 1 is 1.5"):
        Recipe(drops=(1.5,))


def test_weight_decay_can_spare_norms_and_biases():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    groups = Recipe(decay_everything=False).make_optimiser(model.parameters()).param_groups
    assert [(len(group["params"]), group["weight_decay"]) for group in groups] == [(1, 5e-4), (3, 0.0)]


def test_the_step_fetches_nothing_from_the_device(digits, tmp_path):
    run = go(One(network="resnet8"), digits, tmp_path / "run", epochs=1)
    stage = next(run.method().stages(Task(10, 1, (8, 8))))
    batch = next(coterie.data.training_batches(digits, batch_size=8, seed=0, stage=0, epoch=0))
    with torch.profiler.profile() as profile:
        stage.turns[0].module(batch).loss.total.backward()
    assert "aten::_local_scalar_dense" not in {event.key for event in profile.key_averages()}


def test_images_of_a_split_may_be_few(tmp_path, digits):
    tiny = replace(digits, train=digits.train.subset(digits.train.labels.argsort()[:3]))
    assert isinstance(tiny.train, Resident)
    run = go(One(network="resnet8"), tiny, tmp_path / "run", batch_size=2, epochs=1)
    assert run.metrics[0]["loss"] > 0


def test_a_method_without_the_validation_split_that_it_needs_makes_no_folder(digits, tmp_path):
    with pytest.raises(UserError, match="'kdcl' needs a validation split; add validation=0.1"):
        go(Kdcl(network="resnet8", teacher="general"), digits, tmp_path / "run")
    assert not (tmp_path / "run").exists()
