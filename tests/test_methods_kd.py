"""Knowledge distillation: its loss by hand, and that teachers are never touched."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import coterie
from coterie import UserError
from coterie.methods import Kd, Task, Vanilla
from coterie.methods.frozen_teacher import Teacher
from coterie.methods.kd import DistillationStep, kd_loss
from coterie.networks import build
from coterie.outputs import Batch
from resuming import go, resumes_exactly
from toys import same, weights


def softmax(values):
    raised = np.exp(values - values.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def drawn(batch=4, teachers=3, classes=5):
    generator = np.random.default_rng(0)
    student = generator.normal(size=(batch, classes)) * 3
    teacher = generator.normal(size=(batch, teachers, classes)) * 3
    return student, teacher, generator.integers(0, classes, batch)


@pytest.mark.parametrize("average", ["probabilities", "logits"])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_loss_is_hintons(average, temperature):
    student, teacher, labels = drawn()
    alpha = 0.7
    if average == "probabilities":
        soft = softmax(teacher / temperature).mean(1)
    else:
        soft = softmax(teacher.mean(1) / temperature)
    kl = (soft * np.log(soft / softmax(student / temperature))).sum(1).mean()  # of classes the sum, of images the mean
    ce = -np.log(softmax(student))[np.arange(4), labels].mean()  # at temperature 1
    found = kd_loss(
        torch.tensor(student), torch.tensor(teacher), torch.tensor(labels), temperature, 1 - alpha, alpha, average
    )
    assert found["cross_entropy"].item() == pytest.approx((1 - alpha) * ce, rel=1e-12)
    assert found["distillation"].item() == pytest.approx(alpha * temperature**2 * kl, rel=1e-12)
    assert found.total.item() == pytest.approx((1 - alpha) * ce + alpha * temperature**2 * kl, rel=1e-12)


def test_the_gradient_is_the_one_of_the_papers_and_reaches_the_student_alone():
    student, teacher, labels = drawn()
    logits, soft = torch.tensor(student, requires_grad=True), torch.tensor(teacher, requires_grad=True)
    kd_loss(logits, soft, torch.tensor(labels), 4.0, 0.1, 1.0, "logits").total.backward()
    onehot = np.eye(5)[labels]
    expected = 0.1 * (softmax(student) - onehot) + 4 * (softmax(student / 4) - softmax(teacher.mean(1) / 4))
    np.testing.assert_allclose(logits.grad.numpy(), expected / 4, atol=1e-12)
    assert soft.grad is None


def test_the_loss_equals_a_transcription_of_the_usual_code():
    student, teacher, labels = (torch.tensor(each) for each in drawn(teachers=1))
    usual = nn.KLDivLoss(reduction="batchmean")(
        torch.log_softmax(student / 4, 1), torch.softmax(teacher[:, 0] / 4, 1)
    ) * (0.9 * 4 * 4) + nn.functional.cross_entropy(student, labels) * (1 - 0.9)
    assert kd_loss(student, teacher, labels).total.item() == pytest.approx(usual.item(), rel=1e-12)


def test_without_labels_they_do_not_count():
    student, teacher, labels = (torch.tensor(each) for each in drawn())
    first = kd_loss(student, teacher, labels, 4.0, 0.0, 1.0)
    assert list(first.terms) == ["distillation"]
    assert torch.equal(first.total, kd_loss(student, teacher, labels.roll(1), 4.0, 0.0, 1.0).total)


def test_no_gradient_and_no_training_mode_reaches_the_teacher():
    student, own = build("resnet8", 5, 1), build("resnet8", 5, 1)
    before = {key: value.clone() for key, value in own.state_dict().items()}
    step = DistillationStep(student, Teacher([own]), 4.0, 0.1, 0.9).train()
    batch = Batch((torch.randn(4, 1, 8, 8),), torch.tensor([0, 1, 2, 3]), torch.arange(4))
    step(batch).loss.total.backward()
    assert all(parameter.grad is None for parameter in own.parameters())
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert all(torch.equal(before[key], value) for key, value in own.state_dict().items())
    assert {id(each) for each in step.parameters()} == {id(each) for each in student.parameters()}


@pytest.mark.parametrize(("stage", "step"), [("teacher2", 3), ("student", 7)])
def test_a_run_resumes_exactly_in_any_stage(stage, step, digits, tmp_path):
    assert resumes_exactly(lambda: Kd(network="resnet8", teachers=2), digits, tmp_path, stage, step)


def test_a_student_is_delivered_alone_and_its_teachers_are_said(digits, tmp_path, capsys):
    run = go(Kd(network="resnet8", teachers=2, teacher_network="resnet14"), digits, tmp_path / "run", progress=True)
    assert set(load_file(run.path / "model.safetensors")) == set(build("resnet8", 10, 1).state_dict())
    assert list(run.card["test"]) == ["target"]
    assert [row["stage"] for row in run.metrics] == ["teacher1"] * 2 + ["teacher2"] * 2 + ["student"] * 2
    last = [
        [row[f"test_error_teacher{i}"] for row in run.metrics if f"test_error_teacher{i}" in row][-1] for i in (1, 2)
    ]
    said = " ".join(capsys.readouterr().err.split())
    assert f"teachers: test error {last[0]:.2f} %, {last[1]:.2f} %, together" in said
    assert coterie.evaluate(run)["error"] == run.card["test"]["target"]["error"]


def test_without_soft_targets_it_is_the_network_alone(digits, alone, tmp_path):
    taught = go(Kd(network="resnet8", teacher=str(alone.path), alpha=0.0), digits, tmp_path / "kd")
    plain = go(Vanilla(network="resnet8"), digits, tmp_path / "alone")
    assert same(taught, plain)  # a named teacher changes neither the student's start nor the order of images


def test_distillation_brings_the_student_to_its_teacher(digits, tmp_path):
    teacher = go(Vanilla(network="resnet8"), digits, tmp_path / "teacher", epochs=8)
    options = {"epochs": 8, "seed": 1}
    taught = go(Kd(network="resnet8", teacher=str(teacher.path), alpha=1.0), digits, tmp_path / "kd", **options)
    plain = go(Vanilla(network="resnet8"), digits, tmp_path / "alone", **options)
    images = next(coterie.data.evaluation_batches(digits, digits.test)).images
    with torch.inference_mode():
        target = (teacher.model(images) / 4).softmax(1)
        gaps = [(target - (run.model(images) / 4).softmax(1)).abs().sum(1).mean().item() for run in (taught, plain)]
    assert gaps[0] < gaps[1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"alpha": 1.5}, "alpha is 1.5"),
        ({"teachers": 0}, "teachers is 0"),
        ({"teacher": ""}, "teacher names no teacher"),
        ({"teacher": "a,,b"}, "teacher names no teacher"),
        ({"teacher": "a", "teachers": 2}, "teachers"),
        ({"teacher": "a", "teacher_network": "resnet8"}, "teacher_network"),
    ],
)
def test_wrong_options_are_one_line(options, said):
    with pytest.raises(UserError, match=said) as caught:
        Kd(**options)
    assert "\n" not in str(caught.value)


def test_a_module_of_ones_own_needs_a_teacher_of_its_own(digits, alone, tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    with pytest.raises(UserError, match="give a factory"):
        go(Kd(network=model), digits, tmp_path / "a")
    run = go(Kd(network=model, teacher=[str(alone.path)]), digits, tmp_path / "b")
    assert torch.equal(weights(run)["target.0.weight"], model[0].weight)


def test_in_a_loop_of_ones_own(digits):
    stages = Kd(network="resnet8").stages(Task(10, 1, (8, 8)))
    for stage in stages:
        (turn,) = stage.turns
        optimiser = torch.optim.SGD(turn.parameters, lr=0.05)
        for batch in coterie.data.training_batches(digits, batch_size=40, seed=0, stage=0, epoch=0):
            turn.module.train()
            optimiser.zero_grad()
            turn.module(batch).loss.total.backward()
            optimiser.step()
    assert stage.name == "student"
    with pytest.raises(UserError, match="Task.open"):
        next(Kd(network="resnet8", teacher="x").stages(Task(10, 1, (8, 8))))
