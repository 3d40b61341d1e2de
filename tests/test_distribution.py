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
from coterie.methods import One
from coterie.networks import Network
from coterie.training import checkpoint
from toys import comparable, go, plain, same, weights

TESTS = Path(__file__).parent


def in_two_processes(*arguments):
    """Run Python twice, as a launcher would; gives what both wrote."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    # The launchers' variables, without their processes: torchrun and accelerate set the same.
    processes = [
        subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    return said


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    place = tmp_path_factory.mktemp("two")
    in_two_processes(TESTS / "two_processes.py", place)
    return place


def run(path, network=None):
    return coterie.Run(path, network)


def test_two_processes_train_the_same_weights_as_one(trained, tmp_path):
    # No batch norm, whose statistics are each process's own; 165 images: the last batch is 3 and 2.
    digits = coterie.data.load("digits", train_samples=165, test_samples=101)
    alone = go(One(network=plain(), at="1", gate="uniform"), digits, tmp_path / "one", batch_size=40)
    both = run(trained / "plain", plain())
    ours, theirs = weights(alone), weights(both)
    assert ours.keys() == theirs.keys()
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key], atol=1e-5, rtol=0)
    for mine, other in zip(comparable(alone.metrics), comparable(both.metrics), strict=True):
        assert mine == {
            key: value if isinstance(value, str) else pytest.approx(value, abs=1e-4) for key, value in other.items()
        }
    assert alone.card["test"]["target"] == pytest.approx(both.card["test"]["target"], abs=1e-4)


@pytest.mark.parametrize(
    ("name", "where"), [("mutual", "epoch 2, step 5 of stage train"), ("average", "epoch 3, step 2 of stage train")]
)
def test_two_processes_stop_together_and_resume_exactly(name, where, trained):
    place = trained / name
    words = [(place / f"stopped{rank}").read_text() for rank in range(2)]
    assert words == [where, where]
    whole, cut = run(place / "whole"), run(place / "cut")
    assert same(whole, cut)
    assert comparable(whole.metrics) == comparable(cut.metrics)


def test_the_command_line_trains_one_in_two_processes(tmp_path):
    out = tmp_path / "run"
    options = ["--network", "resnet8", "--data", "digits", "--data.train_samples", "160", "--batch_size", "32"]
    first, second = in_two_processes("-m", "coterie.cli", "train", *options, "--epochs", "2", "--out", out)
    assert "done; next" in first
    assert "done; next" not in second
    done = run(out)
    assert [row["epoch"] for row in done.metrics] == [1, 2]
    # All 500 test images, each once: one process measures the delivered networks, and its errors are the same.
    measured = coterie.evaluate(done, student="ensemble")
    for name in done.card["peers"]:
        assert done.card["test"][name]["error"] == pytest.approx(measured[f"error_{name}"], abs=1e-9)
        assert done.metrics[-1][f"test_error_{name}"] == pytest.approx(measured[f"error_{name}"], abs=1e-9)
    assert done.card["test"]["ensemble"]["nll"] == pytest.approx(measured["nll"], rel=1e-5)


def test_two_processes_ask_a_teacher_once_and_write_its_answers_once(tmp_path):
    out = tmp_path / "run"
    options = ["--network", "resnet8", "--data", "digits", "--data.train_samples", "160", "--data.augment", "none"]
    in_two_processes("-m", "coterie.cli", "train", "--method", "kd", *options, "--epochs", "1", "--out", out)
    done = run(out)
    assert done.card["test"]["target"]["error"] == coterie.evaluate(done)["error"]
    (answers,) = (out / "checkpoints").glob("answers-*")
    with torch.inference_mode():
        teacher = Network.of("resnet8").build(10, 1, (8, 8)).eval()
        teacher.load_state_dict(checkpoint.load(out / "checkpoints" / "stage0.safetensors")["network"])
        data = done.data()
        expected = teacher(next(coterie.data.evaluation_batches(data, data.train)).images)
    torch.testing.assert_close(load_file(answers)["logits"][:, 0], expected, atol=1e-5, rtol=1e-5)
