"""MEAL: its losses by hand, who learns from whom in each mode, and that a killed run resumes."""

import csv
import math
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

import coterie
from coterie import UserError
from coterie.cli import main
from coterie.cli.arguments import expanded
from coterie.cli.train import train_parser
from coterie.methods import Meal, Task
from coterie.methods.meal.adversarial import DiscriminatorStep, ImitationStep, similarity_loss
from coterie.methods.meal.discriminators import deception_loss, discriminator_loss
from coterie.networks import build
from coterie.outputs import Batch
from coterie.recipes import Recipe
from coterie.training.folder.checkpoint import load
from coterie.training.modules import only
from resuming import go, resumes_exactly

MODES = ("joint", "grl", "alternating", "none")
TASK = Task(10, 1, (8, 8))


def softmax(values):
    raised = np.exp(values - values.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


@pytest.mark.parametrize("teachers", [1, 3])
@pytest.mark.parametrize("kind", ["ce", "l1", "l2", "l1_soft", "l2_soft"])
def test_similarity_by_hand_and_no_gradient_for_the_teacher(kind, teachers):
    generator = np.random.default_rng(0)
    s, t = generator.normal(size=(4, 6)) * 3, generator.normal(size=(4, teachers, 6)) * 3
    soft, hard = softmax(t).mean(1), t.mean(1)
    expected = {
        "ce": -(soft * np.log(softmax(s))).sum(1).mean(),
        "l1": np.abs(s - hard).mean(),
        "l2": ((s - hard) ** 2).mean(),
        "l1_soft": np.abs(softmax(s) - soft).mean(),
        "l2_soft": ((softmax(s) - soft) ** 2).mean(),
    }[kind]
    student, taught = torch.tensor(s, requires_grad=True), torch.tensor(t, requires_grad=True)
    found = similarity_loss(student, taught, kind)
    assert found.item() == pytest.approx(expected, rel=1e-12)
    found.backward()
    assert taught.grad is None
    if kind == "ce":
        np.testing.assert_allclose(student.grad.numpy(), (softmax(s) - soft) / 4, atol=1e-12)


def last_stage(**options):
    """The student's stage of a MEAL whose two teachers are what they start as, in float64."""
    torch.manual_seed(0)
    *_, stage = Meal(network="resnet8", teachers=2, **options).stages(TASK)
    for turn in stage.turns:
        turn.module.double().train()
    return stage


def imitating(stage):
    step = stage.turns[-1].module
    assert isinstance(step, ImitationStep)
    return step


def some(count=6):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 1, 8, 8, generator=generator, dtype=torch.float64)
    return Batch((images,), torch.arange(count) % 10, torch.arange(count))


def gradients(turn, batch):
    """The loss terms of a turn as the runner runs it, and the gradients by who they belong to."""
    step = turn.module.step if isinstance(turn.module, DiscriminatorStep) else turn.module
    parts = {"student": step.pair.student, "discriminators": step.discriminators}
    torch.manual_seed(1)
    with only(turn.module, turn.trainable()):
        loss = turn.module(batch).loss
        loss.total.backward()
    found = {}
    for name, part in parts.items():
        gradient = [p.grad.flatten().clone() for p in part.parameters() if p.grad is not None]
        found[name] = torch.cat(gradient) if gradient else None
        part.zero_grad()
    return loss, found


def expected(stage, batch, of):
    """The gradient, by part, of a rule on (discriminator, student's logits, teacher's logits)."""
    step = imitating(stage)
    torch.manual_seed(1)
    (taught,), (student,) = step.pair.teacher_vectors(batch), step.pair.student_vectors(batch)
    of(step.discriminators[0] if len(step.discriminators) else None, student, taught).backward()
    parts = {"student": step.pair.student, "discriminators": step.discriminators}
    found = {}
    for name, part in parts.items():
        gradient = [p.grad.flatten().clone() for p in part.parameters() if p.grad is not None]
        found[name] = torch.cat(gradient) if gradient else None
        part.zero_grad()
    return found


def close(first, second):
    return torch.allclose(first, second, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("beta", [1.0, 0.3])
@pytest.mark.parametrize(("mode", "sign"), [("joint", 1), ("grl", -1)])
def test_joint_teaches_the_student_to_differ_and_reversal_the_opposite(mode, sign, beta):
    stage, batch = last_stage(adversarial=mode, adversarial_weight=beta), some()
    (turn,) = stage.turns
    loss, found = gradients(turn, batch)
    apart = expected(stage, batch, lambda d, s, t: discriminator_loss(d, s, t[:, 0]))
    alike = expected(stage, batch, lambda d, s, t: similarity_loss(s, t))
    assert close(found["student"], alike["student"] + sign * beta * apart["student"])
    assert close(found["discriminators"], apart["discriminators"])  # it learns the same whatever β and the sign
    assert set(loss.terms) == {"similarity", "discriminator"}
    assert apart["student"].abs().max() > 0


def test_in_turn_each_step_reaches_its_own_side_and_both_see_the_same_teacher():
    stage, batch = last_stage(adversarial="alternating", adversarial_weight=0.3), some()
    first, second = stage.turns
    student = imitating(stage).pair.student
    before = {name: value.clone() for name, value in student.state_dict().items()}
    for seed in range(6):
        torch.manual_seed(seed)
        with only(first.module, first.parameters):
            first.module(batch)
        held = imitating(stage).taught[0]  # of a batch in one part
        torch.manual_seed(seed)
        assert torch.equal(held[0], imitating(stage).pair.teacher_vectors(batch)[0])
        (drawn,) = held
        assert drawn.shape == (6, 1, 10)
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())

    loss, found = gradients(first, batch)
    assert set(loss.terms) == {"discriminator"}
    assert found["student"] is None
    apart = expected(stage, batch, lambda d, s, t: discriminator_loss(d, s.detach(), t[:, 0]))
    assert close(found["discriminators"], apart["discriminators"])

    (held,) = imitating(stage).taught[0]
    loss, found = gradients(second, batch)
    assert imitating(stage).taught == {}
    assert set(loss.terms) == {"similarity", "adversarial"}
    assert found["discriminators"] is None
    alike = expected(stage, batch, lambda d, s, t: similarity_loss(s, held) + 0.3 * deception_loss(d, s))
    assert close(found["student"], alike["student"])


def test_labels_are_used_only_where_asked_for():
    batch = some()
    other = Batch(batch.views, batch.labels.roll(1), batch.indices)
    for weight, same_loss in ((0.0, True), (0.5, False)):
        stage = last_stage(adversarial="none", label_weight=weight)
        losses = [gradients(stage.turns[0], each)[0] for each in (batch, other)]
        assert torch.equal(losses[0].total, losses[1].total) is same_loss
    with torch.no_grad():
        logits = imitating(stage).pair.student(batch.images).numpy()
    by_hand = -np.log(softmax(logits))[np.arange(6), batch.labels].mean()
    assert losses[0]["cross_entropy"].item() == pytest.approx(0.5 * by_hand, rel=1e-9)


def test_the_mean_of_teachers_is_that_of_probabilities_and_for_discriminators_of_logits():
    stage, batch = last_stage(teacher_choice="mean"), some()
    loss, _ = gradients(stage.turns[0], batch)
    step = imitating(stage)
    taught = step.pair.teacher(batch.images)
    logits = step.pair.student(batch.images)
    assert taught.shape == (6, 2, 10)
    by_hand = -(softmax(taught.numpy()).mean(1) * np.log(softmax(logits.detach().numpy()))).sum(1).mean()
    assert loss["similarity"].item() == pytest.approx(by_hand, rel=1e-9)
    told = discriminator_loss(step.discriminators[0], logits, taught.mean(1))
    assert loss["discriminator"].item() == pytest.approx(told.item(), rel=1e-9)


def test_blocks_count_by_their_weights_and_have_a_discriminator_each():
    stage = last_stage(blocks=("layer1", "layer3"), teacher_network="resnet14")
    step = imitating(stage)
    assert [each.layers[0].in_features for each in step.discriminators] == [64, 4, 10]  # places of the student's maps
    loss, _ = gradients(stage.turns[0], some())
    torch.manual_seed(1)
    taught = step.pair.teacher_vectors(some())
    each = [similarity_loss(s, t) for s, t in zip(step.pair.student_vectors(some()), taught, strict=True)]
    total = sum(weight * value for weight, value in zip((0.05, 0.1, 1.0), each, strict=True))
    assert loss["similarity"].item() == pytest.approx(total.item(), rel=1e-9)
    told = [
        discriminator_loss(d, s, t[:, 0])
        for d, s, t in zip(step.discriminators, step.pair.student_vectors(some()), taught, strict=True)
    ]
    assert loss["discriminator"].item() == pytest.approx(sum(told).item(), rel=1e-9)


@pytest.mark.parametrize("mode", MODES)
def test_teachers_stay_in_evaluation_mode_and_as_they_were(mode):
    stage, batch = last_stage(adversarial=mode), some()
    step = imitating(stage)
    before = [{k: v.clone() for k, v in each.state_dict().items()} for each in step.pair.teacher.members]
    for turn in stage.turns:
        turn.module.train()
        gradients(turn, batch)
    assert step.pair.student.training
    for member, state in zip(step.pair.teacher.members, before, strict=True):
        assert not any(module.training for module in member.modules())
        assert all(p.grad is None and not p.requires_grad for p in member.parameters())
        assert all(torch.equal(state[name], value) for name, value in member.state_dict().items())


def test_discriminators_learn_at_their_own_rate_on_the_recipes_schedule():
    for mode in ("joint", "alternating"):
        stage = last_stage(adversarial=mode, discriminator_rate=0.02)
        rates = {}
        for turn in stage.turns:
            optimiser = Recipe(learning_rate=0.1).make_optimiser(turn.parameters)
            schedule = Recipe(schedule="step").make_schedule(optimiser, 4)
            for _ in range(2):
                optimiser.step()
                schedule.step()
            rates |= {id(p): group["lr"] for group in optimiser.param_groups for p in group["params"]}
        step = imitating(stage)
        for part, rate in ((step.pair.student, 0.01), (step.discriminators, 0.002)):
            assert [rates[id(p)] for p in part.parameters()] == pytest.approx([rate] * len(list(part.parameters())))


@pytest.mark.parametrize("mode", MODES)
def test_a_killed_run_resumes_to_the_same_weights(mode, digits, teachers, tmp_path):
    def make():
        return Meal(network="resnet8", teacher=teachers, adversarial=mode)

    assert resumes_exactly(make, digits, tmp_path, "student", 7)
    whole, cut = (load(tmp_path / name / "checkpoints" / "last.safetensors")["modules"] for name in ("whole", "cut"))
    ours, theirs = ({f"{part}.{n}": v for part in run for n, v in run[part].items()} for run in (whole, cut))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())  # the discriminators' too
    assert any("discriminators.0.layers.0.weight" in name for name in ours) == (mode != "none")
    assert not any("members" in name for name in ours)
    rates = [row["learning_rate"] for row in coterie.Run(tmp_path / "whole").metrics]
    assert rates[0] > 0.01  # the student's, not the discriminators'


@pytest.fixture(scope="module")
def teachers(digits, tmp_path_factory):
    """Two trained networks, as a user names them."""
    out = tmp_path_factory.mktemp("teachers") / "ensemble"
    go(coterie.methods.Ensemble(network="resnet8", members=2), digits, out)
    return [f"{out}:member1", f"{out}:member2"]


def test_a_run_of_before_the_widths_were_an_option_goes_on_with_them(digits, teachers, tmp_path):
    """0.1.0 wrote no divisor: its discriminators halved, as they do where nothing is said."""
    method = Meal(network="resnet8", teacher=teachers)
    run = go(method, digits, tmp_path / "run", epochs=1, batch_size=32)
    config = run.path / "config.yaml"
    text = config.read_text()
    assert "  discriminator_divisor: 2\n" in text
    config.write_text(text.replace("  discriminator_divisor: 2\n", ""))
    (run.path / "model.json").unlink()  # as if it had been stopped before the end
    other = Meal(network="resnet8", teacher=teachers, discriminator_divisor=8)
    with pytest.raises(UserError, match="discriminator_divisor is 8, and the run in .* has 2; give 2"):
        go(other, digits, run.path, resume=True, epochs=1, batch_size=32)
    assert go(method, digits, run.path, resume=True, epochs=1, batch_size=32).card["epoch"] == 1


def test_the_command_line_trains_evaluates_exports_and_reports(tmp_path, capsys):
    run = tmp_path / "run"
    line = "train --method meal --network resnet8 --data digits --data.train_samples 160 --data.test_samples 100"
    line += f" --epochs 1 --method.teachers 2 --method.blocks [layer2] --out {run}"
    main(line.split())
    with open(run / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["stage"] for row in rows] == ["teacher1", "teacher2", "student"]
    assert float(rows[-1]["loss_discriminator"]) == pytest.approx(2 * math.log(2), abs=0.3)
    main(["evaluate", str(run)])
    main(["export", str(run), "--out", str(tmp_path / "net.safetensors")])
    main(["report", str(run), "--out", str(tmp_path / "page.html")])
    assert "meal" in (tmp_path / "page.html").read_text()
    assert set(coterie.Run(run).model.state_dict()) == set(build("resnet8", 10, 1).state_dict())
    capsys.readouterr()


def test_the_documents_commands_are_understood():
    text = (Path(__file__).parents[1] / "docs" / "guides" / "noisy-labels.md").read_text(encoding="utf-8")
    commands = [expanded(shlex.split(line)) for line in re.findall(r"^coterie train (.*)$", text, re.MULTILINE)]
    parsed = [train_parser(command).parse_args(command) for command in commands]
    assert [each.method.name for each in parsed] == ["vanilla", "kd", "kd", "meal", "meal"]
    assert {each.data.noise for each in parsed} == {0.4}
    assert all(each.method.alpha == each.method.temperature == 1 for each in parsed[1:3])


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"adversarial": "gan"}, "adversarial 'gan'; known: alternating, grl, joint, none"),
        ({"similarity": "kl"}, "similarity"),
        ({"adversarial_weight": -1.0}, "adversarial_weight is -1.0; use 0 or more"),
        ({"blocks": ("a", "b"), "lengths": (3,)}, "lengths has 1 values, and 2 blocks want 2"),
        ({"blocks": ("a",), "block_weights": (1.0,)}, "block_weights has 1 values, and 1 blocks want 2"),
        ({"blocks": tuple("abcde")}, "block_weights has no default for 5 blocks; give 6 values"),
        ({"blocks": ("a",), "lengths": (0,)}, "lengths, item 1 is 0; use 1 or more"),
        ({"teachers": 2, "teacher": "runs/one"}, "leave out teachers"),
    ],
)
def test_options_that_cannot_be_are_refused(options, complaint):
    with pytest.raises(UserError, match=complaint):
        Meal(**options)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"blocks": ("layer7",)}, "blocks 'layer7'"),
        ({"blocks": ("layer1",), "teacher_blocks": ("layer7",)}, "teacher_blocks 'layer7'"),
    ],
)
def test_blocks_that_are_not_there_are_told_before_any_stage(options, complaint):
    with pytest.raises(UserError, match=complaint):
        next(Meal(network="resnet8", **options).stages(TASK))
