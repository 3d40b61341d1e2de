"""Options of training: they are the same everywhere; ``--compile`` and ``--precision trial``."""

from dataclasses import fields
from functools import partial
from inspect import signature

import pytest
import torch

import coterie
from coterie.cli.train import train_parser
from coterie.errors import UserError
from coterie.methods import One
from coterie.training import TrainingOptions, precision
from toys import go, weights


def test_the_arguments_of_train_are_the_training_options():
    arguments = signature(coterie.train).parameters
    options = fields(TrainingOptions)
    assert [*arguments][-len(options) :] == [option.name for option in options]
    assert {option.name: arguments[option.name].default for option in options} == vars(TrainingOptions())


def test_the_command_line_and_the_configuration_have_every_training_option(finished):
    given = train_parser([]).parse_args([])
    assert {option.name: given[option.name] for option in fields(TrainingOptions)} == vars(TrainingOptions())
    assert {option.name for option in fields(TrainingOptions)} <= finished.config.keys()


@pytest.mark.parametrize(("words", "value"), [(["--compile"], True), (["--compile", "false"], False), ([], False)])
def test_a_switch_may_stand_alone(words, value):
    parsed = train_parser([]).parse_args([*words, "--epochs", "2"])
    assert (parsed.compile, parsed.epochs) == (value, 2)


def test_a_compiled_run_writes_a_plain_networks_weights(digits, tmp_path, monkeypatch):
    compiled = []

    def quick(function, **options):
        compiled.append(function)
        return compiler(function, backend="eager", **options)  # graphs as torch.compile takes them, not made faster

    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", quick)
    options = {"epochs": 1, "precision": "fp32"}
    fast = go(One(network="resnet8"), digits, tmp_path / "fast", compile=True, **options)
    assert len(compiled) == 1
    plain = go(One(network="resnet8"), digits, tmp_path / "plain", **options)
    assert len(compiled) == 1
    ours, theirs = weights(fast), weights(plain)
    assert ours.keys() == theirs.keys()  # no "_orig_mod"
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key], atol=1e-3, rtol=1e-3)
    assert fast.card["cost"] == plain.card["cost"]
    assert fast.config["compile"] is True
    coterie.networks.build("resnet8", 10, 1).load_state_dict(fast.model.state_dict())


@pytest.mark.parametrize("faster", ["fp32", "bf16"])
def test_a_trial_takes_the_faster_precision_and_writes_it_down(faster, digits, tmp_path, monkeypatch):
    # A clock by which the other precision takes ten times as long.
    tried = []
    now = [0.0]

    def autocast(original, device, each):
        tried.append(each)
        now[0] += 1 if each == faster else 10
        return original(device, each)

    monkeypatch.setattr(precision, "autocast", partial(autocast, precision.autocast))
    monkeypatch.setattr(precision.time, "perf_counter", lambda: now[0])
    run = go(One(network="resnet8"), digits, tmp_path / "run", precision="trial", epochs=1)
    assert set(tried) == {"fp32", "bf16"}
    assert run.config["precision"] == faster


def test_a_trial_leaves_the_run_as_it_was(digits, tmp_path):
    tried = go(One(network="resnet8"), digits, tmp_path / "tried", precision="trial", epochs=1)
    told = go(One(network="resnet8"), digits, tmp_path / "told", precision=tried.config["precision"], epochs=1)
    assert all(torch.equal(value, weights(told)[key]) for key, value in weights(tried).items())


def test_the_test_images_are_looked_at_as_often_as_asked(digits, tmp_path):
    from coterie.methods import Vanilla

    options = {"batch_size": 80, "progress": False}
    often = coterie.train(Vanilla(network="resnet8"), digits, epochs=5, out=tmp_path / "often", **options)
    seldom = coterie.train(
        Vanilla(network="resnet8"), digits, epochs=5, out=tmp_path / "seldom", test_every=2, **options
    )
    assert [row["epoch"] for row in seldom.metrics if "test_error_target" in row] == [2, 4, 5]
    assert seldom.card["test"] == often.card["test"]
    assert seldom.metrics[3]["test_error_target"] == often.metrics[3]["test_error_target"]
    with pytest.raises(UserError, match="test_every is 0"):
        coterie.train(Vanilla(network="resnet8"), digits, epochs=1, out=tmp_path / "never", test_every=0, **options)
