"""Three toy methods that use all of the stage contract, and how tests train and compare them."""

import copy
import os
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from safetensors.torch import load_file
from torch import nn

import coterie
from coterie.functional import cross_entropy, kl_divergence
from coterie.methods import Hooks, Method, Stage, Task, Turn
from coterie.outputs import LossTerms, PeerOutput, StepResult
from coterie.recipes import Recipe


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

    def nets(self, task):
        return self.build(task), self.build(task)


@dataclass(kw_only=True)
class Mutual(Toy):
    """Two turns, two optimisers: each peer learns from what the other says now."""

    name = "mutual"
    summary = "toy"

    def stages(self, task: Task) -> Iterator[Stage]:
        nets = self.nets(task)

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
            hooks=Hooks(after_step=interrupting(self.stop)),
        )


@dataclass(kw_only=True)
class Average(Toy):
    """A moving average of the student teaches it."""

    name = "average"
    summary = "toy"

    def stages(self, task: Task) -> Iterator[Stage]:
        student = self.build(task)
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
        yield Stage(
            "train",
            [turn],
            network=student,
            deliver=deliver,
            hooks=Hooks(after_step=follow),
            state={"teacher": teacher},
        )


@dataclass(kw_only=True)
class Handed(Toy):
    """The second stage's student learns from what the first stage trained, and halves its rate on its own schedule."""

    name = "handed"
    summary = "toy"

    def stage_names(self):
        return ("teacher", "student")

    def stages(self, task: Task) -> Iterator[Stage]:
        teacher, student = self.nets(task)

        def alone(networks, batch):
            logits = networks["net"](batch.images)
            return {"ce": cross_entropy(logits, batch.labels)}, [logits]

        yield Stage(
            "teacher",
            [Turn(Loss(alone, net=teacher), tuple(teacher.parameters()))],
            network=teacher,
        )
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
            hooks=Hooks(after_step=interrupting(self.stop)),
        )


def plain():
    """A network without batch norm, always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10))


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
    precision = os.environ.get("COTERIE_TEST_PRECISION", "auto")  # `make test-avx2`
    # Without averages, of which each network has a twin to be measured: most tests ask for something else.
    given = {"epochs": 3, "batch_size": 32, "precision": precision, "progress": False, "recipe": Recipe()}
    options = given | options
    return coterie.train(method, data, out=out, **options)


def comparable(rows):
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows]


def resumed(toy, digits, tmp_path, **options):
    # `stop` is part of the configuration: the file is told that it was never set.
    config = tmp_path / "cut" / "config.yaml"
    config.write_text(re.sub(r"stop: \d+", "stop: null", config.read_text()))
    return go(toy(network="resnet8"), digits, tmp_path / "cut", resume=True, **options)


def looking_at(seen, see):
    """Makes a Handed that notes, after each stage, what ``see`` says of every tensor of the stage's network."""

    @dataclass(kw_only=True)
    class Looking(Handed):
        def stages(self, task):
            for stage in super().stages(task):
                yield stage
                seen.append([see(tensor) for tensor in stage.network.state_dict().values()])

    return lambda: Looking(network="resnet8")
