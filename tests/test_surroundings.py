"""What a training leaves behind: PyTorch's switches, the environment, and a user's module where they were."""

import os

import pytest
import torch
from accelerate import PartialState
from torch import nn

import coterie
from coterie import UserError
from coterie.methods import Vanilla
from coterie.training import Interrupted
from coterie.training.distribution import make_accelerator
from coterie.training.options import TrainingOptions
from coterie.training.surroundings import keep_surroundings, set_switches
from resuming import resumes_exactly, stopping
from toys import go, plain


def switches():
    return (
        torch.get_num_threads(),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    )


@pytest.fixture
def others(monkeypatch):
    """Switches as nobody's default has them."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = torch.get_num_threads(), torch.backends.cudnn.benchmark
    torch.set_num_threads(2)
    torch.backends.cudnn.benchmark = True
    yield switches()
    torch.set_num_threads(before[0])
    torch.backends.cudnn.benchmark = before[1]


def test_a_training_leaves_the_switches_as_they_were(others, digits, tmp_path):
    seen = []

    class Looking(Vanilla):
        def stages(self, task):
            seen.append(switches())
            yield from super().stages(task)

    go(Looking(network="resnet8"), digits, tmp_path / "run", epochs=1, threads=1, deterministic=True)
    assert seen[0] == (1, True, False, True, False, ":4096:8")
    assert switches() == others
    stopped = stopping(Vanilla(network="resnet8"), "train", 2)
    with pytest.raises(Interrupted):
        go(stopped, digits, tmp_path / "cut", epochs=1, threads=1, deterministic=True)
    assert switches() == others


def test_what_the_user_allows_alone_stays_so(digits, tmp_path):
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        go(Vanilla(network="resnet8"), digits, tmp_path / "run", epochs=1)
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_deterministic_run_resumes_exactly_and_says_so(digits, tmp_path, capsys):
    options = {"epochs": 1, "deterministic": True}
    assert resumes_exactly(lambda: Vanilla(network="resnet8"), digits, tmp_path, "train", 2, **options)
    assert coterie.Run(tmp_path / "whole").config["deterministic"] is True
    go(Vanilla(network="resnet8"), digits, tmp_path / "whole", epochs=1, resume=True, progress=True)
    assert "deterministic is False, and the run had True: results may differ in their last" in capsys.readouterr().err


def test_a_run_of_before_the_switch_goes_on(digits, tmp_path, capsys):
    with pytest.raises(Interrupted):
        go(stopping(Vanilla(network="resnet8"), "train", 2), digits, tmp_path / "run", epochs=1)
    config = tmp_path / "run" / "config.yaml"
    text = config.read_text()
    assert "deterministic: false\n" in text
    config.write_text(text.replace("deterministic: false\n", ""))
    run = go(Vanilla(network="resnet8"), digits, tmp_path / "run", epochs=1, resume=True, progress=True)
    assert run.card["epoch"] == 1
    assert "last digits" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "adaptive_avg_pool2d_backward_cuda does not have a deterministic implementation, but you set ...",
            "deterministic: adaptive_avg_pool2d_backward_cuda computes in another order",
        ),
        ("... set an environment variable: CUBLAS_WORKSPACE_CONFIG=:4096:8 ...", "start it with CUBLAS_WORKSPACE"),
    ],
)
def test_a_kernel_that_is_not_deterministic_is_one_line(text, line):
    with pytest.raises(UserError, match=line), keep_surroundings(Vanilla(network="resnet8")):
        raise RuntimeError(text)
    with pytest.raises(RuntimeError, match="another"), keep_surroundings(Vanilla(network="resnet8")):
        raise RuntimeError("another")


def test_cublas_may_not_be_told_otherwise(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    with pytest.raises(UserError, match="CUBLAS_WORKSPACE_CONFIG is :0:0; unset it"):
        set_switches(None, True)
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_module_without_tensors_is_nobodys():
    with keep_surroundings(Vanilla(network=nn.Sequential(nn.Flatten()))):
        pass
    module = plain()
    with keep_surroundings(Vanilla(network=module)):
        module[0].weight.data += 1
    assert next(module.parameters()).device.type == "cpu"


@pytest.mark.parametrize(
    "variables", [{"LOCAL_RANK": "1"}, {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}], ids=["second", "first"]
)
def test_more_processes_than_cards_are_refused_in_each(variables, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for device in ("auto", "cuda"):
        with pytest.raises(
            UserError, match="2 processes share 1 CUDA device here; start 1 at most, or use device='cpu'"
        ):
            make_accelerator(TrainingOptions(device=device, timeout_minutes=1.0))


def test_opening_a_run_leaves_the_users_module_as_it_is(digits, tmp_path):
    """It may have been trained further since: what an earlier run delivered is another object."""
    model = plain()
    first = go(Vanilla(network=model), digits, tmp_path / "first", epochs=1)
    go(Vanilla(network=model), digits, tmp_path / "second", epochs=1)
    model.train()
    later = model[0].weight.detach().clone()
    earlier = first.model[0].weight
    assert not torch.equal(earlier, later)
    assert torch.equal(model[0].weight, later)
    assert model.training
    assert coterie.evaluate(first)["error"] == first.card["test"]["target"]["error"]
    assert torch.equal(model[0].weight, later)


def test_a_process_may_train_on_another_device_than_before(monkeypatch):
    """Accelerate keeps the first device of a process; here it is told that this was a CUDA device."""
    make_accelerator(TrainingOptions(device="cpu", timeout_minutes=1.0))
    monkeypatch.setattr(PartialState(), "device", torch.device("cuda"))
    assert make_accelerator(TrainingOptions(device="cpu", timeout_minutes=1.0)).device.type == "cpu"
