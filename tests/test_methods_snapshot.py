"""Cyclic cosine, and the network's state at the end of every cycle."""

from math import ceil, cos, pi

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import coterie
from coterie import UserError
from coterie.methods import Snapshot, Task
from coterie.methods.snapshot import cyclic_cosine
from coterie.run import open_exported
from resuming import go, resumes_exactly
from toys import weights


@pytest.mark.parametrize(("steps", "cycles"), [(20, 5), (6, 1), (12, 12)])
def test_the_rate_is_the_papers(steps, cycles):
    length = ceil(steps / cycles)
    for t in range(1, steps + 1):
        expected = (cos(pi * ((t - 1) % length) / length) + 1) / 2
        assert cyclic_cosine(t - 1, steps, cycles) == pytest.approx(expected, abs=1e-12)


@given(st.integers(1, 9), st.integers(0, 200))
def test_there_are_always_as_many_cycles_as_asked_for(cycles, more):
    steps = cycles + more
    rates = [cyclic_cosine(step, steps, cycles) for step in range(steps)]
    assert sum(rate == 1 for rate in rates) == cycles
    assert min(rates) > 0


class Trained(nn.Module):
    """One number, set by hand."""

    def __init__(self):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(1))

    def forward(self, images):
        return self.value.expand(len(images), 10)


@pytest.mark.parametrize(
    ("options", "epochs", "kept"),
    [
        ({"cycles": 3}, 30, [4, 7, 10]),
        ({"cycles": 3, "last": 2}, 30, [7, 10]),
        ({"cycles": 5}, 2, [5, 10]),
        ({"cycles": 5, "last": 4, "epochs": {"train": 3}}, 30, [4, 7, 10]),
    ],
)
def test_the_ends_of_the_last_cycles_are_kept(options, epochs, kept):
    model = Trained()
    (stage,) = Snapshot(network=model, **options).stages(Task(10, 1, (8, 8), epochs))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    stage.schedule(optimiser, 10)
    for step in range(1, 11):
        with torch.no_grad():
            model.value.fill_(step)
        stage.hooks.after_step(step / 10)
    assert [member.value.item() for member in stage.deliver["ensemble"].members] == kept
    assert stage.deliver["target"] is model
    assert len(stage.group) == len(kept)


def test_a_run_has_as_many_snapshots_as_epochs_if_these_are_few(digits, tmp_path):
    run = go(Snapshot(network="resnet8"), digits, tmp_path / "run", epochs=3)
    assert run.card["deliverables"] == ["ensemble", "target"]
    assert set(run.card["test"]) == {"ensemble", "target", "snapshot1", "snapshot2", "snapshot3"}
    trained = weights(run)
    assert torch.equal(trained["ensemble.members.2.fc.weight"], trained["target.fc.weight"])
    errors = [row["test_error_target"] for row in run.metrics]  # one cycle an epoch: measured when it was kept
    measured = coterie.evaluate(run)
    assert [measured[f"error_snapshot{index}"] for index in (1, 2, 3)] == pytest.approx(errors)
    assert coterie.export(run, "safetensors", tmp_path / "s.safetensors").difference < 1e-5
    assert len(open_exported(tmp_path / "s.safetensors")[1].members) == 3


@pytest.mark.parametrize("step", [4, 5, 7])
def test_a_run_resumes_exactly_before_at_and_after_a_snapshot(step, digits, tmp_path):
    assert resumes_exactly(lambda: Snapshot(network="resnet8"), digits, tmp_path, "train", step)


def test_validation_does_not_choose_an_epoch_that_lacks_snapshots(tmp_path):
    data = coterie.data.load("digits", train_samples=200, test_samples=50, validation=0.2)
    run = go(Snapshot(network="resnet8"), data, tmp_path / "run", epochs=3)
    assert (run.card["selected"], run.card["epoch"]) == ("last", 3)
    assert all("validation_error_target" in row for row in run.metrics)


def test_wrong_options_are_one_line():
    for options, said in (({"cycles": 0}, "cycles is 0"), ({"cycles": 2, "last": 3}, "last is 3")):
        with pytest.raises(UserError, match=said):
            Snapshot(**options)
