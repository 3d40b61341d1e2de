"""Two processes on one machine train what one trains, write one Run, and resume exactly."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import coterie
from coterie.networks import Backbone
from coterie.outputs import PeerOutput
from coterie.training.folder import checkpoint
from coterie.training.stages import memory
from toys import comparable, plain, same, weights
from two_processes import CASES, NETWORKS, WRAPPERS, branched, gone_on, train_case

TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of two_processes.py's runs, and what each process said."""
    place = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    # The launchers' variables, without their processes: torchrun and accelerate set the same.
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(TESTS / "two_processes.py"), str(place)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=400)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    return place, said


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_the_same_weights_as_one(name, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "has_an_end", lambda device: True)
    place, _ = trained
    # 165 images: the last batch is 3 and 2.
    alone = train_case(name, tmp_path / "one")
    both = coterie.Run(place / name, NETWORKS.get(name, plain)())
    ours, theirs = weights(alone), weights(both)
    assert ours.keys() == theirs.keys()
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key], atol=1e-5, rtol=0)
    for mine, other in zip(comparable(alone.metrics), comparable(both.metrics), strict=True):
        assert mine == {
            key: value if isinstance(value, str) else pytest.approx(value, abs=1e-4) for key, value in other.items()
        }
    for student, figures in alone.card["test"].items():
        assert figures == pytest.approx(both.card["test"][student], abs=1e-4)


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("mutual", "epoch 2, step 5 of stage train"),
        ("average", "epoch 3, step 2 of stage train"),
        ("synced_average", "epoch 3, step 2 of stage train"),
    ],
)
def test_two_processes_stop_together_and_resume_exactly(name, where, trained):
    place = trained[0] / name
    words = [(place / f"stopped{rank}").read_text() for rank in range(2)]
    assert words == [where, where]
    whole, cut = coterie.Run(place / "whole"), coterie.Run(place / "cut")
    assert same(whole, cut)
    assert comparable(whole.metrics) == comparable(cut.metrics)


def test_batch_norm_of_all_processes_trains_other_weights_than_that_of_each(trained):
    each, every = (coterie.Run(trained[0] / name / "whole") for name in ("average", "synced_average"))
    assert not same(each, every)


def test_two_processes_go_on_from_a_run_as_one_does(trained, tmp_path):
    data = coterie.data.load("digits", train_samples=165, test_samples=101)
    alone, first, second = (
        gone_on(data, tmp_path),
        *(coterie.Run(trained[0] / "gone_on" / name, plain()) for name in ("first", "second")),
    )
    for key, tensor in weights(alone).items():
        torch.testing.assert_close(tensor, weights(second)[key], atol=1e-5, rtol=0)
    assert not same(first, second)
    assert second.card["seconds"] > first.card["seconds"]


def test_what_is_frozen_stays_in_two_processes(trained):
    start = plain().state_dict()
    found = load_file(trained[0] / "frozen" / "model.safetensors")
    assert torch.equal(found["0.weight"], start["0.weight"])
    assert not torch.equal(found["4.weight"], start["4.weight"])


def test_moving_averages_are_the_same_in_both_processes(trained):
    place, _ = trained
    first, second = (torch.load(place / f"average{rank}.pt", weights_only=True) for rank in range(2))
    delivered = load_file(place / "pcl" / "students" / "average.safetensors")
    assert first.keys() == second.keys() == delivered.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
        assert torch.equal(tensor, delivered[name]), name


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_torchs_own_wrapper_has_the_gradients_of_the_whole_batch_in_each_process(wrapper, trained):
    """With a static graph it adds them up only if it finds the tensors in what the network returns."""
    net, images, labels = branched()
    coterie.losses.one(net(images), labels).total.backward()
    expected = [parameter.grad for parameter in net.parameters()]
    for rank in range(2):
        got = torch.load(trained[0] / f"gradients-{wrapper}{rank}.pt", weights_only=True)
        torch.testing.assert_close(got, expected)


@pytest.mark.libraries
def test_the_command_line_trains_one_in_two_processes(trained):
    place, (first, second) = trained
    assert "done; next" in first
    assert "done; next" not in second
    done = coterie.Run(place / "shell")
    assert [row["epoch"] for row in done.metrics] == [1, 2]
    # All 500 test images, each once: one process measures the delivered networks, and its errors are the same.
    measured = coterie.evaluate(done, student="ensemble")
    for name in done.card["peers"]:
        assert done.card["test"][name]["error"] == pytest.approx(measured[f"error_{name}"], abs=1e-9)
        assert done.metrics[-1][f"test_error_{name}"] == pytest.approx(measured[f"error_{name}"], abs=1e-9)
    assert done.card["test"]["ensemble"]["nll"] == pytest.approx(measured["nll"], rel=1e-5)


def test_detached_outputs_say_the_same_without_gradients():
    values = torch.randn(4, 2, 3, requires_grad=True)
    output = PeerOutput(values * 2, features=(values[:, 0] * 2,), ensemble=values.sum(1))
    cut = output.detach()
    assert torch.equal(cut.logits, output.logits)
    assert torch.equal(cut.features[0], output.features[0])
    assert cut.weights is None
    assert not any(tensor.requires_grad for tensor in (cut.logits, cut.ensemble, *cut.features))


def test_two_processes_ask_a_teacher_once_and_write_its_answers_once(trained):
    out = trained[0] / "taught"
    done = coterie.Run(out)
    assert done.card["test"]["target"]["error"] == coterie.evaluate(done)["error"]
    (answers,) = (out / "checkpoints").glob("answers-*")
    with torch.inference_mode():
        teacher = Backbone.of("resnet8").build(10, 1, (8, 8)).eval()
        teacher.load_state_dict(checkpoint.load(out / "checkpoints" / "stage0.safetensors")["network"])
        data = done.data()
        expected = teacher(next(coterie.data.evaluation_batches(data, data.train, batch_size=256)).images)
    torch.testing.assert_close(load_file(answers)["logits"][:, 0], expected, atol=1e-5, rtol=1e-5)
