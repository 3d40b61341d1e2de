"""The stage contract on three toys, and what a run promises: repeatable, resumable, nothing lost."""

import copy
import os
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import coterie
from coterie import UserError
from coterie.data import Resident
from coterie.files import replacing
from coterie.losses import cross_entropy, kl_divergence
from coterie.methods import Method, One, Spec, Stage, Turn, Vanilla
from coterie.outputs import LossTerms, PeerOutput, StepResult
from coterie.training import Interrupted, Recipe, checkpoint
from coterie.training.precision import resolve_precision
from coterie.training.recipes import OfficialCode, Paper


class Loss(nn.Module):
    """Networks and a rule that makes a batch's result of them."""

    def __init__(self, rule: Callable, **networks: nn.Module) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(networks)
        self.rule = rule

    def forward(self, batch):
        terms, logits = self.rule(self.networks, batch)
        return StepResult(LossTerms(terms), PeerOutput(torch.stack(logits, 1)))


class Peers(nn.Module):
    def __init__(self, *networks):
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, images):
        return PeerOutput(torch.stack([network(images) for network in self.networks], 1))


def interrupting(after: int | None):
    """An ``after_step`` that asks the process to stop, once, as a user's SIGTERM would."""
    count = 0

    def hook(done):
        nonlocal count
        count += 1
        if count == after:
            os.kill(os.getpid(), signal.SIGTERM)

    return hook


@dataclass(kw_only=True)
class Toy(Method):
    stop: int | None = None

    def nets(self, spec):
        return self.build(spec), self.build(spec)


@dataclass(kw_only=True)
class Mutual(Toy):
    """Two turns, two optimisers: each peer learns from what the other says now."""

    name = "mutual"
    summary = "toy"

    def stages(self, spec: Spec) -> Iterator[Stage]:
        nets = self.nets(spec)

        def rule(own):
            def apply(networks, batch):
                logits = [networks["a"](batch.views[0]), networks["b"](batch.views[1])]
                other = logits[1 - own].detach()
                terms = {"ce": cross_entropy(logits[own], batch.labels), "kl": kl_divergence(logits[own], other)}
                return terms, logits

            return apply

        turns = [Turn(Loss(rule(i), a=nets[0], b=nets[1]), tuple(nets[i].parameters())) for i in (0, 1)]
        turns[1] = replace(turns[1], optimiser=lambda parameters: torch.optim.AdamW(parameters, lr=1e-3))
        yield Stage(
            "train",
            turns,
            network=Peers(*nets),
            peers=("target", "peer1"),
            deliver={"target": nets[0], "peer1": nets[1]},
            views=2,
            after_step=interrupting(self.stop),
        )


@dataclass(kw_only=True)
class Average(Toy):
    """A moving average of the student teaches it."""

    name = "average"
    summary = "toy"

    def stages(self, spec: Spec) -> Iterator[Stage]:
        student = self.build(spec)
        teacher = copy.deepcopy(student).requires_grad_(False)

        def rule(networks, batch):
            logits = networks["student"](batch.images)
            with torch.no_grad():
                soft = teacher(batch.images)
            return {"ce": cross_entropy(logits, batch.labels), "kl": kl_divergence(logits, soft)}, [logits]

        stop = interrupting(self.stop)

        @torch.no_grad()
        def follow(done):
            for old, new in zip(teacher.parameters(), student.parameters(), strict=True):
                old.lerp_(new, 0.1)
            stop(done)

        turn = Turn(Loss(rule, student=student), tuple(student.parameters()))
        deliver = {"target": student, "average": teacher}
        yield Stage("train", [turn], network=student, deliver=deliver, after_step=follow, state={"teacher": teacher})


@dataclass(kw_only=True)
class Handed(Toy):
    """The second stage's student learns from what the first stage trained, and halves its rate on its own schedule."""

    name = "handed"
    summary = "toy"

    def stage_names(self):
        return ("teacher", "student")

    def stages(self, spec: Spec) -> Iterator[Stage]:
        teacher, student = self.nets(spec)
        finished = []

        def alone(networks, batch):
            logits = networks["net"](batch.images)
            return {"ce": cross_entropy(logits, batch.labels)}, [logits]

        yield Stage(
            "teacher",
            [Turn(Loss(alone, net=teacher), tuple(teacher.parameters()))],
            network=teacher,
            finish=lambda: finished.append(teacher.fc.weight.detach().clone()),
        )
        assert torch.equal(finished[0], teacher.fc.weight)  # trained or restored, the second stage reads the first
        teacher.eval().requires_grad_(False)

        def taught(networks, batch):
            logits = networks["net"](batch.images)
            with torch.no_grad():
                soft = teacher(batch.images)
            return {"kl": kl_divergence(logits, soft)}, [logits]

        yield Stage(
            "student",
            [Turn(Loss(taught, net=student), tuple(student.parameters()))],
            network=student,
            deliver={"target": student, "teacher": teacher},
            epochs=2,
            schedule=lambda optimiser, steps: torch.optim.lr_scheduler.StepLR(optimiser, max(1, steps // 2), 0.5),
            after_step=interrupting(self.stop),
        )


def weights(run):
    found = {}
    for name in run.card["deliverables"]:
        for key, tensor in load_file(run.weights_path(name)).items():
            found[f"{name}.{key}"] = tensor
    return found


def same(first, second):
    ours, theirs = weights(first), weights(second)
    assert ours.keys() == theirs.keys()
    return all(torch.equal(ours[key], theirs[key]) for key in ours)


def go(method, data, out, **options):
    options = {"epochs": 3, "batch_size": 32, "progress": False, "tensorboard": False} | options
    return coterie.train(method, data, out=out, **options)


def comparable(rows):
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows]


@pytest.mark.parametrize("toy", [Mutual, Average, Handed])
@pytest.mark.parametrize("step", [2, 7, 10])
def test_toys_resume_exactly_from_any_step(toy, step, digits, tmp_path):
    whole = go(toy(network="resnet8"), digits, tmp_path / "whole")
    with pytest.raises(Interrupted):
        go(toy(network="resnet8", stop=step), digits, tmp_path / "cut")
    assert not (tmp_path / "cut" / "model.json").exists()
    cut = resume(toy, digits, tmp_path)
    assert same(whole, cut)
    assert comparable(cut.metrics) == comparable(whole.metrics)


def resume(toy, digits, tmp_path):
    # `stop` is part of the configuration: the file is told that it was never set.
    config = tmp_path / "cut" / "config.yaml"
    config.write_text(re.sub(r"stop: \d+", "stop: null", config.read_text()))
    return go(toy(network="resnet8"), digits, tmp_path / "cut", resume=True)


def test_a_stage_has_its_own_schedule_and_length(digits, tmp_path):
    run = go(Handed(network="resnet8", epochs={"teacher": 1}), digits, tmp_path / "run")
    assert [row["stage"] for row in run.metrics] == ["teacher", "student", "student"]
    assert run.metrics[-1]["learning_rate"] == pytest.approx(0.1 * 0.25)
    with pytest.raises(UserError, match="unknown stage.*'student'"):
        go(Handed(network="resnet8", epochs={"studnet": 1}), digits, tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_turns_update_their_own_parameters_alone(digits, tmp_path):
    seen = {}

    @dataclass(kw_only=True)
    class Half(Mutual):
        def stages(self, spec):
            for stage in super().stages(spec):
                seen["start"] = copy.deepcopy(stage.network)
                yield replace(stage, turns=stage.turns[:1])

    run = go(Half(network="resnet8"), digits, tmp_path / "run", epochs=1)
    trained = weights(run)
    assert not torch.equal(trained["target.fc.weight"], seen["start"].networks[0].fc.weight)
    assert torch.equal(trained["peer1.fc.weight"], seen["start"].networks[1].fc.weight)


def test_the_same_configuration_gives_the_same_weights(digits, tmp_path):
    first, second = (go(One(network="resnet8"), digits, tmp_path / name, epochs=2) for name in "ab")
    assert same(first, second)
    other = go(One(network="resnet8"), digits, tmp_path / "c", epochs=2, seed=1)
    assert not same(first, other)


def test_bfloat16_trains_and_is_written_down(digits, tmp_path):
    run = go(One(network="resnet8"), digits, tmp_path / "run", precision="bf16", epochs=2)
    assert run.config["precision"] == "bf16"
    assert all(tensor.dtype != torch.bfloat16 for tensor in weights(run).values())


def test_precision_follows_a_fixed_rule(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr("coterie.training.precision.has_native_bfloat16", lambda device: True)
    assert resolve_precision("auto", cpu, int(1e8)) == "bf16"
    assert resolve_precision("auto", cpu, int(1e5)) == "fp32"
    monkeypatch.setattr("coterie.training.precision.has_native_bfloat16", lambda device: False)
    assert resolve_precision("auto", cpu, int(1e8)) == "fp32"


def test_the_best_epoch_on_validation_is_delivered(digits, tmp_path):
    data = coterie.data.load("digits", train_samples=200, test_samples=50, validation=0.2)
    run = go(Vanilla(network="resnet8"), data, tmp_path / "run", epochs=4)
    errors = [row["validation_error_target"] for row in run.metrics]
    assert run.card["selected"] == "best on validation"
    assert run.card["epoch"] == errors.index(min(errors)) + 1
    measured = coterie.evaluate(run, split="validation")
    assert measured["error"] == pytest.approx(min(errors), abs=1e-9)


def test_the_users_own_module_is_trained_in_place(digits, tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    before = model[0].weight.detach().clone()
    run = go(One(network=model, at="1"), digits, tmp_path / "run", epochs=1)
    assert not torch.equal(before, model[0].weight)
    assert run.config["network"] is None
    assert torch.equal(run.network("target")[0].weight, model[0].weight)
    with pytest.raises(UserError, match="module of yours"):
        coterie.Run(run.path).network()


def test_resuming_says_what_it_finds(digits, tmp_path, finished, capsys):
    run = go(One(network="resnet8"), digits, tmp_path / "new", resume=True, progress=True)
    assert "from the beginning" in " ".join(capsys.readouterr().err.split())
    again = go(One(network="resnet8"), digits, run.path, resume=True, progress=True)
    assert "finished" in capsys.readouterr().err
    assert same(run, again)
    with pytest.raises(UserError, match=r"--method.temperature is 4.0.*3.0"):
        go(One(network="resnet8", temperature=4.0), digits, run.path, resume=True)
    with pytest.raises(UserError, match="--resume"):
        go(One(network="resnet8"), digits, run.path)


def test_batch_sizes_fit_the_data(digits, tmp_path):
    with pytest.raises(UserError, match=r"--batch_size is 500.*160"):
        go(Vanilla(network="resnet8"), digits, tmp_path / "a", batch_size=500)
    few = coterie.data.load("digits", train_samples=40, test_samples=20)
    run = go(Vanilla(network="resnet8"), few, tmp_path / "b", batch_size=None, epochs=1)
    assert run.config["batch_size"] == 40


def test_a_loss_that_became_nan_is_named_and_loses_nothing(digits, tmp_path):
    with pytest.raises(UserError, match=r"became nan.*--recipe.learning_rate") as caught:
        go(Vanilla(network="resnet8"), digits, tmp_path / "run", recipe=Recipe(learning_rate=1e30))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "model.json").exists()


def test_a_checkpoint_of_another_network_or_a_damaged_one_is_refused(digits, tmp_path):
    with pytest.raises(Interrupted):
        go(Average(network="resnet8", stop=3), digits, tmp_path / "cut")
    last = tmp_path / "cut" / "checkpoints" / "last.safetensors"
    state = checkpoint.load(last)
    state["modules"]["network"].pop("fc.weight")
    checkpoint.save(last, state)
    with pytest.raises(UserError, match=r"another network.*fc\.weight"):
        resume(Average, digits, tmp_path)
    last.write_bytes(last.read_bytes()[:200])
    with pytest.raises(UserError, match="damaged"):
        resume(Average, digits, tmp_path)


def test_checkpoints_hold_trees_and_shared_tensors_once(tmp_path):
    tensor = torch.arange(6.0).view(2, 3)
    state = {"a": [tensor, {3: tensor, "x": None}], "n": 1.5, "flag": True}
    path = tmp_path / "c.safetensors"
    checkpoint.save(path, state)
    again = checkpoint.load(path)
    assert torch.equal(again["a"][1][3], tensor)
    assert (again["a"][1]["x"], again["n"], again["flag"]) == (None, 1.5, True)
    assert len(load_file(path)) == 1


def test_a_full_disk_is_one_line_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "f"
    path.write_text("old")

    def write():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="disk is full"):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_recipes_are_the_published_ones():
    steps = Paper().make_schedule(Paper().make_optimiser([nn.Parameter(torch.zeros(2, 2))]), 100)
    factors = [steps.lr_lambdas[0](step) for step in (0, 49, 50, 74, 75, 99)]
    assert factors == [1, 1, 0.1, 0.1, 0.01, 0.01]
    assert (Paper().weight_decay, Paper().nesterov, OfficialCode().nesterov) == (1e-4, True, False)


def test_weight_decay_can_spare_norms_and_biases():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    groups = Recipe(decay_everything=False).make_optimiser(model.parameters()).param_groups
    assert [(len(group["params"]), group["weight_decay"]) for group in groups] == [(1, 5e-4), (3, 0.0)]


def test_the_step_fetches_nothing_from_the_device(digits, tmp_path):
    run = go(One(network="resnet8"), digits, tmp_path / "run", epochs=1)
    stage = next(run.method().stages(Spec(10, 1, (8, 8))))
    batch = next(coterie.data.training_batches(digits, batch_size=8, seed=0, stage=0, epoch=0))
    with torch.profiler.profile() as profile:
        stage.turns[0].module(batch).loss.total.backward()
    assert "aten::_local_scalar_dense" not in {event.key for event in profile.key_averages()}


def test_images_of_a_split_may_be_few(tmp_path, digits):
    tiny = replace(digits, train=digits.train.subset(digits.train.labels.argsort()[:3]))
    assert isinstance(tiny.train, Resident)
    run = go(One(network="resnet8"), tiny, tmp_path / "run", batch_size=2, epochs=1)
    assert run.metrics[0]["loss"] > 0
