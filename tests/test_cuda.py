"""On a CUDA device (``make test-gpu``): every method resumes in every stage, and what a training leaves where.

Floating-point sums on CUDA are taken in another order from run to run: a resumed run equals one that was never stopped
to a tolerance, and to the last bit with ``deterministic=True``.
"""

import copy

import pytest
import torch
from torch import nn

import coterie
from coterie import UserError
from coterie.data import training_batches
from coterie.methods import METHODS, Kd, One, Vanilla
from coterie.recipes import Recipe
from coterie.training import Interrupted
from coterie.training.stages.feeding import near
from coterie.training.together import Together
from resuming import cut_and_resumed, stopping
from toys import Average, Handed, Mutual, comparable, go, looking_at, plain, same

pytestmark = pytest.mark.gpu

# What would only repeat itself is left out.
FEWER = {"ensemble": {"members": 2}, "self-distillation": {"generations": 2}}
LOSS = 1e-3  # relative


def making(name):
    return lambda: METHODS[name](network="resnet8", **FEWER.get(name, {}))


def losses(run):
    return [(row["stage"], row["epoch"], pytest.approx(row["loss"], rel=LOSS)) for row in run.metrics]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_resumes_in_every_stage(name, digits, tmp_path):
    make, options = making(name), {"epochs": 1, "batch_size": 40}
    whole = go(make(), digits, tmp_path / "whole", **options)
    for stage in make().stage_names():
        cut = cut_and_resumed(make, digits, tmp_path / stage, stage, 2, **options)
        assert [(row["stage"], row["epoch"], row["loss"]) for row in cut.metrics] == losses(whole), stage
        assert cut.card["deliverables"] == whole.card["deliverables"]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_resumes_exactly_if_it_is_deterministic(name, digits, tmp_path):
    make, options = making(name), {"epochs": 1, "batch_size": 40, "deterministic": True}
    whole = go(make(), digits, tmp_path / "whole", **options)
    cut = cut_and_resumed(make, digits, tmp_path / "cut", make().stage_names()[-1], 2, **options)
    assert same(whole, cut)
    assert comparable(cut.metrics) == comparable(whole.metrics)
    assert cut.card["test"] == whole.card["test"]


@pytest.mark.parametrize("toy", [Mutual, Average, Handed])
def test_toys_resume_exactly_if_they_are_deterministic(toy, digits, tmp_path):
    options = {"epochs": 2, "deterministic": True}
    whole = go(toy(network="resnet8"), digits, tmp_path / "whole", **options)
    stage = toy(network="resnet8").stage_names()[-1]
    cut = cut_and_resumed(lambda: toy(network="resnet8"), digits, tmp_path / "cut", stage, 7, **options)
    assert same(whole, cut)
    assert comparable(cut.metrics) == comparable(whole.metrics)


@pytest.mark.parametrize("name", METHODS)
def test_every_captured_method_trains_as_it_does_uncaptured(name, digits, tmp_path, capsys):
    options = {"epochs": 3, "batch_size": 40, "precision": "fp32"}
    whole = go(making(name)(), digits, tmp_path / "whole", **options)
    run = go(making(name)(), digits, tmp_path / "captured", capture=True, progress=True, **options)
    assert ("not captured" in capsys.readouterr().err) == (name in ("meal", "compact"))
    assert [(row["stage"], row["epoch"], row["loss"]) for row in run.metrics] == [
        (row["stage"], row["epoch"], pytest.approx(row["loss"], rel=1e-2)) for row in whole.metrics
    ]


def test_a_captured_run_resumes(digits, tmp_path):
    make, options = making("one"), {"epochs": 4, "batch_size": 40, "precision": "fp32", "capture": True}
    whole = go(make(), digits, tmp_path / "whole", **options)
    cut = cut_and_resumed(make, digits, tmp_path / "cut", "train", 6, **options)
    assert [row["loss"] for row in cut.metrics] == [pytest.approx(row["loss"], rel=1e-2) for row in whole.metrics]


def test_trainings_that_take_turns_are_each_as_alone(digits, tmp_path):
    options = {"epochs": 4, "batch_size": 40, "precision": "fp32", "capture": True}
    with Together() as together:
        futures = [together.submit(go, making("one")(), digits, tmp_path / str(n), seed=n, **options) for n in range(6)]
    for seed, future in enumerate(futures):
        alone = go(making("one")(), digits, tmp_path / f"{seed}-alone", seed=seed, **options)
        assert [row["loss"] for row in future.result().metrics] == [
            pytest.approx(row["loss"], rel=1e-2) for row in alone.metrics
        ]


@pytest.mark.parametrize("augment", ["crop-flip", "none"])
def test_batches_that_the_device_makes_are_those_of_the_processor(augment):
    digits = coterie.data.load("digits", train_samples=160, channels=3, image_size=32, augment=augment)
    device = torch.device("cuda", 0)
    recipe = Recipe(cutmix=1.0, mixup=0.2, label_smoothing=0.1, policy="trivial-augment", jitter=0.4, erasing=0.5)
    options = {"batch_size": 64, "seed": 0, "stage": 0, "views": 2}
    options |= {"mixing": recipe.mixing, "variation": recipe.variation}
    for epoch in range(4):
        there = training_batches(near(digits, device), epoch=epoch, device=device, **options)
        for theirs, ours in zip(there, training_batches(digits, epoch=epoch, **options), strict=True):
            assert torch.equal(theirs.indices.cpu(), ours.indices)
            torch.testing.assert_close(theirs.labels.cpu(), ours.labels)
            for one, other in zip(theirs.views, ours.views, strict=True):
                # Rounded to 8 bits on the way, where another order of the same product may fall on the other side.
                assert ((one.cpu() - other).abs() > 0.02).float().mean() < 1e-3


@pytest.mark.parametrize("home", ["cpu", "cuda"])
def test_a_module_of_ones_own_comes_back_to_where_it_was(home, digits, tmp_path):
    model = plain().to(home)
    before = copy.deepcopy(model).cpu()
    for device in ("cuda", "cpu"):
        run = go(
            One(network=model, at="1", gate="uniform"), digits, tmp_path / f"run-{device}", epochs=1, device=device
        )
        assert {tensor.device.type for tensor in model.parameters()} == {home}
        assert not torch.equal(before[0].weight, model[0].weight.cpu())
        assert coterie.evaluate(run)["nll"] == pytest.approx(run.card["test"]["target"]["nll"], rel=1e-2)
        assert {tensor.device.type for tensor in model.parameters()} == {home}
    with pytest.raises(Interrupted):
        go(stopping(Vanilla(network=model), "train", 2), digits, tmp_path / "cut", epochs=1)
    assert {tensor.device.type for tensor in model.parameters()} == {home}
    with pytest.raises(UserError):
        go(Vanilla(network=model), digits, tmp_path / "cut", epochs=1)  # the folder exists
    assert {tensor.device.type for tensor in model.parameters()} == {home}


def test_a_teacher_and_what_it_remembers_move_to_the_device(digits, tmp_path):
    teacher = go(Vanilla(network="resnet8"), digits, tmp_path / "teacher", epochs=1)
    still = coterie.data.load("digits", train_samples=160, test_samples=100, augment="none")
    for number, data in enumerate((digits, still)):
        method = Kd(network="resnet8", teacher=[str(teacher.path)])
        run = go(method, data, tmp_path / f"student{number}", epochs=1)
        assert run.metrics[0]["loss"] > 0


def test_a_run_from_the_card_says_the_same_on_the_cpu(digits, tmp_path):
    run = go(Vanilla(network="resnet8"), digits, tmp_path / "run", epochs=2)
    assert {tensor.device.type for tensor in run.model.parameters()} == {"cpu"}
    assert coterie.evaluate(run)["nll"] == pytest.approx(run.card["test"]["target"]["nll"], rel=1e-2)
    here = go(Vanilla(network="resnet8"), digits, tmp_path / "cpu", epochs=2, device="cpu")
    assert here.metrics[0]["loss"] == pytest.approx(run.metrics[0]["loss"], rel=0.05)


def test_a_kernel_that_is_not_deterministic_is_refused_in_one_line(digits, tmp_path):
    class Shrinking(nn.Module):
        """Its pool is to another size than one: PyTorch has no deterministic backward of it on CUDA."""

        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, 10))

        def forward(self, images):
            return self.net(images)

    with pytest.raises(UserError, match="deterministic: adaptive_avg_pool2d_backward_cuda") as caught:
        go(Vanilla(network=Shrinking()), digits, tmp_path / "run", epochs=1, deterministic=True)
    assert "\n" not in str(caught.value)
    assert not torch.are_deterministic_algorithms_enabled()


def test_both_doors_of_a_stage_are_on_the_device(digits, tmp_path):
    """What a later stage is handed is where it trains, whether the earlier one was trained here or loaded."""
    seen = []
    looking = looking_at(seen, lambda tensor: tensor.device.type)
    cut_and_resumed(looking, digits, tmp_path / "run", "student", 2, epochs=1)
    assert [set(places) for places in seen] == [{"cuda"}] * 3  # the teacher's stage twice, the student's once
