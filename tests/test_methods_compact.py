"""Compact structure: shrinking against hand-computed numbers, and whole runs."""

import copy
import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

import coterie
from coterie import UserError
from coterie.evaluation import cost
from coterie.methods import Compact, Hooks, Task, Vanilla
from coterie.methods.compact.shrinking import BlockMatching, CostRegulariser, ShrinkingStep, ShrinkSettings
from coterie.methods.vanilla import CrossEntropyStep
from coterie.networks import build
from coterie.networks.prune.channel_groups import find_blocks, find_channel_groups
from coterie.outputs import Batch
from coterie.training import Interrupted, Recipe
from toys import comparable, go, interrupting, same

TASK = Task(10, 1, (8, 8))
EXAMPLE = torch.zeros(2, 1, 8, 8)
FULL = cost(build("resnet8", 10, 1), 1, (8, 8))


def settings(**options):
    usual = {"resource": "flops", "budget": 0.5, "strength": 1.0, "threshold": 0.01, "least": 0.1}
    return ShrinkSettings(**(usual | {"proximal": True, "sequential": False, "rate": 0.2} | options))


def regularised(blocks=None, steps=10, **options):
    """A network, its channel groups, and a regulariser that knows its c."""
    torch.manual_seed(0)
    network = build("resnet8", 10, 1)
    groups = find_channel_groups(network, EXAMPLE)
    regulariser = CostRegulariser(groups, settings(**options), blocks or {})
    regulariser.schedule(torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9), steps)
    return network, groups, regulariser


def batch(count=6):
    torch.manual_seed(5)
    return Batch((torch.randn(count, 1, 8, 8),), torch.arange(count) % 10, torch.arange(count))


def stages_of(method, task=TASK):
    """The method's stages as nobody trains them."""
    return {stage.name: stage for stage in method.stages(task)}


def test_at_strength_1_the_mean_channel_is_gone_at_the_end():
    network, groups, regulariser = regularised(steps=10)
    assert regulariser.pace == pytest.approx(0.2 * 0.1 / (1 - 0.9))
    before = regulariser.costs.values(network).detach()
    regulariser.step(network, 0.1)
    lost = before - regulariser.costs.values(network).detach()
    assert lost.mean().item() == pytest.approx(1 / 10, rel=1e-5)
    # c* = N / (R/C0 · lr / (1 - momentum) · steps)
    ratio = (before * regulariser.costs.weights(before > 0)).sum().item()
    assert regulariser.c == pytest.approx(groups.num_channels / (ratio * 0.2 * 10), rel=1e-5)


def test_the_penalty_is_its_value_and_its_gradient_only_without_the_proximal_step():
    network, _, regulariser = regularised(proximal=False)
    network.bn1.weight.data.uniform_(1.1, 2)  # the largest of its group: the others get no gradient
    values = regulariser.costs.values(network)
    term = regulariser(network, 0.0)
    assert term.item() == pytest.approx(
        regulariser.c * (values * regulariser.costs.weights(values > 0)).sum().item(), rel=1e-5
    )
    term.backward()
    weights = regulariser.costs.weights(values > 0)
    owner = dict(regulariser.costs.groups.norms)["bn1"]
    torch.testing.assert_close(network.bn1.weight.grad, regulariser.c * weights[owner])
    assert not network.layer1[0].bn2.weight.grad.any()
    held = copy.deepcopy(network.state_dict())
    regulariser.step(network, 0.0)
    assert all(torch.equal(tensor, held[name]) for name, tensor in network.state_dict().items())
    network, _, regulariser = regularised()
    network.layer3[0].bn1.weight.data[:32] = 0
    alive = regulariser.costs.values(network) > 0.01
    cost_now = regulariser(network, 0.0)  # what the metrics show
    assert not cost_now.requires_grad
    assert cost_now.item() == pytest.approx(regulariser.costs.layer_costs(alive).sum().item())


def test_nothing_is_shrunk_beyond_the_budget_or_below_the_least():
    network, groups, regulariser = regularised(budget=0.5)
    for path, _ in groups.norms:
        norm = network.get_submodule(path)
        norm.weight.data[: len(norm.weight) * 6 // 10] = 0
    assert regulariser.costs.layer_costs(regulariser.costs.values(network) > 0.01).sum() < 0.5
    held = copy.deepcopy(network.state_dict())
    regulariser.step(network, 0.5)
    assert all(torch.equal(tensor, held[name]) for name, tensor in network.state_dict().items())
    network, groups, regulariser = regularised(budget=0.01, least=0.25)
    network.layer3[0].bn1.weight.data[16:] = 0  # 16 of 64 are left
    regulariser.step(network, 0.5)
    assert (network.layer3[0].bn1.weight[:16] == 1).all()
    assert (network.layer2[0].bn1.weight < 1).all()


def test_blocks_have_their_own_weights():
    network, _, plain = regularised()
    _, groups, weighted = regularised(blocks={"layer1": 3.0, "layer3": 0.0})
    assert plain.blocks == find_blocks(groups) == ("conv1", "layer1", "layer2", "layer3", "fc")
    weighted.c = plain.c
    other = copy.deepcopy(network)
    plain.step(network, 0.0)
    weighted.step(other, 0.0)
    ours, theirs = ((1 - each.layer1[0].bn1.weight)[0].item() for each in (network, other))
    assert theirs == pytest.approx(3 * ours, rel=1e-4)
    assert torch.equal(other.layer2[0].bn1.weight, network.layer2[0].bn1.weight)
    assert (other.layer3[0].bn1.weight == 1).all()
    with pytest.raises(UserError, match="block in blocks.*'layer9'"):
        regularised(blocks={"layer9": 1.0})


def test_sequential_blocks_are_shrunk_one_after_the_other():
    network, _, regulariser = regularised(sequential=True)
    regulariser.step(network, 0.25)  # the second of five
    assert (network.layer1[0].bn1.weight < 1).all()
    assert (network.layer2[0].bn1.weight == 1).all()
    regulariser.step(network, 0.65)
    assert (network.layer2[0].bn1.weight == 1).all()
    assert (network.layer3[0].bn1.weight < 1).all()


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("torchvision/mobilenet_v2", [*(f"features.{index}" for index in range(19)), "classifier"]),
        ("torchvision/resnet18", ["conv1", "layer1", "layer2", "layer3", "layer4", "fc"]),
    ],
)
def test_blocks_are_those_of_the_architecture(name, blocks):
    groups = find_channel_groups(build(name, 10, 3), torch.zeros(1, 3, 32, 32))
    assert [block.removesuffix(".1") if "classifier" in block else block for block in find_blocks(groups)] == blocks


def test_matching_is_the_mean_relative_error_of_block_outputs():
    student, groups, _ = regularised()
    teacher = copy.deepcopy(student).eval()
    learn = CrossEntropyStep(student).eval()
    matching = BlockMatching(student, teacher, find_blocks(groups), 2.0)
    teacher_maps = {}
    with torch.no_grad():
        for name in ("conv1", "layer1", "layer2", "layer3"):
            teacher.get_submodule(name).register_forward_hook(lambda m, x, y, name=name: teacher_maps.update({name: y}))
        assert matching(learn, batch())[1] == 0
        student.layer3[0].bn2.bias.add_(0.5)
        with torch.random.fork_rng():
            shifted = copy.deepcopy(student).eval()
        ours = {}
        shifted.layer3.register_forward_hook(lambda m, x, y: ours.update(y=y))
        shifted(batch().images)
        term = matching(learn, batch())[1].item()
    wanted = teacher_maps["layer3"].double()
    expected = 2.0 * ((ours["y"].double() - wanted) ** 2).mean() / (wanted**2).mean() / 4
    assert term == pytest.approx(expected.item(), rel=1e-5)


def test_the_shrinking_step_adds_its_terms_to_the_others():
    network, _, regulariser = regularised(proximal=False)
    step = ShrinkingStep(CrossEntropyStep(network), network, regulariser)
    result = step(batch())
    assert set(result.loss.terms) == {"cross_entropy", "penalty"}
    assert result.loss.total.item() == pytest.approx(sum(each.item() for each in result.loss.terms.values()))
    assert not any("resource" in name or "block" in name for name in step.state_dict())


def test_stages_and_what_they_train():
    method = Compact(network="resnet8", flops=0.5)
    assert method.stage_names() == ("teacher", "shrink", "prune", "finetune")
    recipe = Recipe()
    seen = []
    for stage in method.stages(TASK):
        seen.append(stage.name)
        optimiser = (stage.turns[0].optimiser or recipe.make_optimiser)(stage.turns[0].parameters)
        decays = {group["weight_decay"]: len(group["params"]) for group in optimiser.param_groups}
        if stage.name == "shrink":
            teacher, student = stage.teacher.members[0].network, stage.network
            assert torch.equal(teacher.conv1.weight, student.conv1.weight)
            assert decays[0.0] == 9  # the scales of its batch norms
            rates = stage.schedule(optimiser, 10)
            assert [rates.get_last_lr()[0], rates.lr_lambdas[0](10)] == pytest.approx([0.02, 0.2])
            # What shrinking would have done: the ranking is by γ.
            student.layer1[0].bn1.weight.data[:8] = 0.001
        if stage.name == "prune":
            assert optimiser.param_groups[0]["lr"] == 0
            assert stage.network.layer1[0].bn1.num_features <= 8
            assert cost(stage.network, 1, (8, 8)).flops == pytest.approx(0.5 * FULL.flops, rel=0.03)
        if stage.name == "finetune":
            assert decays == {5e-4: 29}
            rates = stage.schedule(optimiser, 10)
            assert [rates.lr_lambdas[0](step) for step in (0, 5, 10)] == pytest.approx([0.2, 0.1, 0.0])
            assert all(norm.momentum == 0.1 for norm in stage.network.modules() if isinstance(norm, nn.BatchNorm2d))
    assert seen == list(method.stage_names())
    assert list(stage.deliver) == ["target"]


def test_statistics_are_the_mean_over_the_prune_stage():
    stages = Compact(network="resnet8", params=0.6).stages(TASK)
    stage = next(stage for stage in stages if stage.name == "prune")
    convolution, norm = stage.network.conv1, stage.network.bn1
    assert norm.running_mean.abs().sum() == 0
    images = [torch.randn(8, 1, 8, 8) for _ in range(3)]
    for each in images:
        stage.turns[0].module.train()(Batch((each,), torch.zeros(8, dtype=torch.int64), torch.arange(8)))
    with torch.no_grad():
        means = [convolution(each).mean((0, 2, 3)) for each in images]
    torch.testing.assert_close(norm.running_mean, torch.stack(means).mean(0))


@pytest.mark.parametrize(
    "options",
    [
        {"flops": 0.5},
        {"params": 0.4, "importance": "magnitude"},
        {"flops": 0.6, "importance": "uniform"},
        {"flops": 0.4},
    ],
)
def test_budgets_are_met_by_all_structures(options):
    stages = stages_of(Compact(network="resnet8", **options))
    met = cost(stages["finetune"].network, 1, (8, 8))
    if "flops" in options:
        assert 0.97 * options["flops"] <= met.flops / FULL.flops <= options["flops"]
    else:
        assert 0.97 * options["params"] <= met.parameters / FULL.parameters <= options["params"]


def test_uniform_and_random_widths():
    def shares(importance):
        torch.manual_seed(0)
        network = stages_of(Compact(network="resnet8", flops=0.5, importance=importance, multiple=1))[
            "finetune"
        ].network
        widths = network.conv1, network.layer1[0].conv1, network.layer2[0].conv1, network.layer3[0].conv1
        return [layer.out_channels / full for layer, full in zip(widths, (16, 16, 32, 64), strict=True)]

    assert max(shares("uniform")) - min(shares("uniform")) <= 1 / 16
    assert max(shares("random")) - min(shares("random")) > 1 / 8


def test_the_control_is_not_cut_and_is_taught_as_long():
    method = Compact(network="resnet8", importance="none")
    assert method.stage_names() == ("teacher", "shrink", "finetune")
    stages = stages_of(method)
    assert cost(stages["finetune"].network, 1, (8, 8)) == FULL
    assert stages["shrink"].hooks.after_step is None
    terms = stages["shrink"].turns[0].module(batch()).loss.terms
    assert set(terms) == {"cross_entropy", "distillation"}


def test_from_scratch_only_the_widths_are_inherited():
    torch.manual_seed(0)
    stages = stages_of(Compact(network="resnet8", flops=0.5, start="scratch"))
    slim, fresh = stages["prune"].network, stages["finetune"].network
    assert slim is not fresh
    assert cost(slim, 1, (8, 8)) == cost(fresh, 1, (8, 8))
    assert not torch.equal(slim.fc.weight, fresh.fc.weight)
    assert stages["finetune"].schedule is None
    # Linear layers start within ± 1/sqrt(inputs), of the inputs that are left.
    inputs = fresh.fc.in_features
    assert fresh.fc.weight.abs().max().item() == pytest.approx(1 / math.sqrt(inputs), rel=0.1)


def test_where_the_teacher_is_heard():
    def terms(**options):
        """By stage, before the next one cuts the network."""
        stages = Compact(network="resnet8", **options).stages(TASK)
        return {stage.name: set(stage.turns[0].module(batch()).loss.terms) for stage in stages}

    heard = terms(distil="finetune")
    assert heard["shrink"] == {"cross_entropy", "cost"}
    assert heard["finetune"] == {"cross_entropy", "distillation"}
    assert terms(distil="neither")["finetune"] == {"cross_entropy"}
    assert terms(blockwise="matched")["shrink"] == {"cross_entropy", "distillation", "matching", "cost"}
    stage = next(each for each in Compact(network="resnet8", distil="shrink").stages(TASK) if each.name == "shrink")
    assert stage.teacher is not None


def test_a_run_is_opened_exported_and_reported(digits, tmp_path, alone):
    run = go(Compact(network="resnet8", flops=0.5), digits, tmp_path / "run", epochs=1)
    assert [row["stage"] for row in run.metrics] == ["teacher", "shrink", "prune", "finetune"]
    assert run.metrics[1]["learning_rate"] == pytest.approx(0.02)
    costs = run.card["cost"]["target"]
    assert 0.97 * 0.5 <= costs["flops"] / FULL.flops <= 0.5
    opened = coterie.Run(run.path)
    assert cost(opened.model, 1, (8, 8)).parameters == costs["parameters"]
    images = torch.randn(4, 1, 8, 8)
    expected = opened.model(images)
    coterie.export(opened, "safetensors", tmp_path / "slim.safetensors")
    coterie.export(opened, "onnx", tmp_path / "slim.onnx")
    assert torch.equal(coterie.run.open_exported(tmp_path / "slim.safetensors")[1](images), expected)
    assert coterie.evaluate(opened)["error"] == pytest.approx(run.card["test"]["target"]["error"])
    coterie.report([alone, opened], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert f"{costs['parameters']:,}" in page
    assert f"the same network, cut to {costs['flops'] / FULL.flops:.0%} of its FLOPs, has a test error of" in page
    # It may teach, as any other.
    taught = go(coterie.methods.Kd(network="resnet8", teacher=str(run.path)), digits, tmp_path / "kd", epochs=1)
    assert taught.card["cost"]["target"]["flops"] == FULL.flops


def test_a_module_of_ones_own_is_cut_in_place(digits, tmp_path):
    own = build("resnet8", 10, 1)
    run = go(Compact(network=own, params=0.5), digits, tmp_path / "run", epochs=1)
    assert sum(p.numel() for p in own.parameters()) == run.card["cost"]["target"]["parameters"] < FULL.parameters / 2
    again = coterie.Run(run.path, network=build("resnet8", 10, 1)).model
    images = torch.randn(2, 1, 8, 8)
    assert torch.allclose(again(images), own.eval()(images), atol=1e-6)


def test_a_trained_run_is_the_teacher_and_the_start(digits, tmp_path, alone):
    method = Compact(network="resnet8", teacher=str(alone.path), flops=0.5)
    assert method.stage_names() == ("shrink", "prune", "finetune")
    run = go(method, digits, tmp_path / "run", epochs=1)
    assert [row["stage"] for row in run.metrics] == ["shrink", "prune", "finetune"]
    other = Compact(network="resnet14", teacher=str(alone.path), blockwise="matched")
    with pytest.raises(UserError, match="teacher of the network's own kind"):
        go(other, digits, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@dataclass(kw_only=True)
class Stopping(Compact):
    at: ClassVar[tuple[str, int] | None] = None

    def stages(self, task):
        stages = super().stages(task)
        for stage in stages:
            if self.at is not None and stage.name == self.at[0]:
                own, stop = stage.hooks.after_step, interrupting(self.at[1])

                def both(done, own=own, stop=stop):
                    if own is not None:
                        own(done)
                    stop(done)

                object.__setattr__(stage, "hooks", Hooks(after_step=both))
            yield stage


@pytest.fixture(scope="module")
def whole(digits, tmp_path_factory):
    return go(Compact(network="resnet8", flops=0.5), digits, tmp_path_factory.mktemp("compact") / "whole", epochs=1)


@pytest.mark.parametrize("at", [("shrink", 3), ("shrink", 5), ("prune", 2), ("finetune", 3)])
@pytest.mark.processor
def test_resumes_exactly_from_any_stage(at, whole, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(Stopping, "at", at)
    with pytest.raises(Interrupted):
        go(Stopping(network="resnet8", flops=0.5), digits, tmp_path / "cut", epochs=1)
    cut = go(Compact(network="resnet8", flops=0.5), digits, tmp_path / "cut", epochs=1, resume=True)
    assert same(whole, cut)
    assert comparable(cut.metrics) == comparable(whole.metrics)


def test_the_teacher_is_what_vanilla_trains(whole, digits, tmp_path):
    alone = go(Vanilla(network="resnet8"), digits, tmp_path / "alone", epochs=1)
    assert alone.metrics[0]["test_error_target"] == whole.metrics[0]["test_error_teacher"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flops": 0.5, "params": 0.5}, "give one budget"),
        ({"flops": 0.0}, "flops is 0.0"),
        ({"params": 1.5}, "params is 1.5"),
        ({"rate": 0.0}, "rate is 0.0"),
        ({"least": -0.1}, "least is -0.1"),
        ({"blocks": {"layer1": -1.0}}, "blocks, layer1 is -1.0; use 0 or more"),
        ({"multiple": 0}, "multiple is 0"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"blockwise": "matched", "teacher_network": "resnet20"}, "leave out teacher_network"),
        ({"network": build("resnet8", 10, 1), "start": "scratch"}, "give a factory"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Compact(**({"network": "resnet8"} | options))


def test_an_impossible_budget_is_refused_before_anything_is_trained():
    with pytest.raises(UserError, match="params=0.005: pruned as far as it goes"):
        next(Compact(network="resnet8", params=0.005).stages(TASK))
