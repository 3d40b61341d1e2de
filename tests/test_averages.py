"""Moving averages: a window that is a share of the training, statistics of their own, exact resume."""

import pytest
import torch
from torch import nn

import coterie
from coterie import UserError
from coterie.methods import Online, Pcl, Task
from coterie.methods.online.config import Distillation
from coterie.methods.online.peers import Branched, Independent
from coterie.networks.moving_average import MovingAverage
from resuming import resumes_exactly
from toys import go, weights

AVERAGED = (Distillation(source="each", from_ema=True),)


def test_the_window_is_the_same_share_of_every_training():
    average = MovingAverage(nn.Linear(1, 1), 0.999, 117_300, runs=False)
    assert average.last_decay(117_300) == pytest.approx(0.999, abs=1e-12)
    for steps in (117, 1_173, 1_000_000):
        decay = average.last_decay(steps)
        assert decay / (1 - decay) / steps == pytest.approx(999 / 117_300)
    assert MovingAverage(nn.Linear(1, 1), 0.999, None, runs=False).last_decay(117) == 0.999
    for decay in (0.0, 1.0):
        assert MovingAverage(nn.Linear(1, 1), decay, 1_000, runs=False).last_decay(10) == decay


def test_the_average_is_the_recursion_of_its_decay():
    network = nn.Linear(1, 1, bias=False).double()
    average = MovingAverage(network, 0.5, None, runs=False)
    values, expected = [3.0, -1.0, 2.0, 5.0, -4.0], None
    for step, value in enumerate(values):
        nn.init.constant_(network.weight, value)
        average.update(network, (step + 1) / len(values))
        kept = min(0.5, 1 - 1 / (step + 1))
        expected = value if expected is None else kept * expected + (1 - kept) * value
        assert average.module.weight.item() == pytest.approx(expected, abs=1e-12)
    mean = MovingAverage(network, 1.0, None, runs=False)
    for step, value in enumerate(values):
        nn.init.constant_(network.weight, value)
        mean.update(network, (step + 1) / len(values))
    assert mean.module.weight.item() == pytest.approx(sum(values) / len(values))


def test_buffers_follow_where_the_average_does_not_run_and_are_its_own_where_it_does():
    network = nn.BatchNorm1d(2)
    network.register_buffer("table", torch.rand(3))
    resting, running = (MovingAverage(network, 0.5, None, runs=runs) for runs in (False, True))
    before = network.running_mean.clone()
    network(torch.randn(8, 2) + 4)
    for average in (resting, running):
        average.update(network, 0.5)
        average.update(network, 1.0)
    assert torch.equal(resting.module.running_mean, network.running_mean)
    assert resting.module.num_batches_tracked == 1
    assert torch.equal(resting.module.table, network.table)  # what does not change is not rounded either
    assert torch.equal(running.module.running_mean, before)
    running(torch.full((8, 2), 3.0))
    assert torch.allclose(running.module.running_mean, torch.full((2,), 0.3))


@pytest.mark.parametrize("average", [0.0, 0.999])
@pytest.mark.parametrize("teaches", [True, False])
def test_an_average_is_delivered_with_statistics_of_its_own(average, teaches, tmp_path):
    """Its running statistics are those of its own weights: so much so that a short training's average classifies."""
    data = coterie.data.load("digits", train_samples=400, test_samples=200)
    distillations = (Distillation(), AVERAGED[0]) if teaches else (Distillation(),)
    method = Online(network="resnet8", peers=Branched(num=2), distillations=distillations, ema_decay=average)
    run = go(method, data, tmp_path / "run", epochs=8)
    trained = weights(run)
    for name in [key.removeprefix("target.") for key in trained if key.startswith("target.")]:
        ours, theirs = trained[f"average.{name}"], trained[f"target.{name}"]
        if average == 0 and not name.endswith(("running_mean", "running_var")):
            assert torch.equal(ours, theirs), name
        elif average == 0:
            torch.testing.assert_close(ours, theirs)
    figures = run.card["test"]
    assert figures["average"]["error"] <= figures["target"]["error"] + 5


@pytest.mark.parametrize(
    "options",
    [
        {"distillations": AVERAGED},
        {"distillations": (Distillation(source="mean"),)},
        {"distillations": (Distillation(source="mean"),), "peers": Independent(num=2), "sequential": True},
    ],
    ids=["distillations", "follows", "in turn"],
)
def test_averages_resume_exactly(options, digits, tmp_path):
    def make():
        peers = {"peers": Branched(num=2)} | options
        return Online(network="resnet8", aggregator="mean", ema_decay=0.9, ema_steps=None, **peers)

    assert resumes_exactly(make, digits, tmp_path, "train", 3, batch_size=32)


def test_averages_cannot_teach_in_turn_and_have_a_decay_and_a_length():
    with pytest.raises(UserError, match="all peers learn at once"):
        Online(aggregator="mean", peers=Independent(num=2), sequential=True, ema_decay=0.9, distillations=AVERAGED)
    with pytest.raises(UserError, match="ema_decay is 1.5; use a number from 0 to 1"):
        Online(ema_decay=1.5)
    with pytest.raises(UserError, match="ema_steps is 0"):
        Pcl(ema_steps=0)


def test_a_paper_states_its_decay_as_it_is():
    stage = next(Pcl(network="resnet8", ema_decay=0.99, ema_steps=None).stages(Task(10, 1, (8, 8))))
    assert stage.turns[0].module.average.last_decay(3) == 0.99
    stage = next(Pcl(network="resnet8").stages(Task(10, 1, (8, 8))))
    assert stage.turns[0].module.average.last_decay(300 * 391) == pytest.approx(0.999)


def test_a_run_of_before_the_window_goes_on_with_its_decay(digits, tmp_path):
    """0.1.0 wrote no length: its decay was meant as it stood."""
    options = {"epochs": 1, "batch_size": 32}
    run = go(Pcl(network="resnet8", num_branches=2, ema_steps=None), digits, tmp_path / "run", **options)
    config, card = run.path / "config.yaml", run.path / "model.json"
    text = config.read_text()
    assert "ema_steps: null\n" in text
    config.write_text(text.replace("  ema_steps: null\n", ""))
    card.unlink()  # as if it had been stopped before the end
    with pytest.raises(UserError, match="ema_steps is 117300, and the run in .* has null; give null to go"):
        go(Pcl(network="resnet8", num_branches=2), digits, run.path, resume=True, **options)
    again = go(Pcl(network="resnet8", num_branches=2, ema_steps=None), digits, run.path, resume=True, **options)
    assert again.card["deliverables"][-1] == "average"
