"""Averaged weights: by their formulas, with statistics of their own, for every method, resumed exactly."""

import copy

import pytest
import torch
from torch import nn

import coterie
from coterie import UserError
from coterie.data import training_batches
from coterie.methods import METHODS, Kd, Vanilla
from coterie.methods.base import Hooks
from coterie.recipes import Recipe
from resuming import resumes_exactly
from toys import go, weights

EMA = {"average": "ema", "average_window": 0.2, "deliver": "average"}
TAIL = {"average": "tail", "average_window": 0.5, "deliver": "average"}
FEWER = {"ensemble": {"members": 2}, "self-distillation": {"generations": 2}}


def watched(method, states):
    """The method, which notes its network's state after every step."""
    whole = method.stages

    def stages(task):
        for stage in whole(task):
            object.__setattr__(
                stage,
                "hooks",
                Hooks(after_step=lambda done, own=stage: states.append(copy.deepcopy(own.network.state_dict()))),
            )
            yield stage

    method.stages = stages
    return method


def test_an_exponential_average_follows_weights_and_buffers_by_the_formula(digits, tmp_path):
    states = []
    run = go(watched(Vanilla(network="resnet8"), states), digits, tmp_path / "run", epochs=3, recipe=Recipe(**EMA))
    steps = len(states)
    expected = {key: torch.zeros_like(value, dtype=torch.float64) for key, value in states[0].items()}
    for step, state in enumerate(states, 1):
        rate = max(1 / step, 1 / (1 + 0.2 * steps))
        for key, value in state.items():
            expected[key] += rate * (value - expected[key])
    got = run.network("target-average").state_dict()
    for key, value in got.items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[key], atol=1e-5, rtol=1e-4)
    assert run.card["deliverables"] == ["target-average", "target"]
    assert not torch.equal(got["fc.weight"], run.network("target").state_dict()["fc.weight"])
    assert any("running_mean" in key for key in got)


def test_a_tail_is_the_mean_of_epoch_ends_and_its_statistics_those_of_two_passes(digits, tmp_path):
    states = []
    method, recipe = watched(Vanilla(network="resnet8"), states), Recipe(**TAIL)
    run = go(method, digits, tmp_path / "run", epochs=4, recipe=recipe, batch_size=32)
    steps = len(states) // 4
    ends = [states[steps * epoch - 1] for epoch in (3, 4)]
    network = run.network("target-average")
    for key, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.detach(), (ends[0][key] + ends[1][key]) / 2, atol=1e-6, rtol=1e-5)
    again = copy.deepcopy(network).eval()
    for module in again.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
            module.train()
    with torch.no_grad():
        for epoch in (4, 5):
            for batch in training_batches(digits, batch_size=32, seed=0, stage=0, epoch=epoch):
                again(batch.images)
    for key, value in again.named_buffers():
        if value.is_floating_point():
            torch.testing.assert_close(value, network.get_buffer(key), atol=1e-3, rtol=1e-2)
    plain = go(Vanilla(network="resnet8"), digits, tmp_path / "plain", epochs=4, batch_size=32)
    # Two passes forward are two thirds of an epoch of forward and backward, but for what needs no gradient.
    extra = run.card["training_flops"] / plain.card["training_flops"] - 1
    assert extra == pytest.approx(2 / 3 / 4, rel=0.1)
    assert "test_error_target-average" not in run.metrics[0]
    assert "test_error_target-average" in run.metrics[-1]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_delivers_its_averages_and_its_run_opens(name, digits, tmp_path):
    method = METHODS[name](network="resnet8", **FEWER.get(name, {}))
    run = go(method, digits, tmp_path / "run", epochs=1, batch_size=40, recipe=Recipe(**EMA))
    names = run.card["deliverables"]
    averages = [each for each in names if each.endswith("-average")]
    assert averages
    if "target-average" in names:
        live, average = (run.network(each).state_dict() for each in ("target", "target-average"))
        assert any(not torch.equal(live[key], average[key]) for key in live)
        assert run.card["test"]["target-average"]["error"] >= 0
    if name not in ("snapshot",):
        assert names[0].endswith("-average")
    opened = coterie.Run(tmp_path / "run")
    assert opened.network().training is False


def test_a_teacher_is_taken_over_as_it_would_be_delivered(digits, tmp_path):
    teachers = {}
    for deliver in ("average", "last"):
        method = Kd(network="resnet8")
        run = go(method, digits, tmp_path / deliver, epochs=2, recipe=Recipe(**{**EMA, "deliver": deliver}))
        teachers[deliver] = [row["loss"] for row in run.metrics if row["stage"] == "student"]
    assert teachers["average"] != teachers["last"]


@pytest.mark.parametrize("recipe", [EMA, TAIL])
@pytest.mark.parametrize(("method", "stage"), [(Vanilla, "train"), (Kd, "student")])
def test_a_training_with_averages_resumes_exactly(method, stage, recipe, digits, tmp_path):
    def make():
        return method(network="resnet8")

    assert resumes_exactly(make, digits, tmp_path, stage, 3, recipe=Recipe(**recipe), epochs=2, batch_size=40)


def test_the_validation_split_chooses_among_last_and_average(tmp_path):
    data = coterie.data.load("digits", train_samples=200, test_samples=60, validation=0.2)
    run = go(Vanilla(network="resnet8"), data, tmp_path / "run", epochs=3, recipe=Recipe(**EMA))
    errors = {
        (row["epoch"], kind): row[f"validation_error_target{kind}"] for row in run.metrics for kind in ("", "-average")
    }
    epoch, kind = min(errors, key=errors.get)
    assert run.card["selected"] == "best on validation"
    assert run.card["deliverables"][0] == f"target{kind}"
    assert run.card["epoch"] == epoch


def test_without_an_average_nothing_is_new(finished):
    assert not [key for row in finished.metrics for key in row if "average" in key]
    assert not [name for name in finished.card["deliverables"] if "average" in name]


def test_an_average_that_is_not_made_cannot_be_delivered():
    with pytest.raises(UserError, match=r"^deliver='average': there is no average; give"):
        Recipe(deliver="average")


def test_averages_are_exported_and_asked_by_name(digits, tmp_path):
    run = go(Vanilla(network="resnet8"), digits, tmp_path / "run", epochs=1, recipe=Recipe(**EMA))
    coterie.export(run, "safetensors", tmp_path / "net.safetensors", "target-average")
    measured = coterie.evaluate(run, student="target-average")
    assert measured["error"] == pytest.approx(run.card["test"]["target-average"]["error"])
    assert weights(run)
