"""Parts of a batch that are found where memory ends: a stand-in says when, since a CPU's has no such end."""

from collections import deque

import pytest
import torch
from torch import nn

from coterie.errors import UserError
from coterie.methods import Dml, Kd, Meal, One, Vanilla
from coterie.networks import build
from coterie.recipes import Recipe
from coterie.training import Interrupted, find_rate
from coterie.training.stages import memory
from resuming import stopping
from toys import comparable, go, same


class Small(nn.Module):
    """A network whose training takes more memory than there is, for more images than ``most``."""

    def __init__(self, most=1000):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.most = build("resnet8", 10, 1), most
        self.tried = deque()  # which, unlike a list, a trial does not restore
        self.held = deque()  # for each of them, whether gradients took memory at its beginning

    def forward(self, x):
        held = self.body.fc.weight.grad is not None
        x = self.body.layer1(self.body.relu(self.body.bn1(self.body.conv1(x))))
        x = self.body.layer3(self.body.layer2(x))
        return self.body.fc(Full.apply(self.body.avgpool(x).flatten(1), self.most, self.tried, self.held, held))


class Full(torch.autograd.Function):
    """Runs out of memory in the backward, when the last layer has its gradients already."""

    @staticmethod
    def forward(ctx, x, most, tried, held, now):
        ctx.most, ctx.tried, ctx.held, ctx.now = most, tried, held, now
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        ctx.tried.append(len(gradient))
        ctx.held.append(ctx.now)
        if len(gradient) > ctx.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return gradient, None, None, None, None


@pytest.fixture
def ends(monkeypatch):
    monkeypatch.setattr(memory, "has_an_end", lambda device: True)


RECIPES = {
    "sgd": Recipe(),
    "adamw": Recipe(optimiser="adamw", learning_rate=0.01, average="ema", clip_norm=1.0),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_fewest_parts_that_fit_are_found_and_the_trial_leaves_nothing(recipe, ends, digits, tmp_path, capsys):
    options = {"epochs": 2, "recipe": RECIPES[recipe], "progress": True}
    network = Small(most=10)
    found = go(Vanilla(network=network), digits, tmp_path / "found", accumulate="auto", **options)
    assert list(network.tried)[:5] == [32, 16, 8, 8, 8]  # the first two fail, of the third two parts are tried
    assert list(network.held)[:5] == [False, False, False, True, False]
    assert "a batch of 32 fits in 4 parts" in capsys.readouterr().err
    given = go(Vanilla(network=Small()), digits, tmp_path / "given", accumulate=4, **options)
    assert same(found, given)
    assert comparable(found.metrics) == comparable(given.metrics)
    assert found.config["accumulate"] == "auto"


def test_a_batch_that_fits_stays_whole(ends, digits, tmp_path):
    network = Small()
    found = go(Vanilla(network=network), digits, tmp_path / "found", epochs=1, accumulate="auto")
    assert set(network.tried) == {32}
    assert same(found, go(Vanilla(network=Small()), digits, tmp_path / "whole", epochs=1))


@pytest.mark.parametrize("method", [One, Dml, Kd, Meal])
def test_each_methods_stages_are_as_without_a_trial(method, ends, digits, tmp_path):
    runs = [go(method(network="resnet8"), digits, tmp_path / str(n), epochs=1, accumulate=n) for n in (1, "auto")]
    assert same(*runs)


def test_a_resumed_stage_keeps_the_parts_it_began_with(ends, digits, tmp_path):
    options = {"epochs": 2, "accumulate": "auto"}
    whole = go(Vanilla(network=Small(most=10)), digits, tmp_path / "whole", **options)
    with pytest.raises(Interrupted):
        go(stopping(Vanilla(network=Small(most=10)), "train", 3), digits, tmp_path / "cut", **options)
    larger = Small()  # another machine, whose memory would hold the whole batch
    cut = go(Vanilla(network=larger), digits, tmp_path / "cut", resume=True, **options)
    assert set(larger.tried) == {8}
    assert same(whole, cut)


def test_memory_that_holds_no_two_images_is_said(ends, digits, tmp_path):
    with pytest.raises(UserError, match="memory does not hold a step, not even in 16 parts"):
        go(Vanilla(network=Small(most=1)), digits, tmp_path / "run", accumulate="auto")


def test_another_error_is_not_taken_for_an_end_of_memory(ends, digits, tmp_path, monkeypatch):
    def fail(ctx, gradient):
        raise RuntimeError("something else")

    monkeypatch.setattr(Full, "backward", staticmethod(fail))
    with pytest.raises(RuntimeError, match="something else"):
        go(Vanilla(network=Small()), digits, tmp_path / "run", accumulate="auto")


def test_on_a_cpu_one_part_is_taken_and_said(digits, tmp_path, capsys):
    run = go(Vanilla(network="resnet8"), digits, tmp_path / "run", epochs=1, accumulate="auto", progress=True)
    said = " ".join(capsys.readouterr().err.split())
    assert "on a CPU memory's end cannot be found" in said
    assert "in as few parts as memory holds" in said
    assert same(run, go(Vanilla(network="resnet8"), digits, tmp_path / "one", epochs=1))


def test_a_word_that_is_not_auto_is_refused(digits, tmp_path):
    with pytest.raises(UserError, match="accumulate is 'most'; write a whole number from 1 to 1024 or 'auto'"):
        go(Vanilla(network="resnet8"), digits, tmp_path / "run", accumulate="most")


def test_a_rate_is_looked_for_in_the_parts_that_fit(ends, digits):
    network = Small(most=10)
    test = find_rate(Vanilla(network=network), digits, progress=False, batch_size=32, accumulate="auto")
    assert len(test.rates) > 2
