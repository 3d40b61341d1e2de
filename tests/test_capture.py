"""Captured steps, without a card: operations recorded once by torch.fx and replayed stand in for a CUDA graph.

As a graph does, the recording holds the tensors that a step read and wrote, and Python's numbers as they were: what a
method keeps in Python from step to step, or reads off the device, would make a replayed training another one.
"""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import resuming
from coterie import UserError
from coterie.methods import METHODS, One, Vanilla
from coterie.outputs import Batch
from coterie.recipes import Recipe
from coterie.training.stages import running
from coterie.training.stages.capture import Recorder, Watch
from toys import Average, Handed, Mutual, go, weights

FEWER = {"ensemble": {"members": 2}, "self-distillation": {"generations": 2}}


def record_operations(recorded, step, batch):
    """As :func:`record_graph`, by torch.fx, which computes what it records: the first replay has been."""

    def run(views, labels, indices, progress):
        step(Batch(views, labels, indices, progress))

    arguments = (batch.views, batch.labels, batch.indices, batch.progress)
    graph = make_fx(run)(*arguments)
    recorded.append(graph)
    done = [True]

    def replay():
        if done:
            done.pop()
        else:
            graph(*arguments)

    return replay


@pytest.fixture
def captured(monkeypatch):
    """Has every stage record its step by torch.fx; gives the recordings, and the stages' recorders."""
    recorded, recorders, said = [], [], []
    start = running.StageRun.__init__

    def begin(self, *args, **kwargs):
        start(self, *args, **kwargs)
        device = self.setting.accelerator.device
        record = partial(record_operations, recorded)
        self.take_turns = Recorder(self._take_turns, self.optimisers, device, said.append, record)
        recorders.append(self.take_turns)

    def go_captured(*args, **options):
        with monkeypatch.context() as patch:
            patch.setattr(running.StageRun, "__init__", begin)
            return go(*args, **options)

    go_captured.recorded, go_captured.recorders, go_captured.said = recorded, recorders, said
    return go_captured


# By method: what its stages cannot be captured for. MEAL draws one of two teachers on the processor; compact's stage of
# measuring statistics counts batches there.
DECLINES = {"meal": 1, "compact": 1}


@pytest.mark.parametrize("name", METHODS)
def test_every_methods_step_replayed_is_the_step(name, digits, tmp_path, captured):
    make = partial(METHODS[name], network="resnet8", **FEWER.get(name, {}))
    options = {"epochs": 2, "batch_size": 40, "precision": "fp32"}
    whole = go(make(), digits, tmp_path / "whole", **options)
    run = captured(make(), digits, tmp_path / "captured", **options)
    declined = [recorder.declined for recorder in captured.recorders if recorder.declined]
    assert len(declined) == len(captured.said) == DECLINES.get(name, 0), captured.said
    # A stage has one shape of batches, and eight steps of them at least.
    assert len(captured.recorded) == len(captured.recorders) - len(declined)
    expected = weights(whole)
    for key, tensor in weights(run).items():
        torch.testing.assert_close(
            tensor, expected[key], rtol=1e-3, atol=1e-4, msg=lambda text, key=key: f"{key}: {text}"
        )
    assert [row["loss"] for row in run.metrics] == pytest.approx([row["loss"] for row in whole.metrics], rel=1e-3)
    assert [*run.metrics[-1]] == [*whole.metrics[-1]]
    assert run.card["training_flops"] == whole.card["training_flops"]


def test_a_recording_follows_labels_rates_and_a_last_batch_that_is_smaller(digits, tmp_path, captured):
    # 160 images in batches of 48 leave 16; labels are mixed in half of the batches and in no late ones, so that they
    # are sometimes distributions; the rate rises and falls; averages follow between the replays.
    recipe = Recipe(cutmix=1.0, mix_probability=0.5, mix_until=0.7, average="ema", weight_decay=0.0, clip_norm=1.0)
    options = {"epochs": 6, "batch_size": 48, "precision": "fp32", "recipe": recipe}
    whole = go(One(network="resnet8"), digits, tmp_path / "whole", **options)
    run = captured(One(network="resnet8"), digits, tmp_path / "captured", **options)
    assert captured.said == []
    assert len(captured.recorded) >= 2
    assert [row["loss"] for row in run.metrics] == pytest.approx([row["loss"] for row in whole.metrics], rel=1e-3)
    assert [row["learning_rate"] for row in run.metrics] == [row["learning_rate"] for row in whole.metrics]
    for key, tensor in weights(run).items():
        torch.testing.assert_close(tensor, weights(whole)[key], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("toy", [Mutual, Average, Handed])
def test_toys_stage_contract_holds(toy, digits, tmp_path, captured):
    options = {"epochs": 2, "precision": "fp32"}
    whole = go(toy(network="resnet8"), digits, tmp_path / "whole", **options)
    run = captured(toy(network="resnet8"), digits, tmp_path / "captured", **options)
    assert captured.said == []
    for key, tensor in weights(run).items():
        torch.testing.assert_close(tensor, weights(whole)[key], rtol=1e-3, atol=1e-4)


def test_a_number_that_python_keeps_would_be_seen(digits, tmp_path, captured):
    """The stand-in is as blind as a graph: this step's weight grows in Python, and its recording does not follow."""

    class Growing(Vanilla):
        def stages(self, task):
            for stage in super().stages(task):
                module, count = stage.turns[0].module, iter(range(1, 100))
                plain = module.forward

                def forward(batch, plain=plain, count=count):
                    result = plain(batch)
                    terms = {name: term * next(count) for name, term in result.loss.terms.items()}
                    return replace(result, loss=replace(result.loss, terms=terms))

                module.forward = forward
                yield stage

    whole = go(Growing(network="resnet8"), digits, tmp_path / "whole", epochs=2)
    run = captured(Growing(network="resnet8"), digits, tmp_path / "captured", epochs=2)
    assert run.metrics[-1]["loss"] < 0.9 * whole.metrics[-1]["loss"]


def test_a_captured_run_resumes(digits, tmp_path, captured, monkeypatch):
    make, options = partial(One, network="resnet8"), {"epochs": 3, "batch_size": 40, "precision": "fp32"}
    whole = captured(make(), digits, tmp_path / "whole", **options)
    monkeypatch.setattr(resuming, "go", captured)
    cut = resuming.cut_and_resumed(make, digits, tmp_path / "cut", "train", 6, **options)
    assert [row["loss"] for row in cut.metrics] == pytest.approx([row["loss"] for row in whole.metrics], rel=1e-3)
    for key, tensor in weights(cut).items():
        torch.testing.assert_close(tensor, weights(whole)[key], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (lambda x: x.sum().item(), "waits for a value"),
        (lambda x: x.nonzero(), "waits for a value"),
        (lambda x: x[x > 0], "waits for a value"),
        (lambda x: x[:, [1, 0]], "becomes a tensor"),
        (lambda x: x * torch.tensor(2.0), "becomes a tensor"),
        (lambda x: x.index_put((x > 0,), torch.zeros(())), "waits for a value"),
    ],
)
def test_what_cannot_be_replayed_is_found(step, reason):
    with Watch(torch.device("cpu")) as watch:
        step(torch.arange(-2.0, 2.0).view(2, 2))
    assert reason in watch.reason


@pytest.mark.parametrize(
    "step",
    [
        lambda x: x[:, 0],
        lambda x: x[torch.arange(2)],
        lambda x: torch.where(x > 0, x, 0.0),
        lambda x: x.masked_fill(x > 0, 1),
    ],
)
def test_what_can_be_replayed_is_not(step):
    with Watch(torch.device("cpu")) as watch:
        step(torch.ones(2, 2))
    assert watch.reason is None


def test_another_device_is_found():
    with FakeTensorMode(), Watch(torch.device("cuda", 0)) as watch:
        torch.ones(2, device="cuda:0") + torch.ones(2, device="cuda:0")
        assert watch.reason is None
        torch.ones(2)
    assert "is on the device 'cpu'" in watch.reason


def test_what_fails_in_the_recording_goes_on_as_it_is():
    parameter = torch.nn.Parameter(torch.ones(2))
    optimiser = torch.optim.SGD([parameter], lr=0.5)
    steps, said = [], []

    def step(batch):
        with torch.utils._python_dispatch._disable_current_modes():  # a look that is not the step's
            steps.append(batch.labels[0].item())

    def record(step, batch):
        assert isinstance(optimiser.param_groups[0]["lr"], torch.Tensor)
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    recorder = Recorder(step, [optimiser], torch.device("cpu"), said.append, record)
    for number in range(5):
        recorder(Batch((torch.ones(2, 1),), torch.full((2,), number), torch.arange(2)))
    assert steps == [0, 1, 2, 3, 4]
    assert optimiser.param_groups[0]["lr"] == 0.5
    assert len(said) == 1
    assert "operation not permitted" in said[0]
    assert "\n" not in said[0]


def test_an_optimiser_of_another_kind_declines():
    said = []
    optimiser = torch.optim.RMSprop([torch.nn.Parameter(torch.ones(2))])
    assert Recorder(lambda batch: None, [optimiser], torch.device("cpu"), said.append).declined
    assert said == ["the step is not captured: its optimiser is none of SGD, Adam and AdamW"]


def test_it_is_refused_where_it_cannot_be(digits, tmp_path):
    with pytest.raises(UserError, match="capture is for one process on a CUDA device, and this is cpu; leave it out"):
        go(Vanilla(network="resnet8"), digits, tmp_path / "run", capture=True, device="cpu")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="leave compile out"):
        go(Vanilla(network="resnet8"), digits, tmp_path / "run", capture=True, compile=True)
