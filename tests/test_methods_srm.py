"""SRM's stages: who learns what, from whom, and what stays as it was."""

import copy
import logging
from dataclasses import replace
from math import e, log

import pytest
import torch
from torch import nn

import coterie
from coterie import UserError
from coterie.cli import main
from coterie.methods import Hooks, Srm, Task
from coterie.methods.frozen_teacher import Adapted
from coterie.methods.srm.matching import FeaturePair, pair_features
from coterie.methods.srm.sparse_coding import image_loss, pixel_loss
from coterie.networks.observe.features import FeaturePlace
from coterie.outputs import Batch
from coterie.records import upgrade_options
from coterie.training import Interrupted
from toys import comparable, go, interrupting, same, weights

TASK = Task(10, 1, (8, 8), 1)
STAGES = ["teacher", "dictionaries", "initialisation"]


def batch(count=6, size=8):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 1, size, size, generator=generator)
    return Batch((images,), torch.arange(count) % 10, torch.arange(count))


def stages(**options):
    """The method's stages without a training between them."""
    torch.manual_seed(0)
    return list(Srm(network="resnet8", **options).stages(TASK))


def state(module):
    return copy.deepcopy(module.state_dict())


def equal(module, before, but=()):
    now = module.state_dict()
    return now.keys() == before.keys() and all(
        torch.equal(now[key], before[key]) for key in now if not any(part in key for part in but)
    )


def step(stage):
    """One step of a stage's turn, as the runner takes it but for the schedule."""
    (turn,) = stage.turns
    optimiser = (turn.optimiser or (lambda parameters: torch.optim.SGD(parameters, lr=0.1, weight_decay=0.1)))(
        list(turn.parameters)
    )
    turn.module.train()
    result = turn.module(batch())
    result.loss.total.backward()
    optimiser.step()
    return result


@pytest.mark.parametrize("last", ["distillation", "fine-tuning", "probe"])
def test_stages(last):
    found = stages(last=last)
    assert [stage.name for stage in found] == [*STAGES, last] == list(Srm(last=last).stage_names())
    assert [stage.network is None for stage in found] == [False, True, True, False]
    assert list(found[-1].deliver) == ["target"]
    plain = coterie.networks.build("resnet8", 10, 1)
    assert found[-1].deliver["target"].state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("teacher_bn", ["eval", "train"])
def test_dictionaries_learn_to_reconstruct_and_leave_the_teacher_alone(teacher_bn):
    first, stage, _, last = stages(teacher_bn=teacher_bn)
    teacher, learning = first.network, stage.turns[0].module
    before = state(teacher)
    losses = [step(stage).loss["reconstruction"].item() for _ in range(8)]
    assert losses[-1] < losses[0]
    assert equal(teacher, before)
    assert not teacher.training
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert last.teacher.members[0].network is teacher
    drifted = learning.features.moving
    assert (drifted is not None) == (teacher_bn == "train")
    if drifted is not None:
        assert equal(drifted.network, before, but=("running_", "num_batches"))
        assert not torch.equal(drifted.network.bn1.running_mean, teacher.bn1.running_mean)
    # Σ over the places of mean squared errors.
    learning.eval()
    features = learning.features(batch().images)
    by_hand = sum(
        (coding(each).reconstruction.flatten() - each.flatten()).square().mean()
        for coding, each in zip(learning.codings, features, strict=True)
    )
    assert learning(batch()).loss.total.item() == pytest.approx(by_hand.item(), rel=1e-6)
    assert [tuple(coding.dictionary.shape) for coding in learning.codings] == [(16, 32), (32, 64), (64, 128), (64, 128)]


def test_labels_come_from_the_drifted_copy_where_there_is_one():
    torch.manual_seed(0)
    method = Srm(network="resnet8", teacher_bn="train").stages(TASK)
    teacher = next(method).network
    learning = next(method).turns[0].module.train()
    learning(batch())
    labelling = next(method).turns[0].module.labelling
    (asked,) = labelling.features.teacher.members
    assert asked is learning.features.moving
    assert not asked.training
    assert not torch.equal(asked.network.bn1.running_mean, teacher.bn1.running_mean)


@pytest.mark.parametrize("target", ["local", "global", "both"])
@pytest.mark.parametrize("pixel_logits", ["raw", "sigmoid"])
def test_initialisation_learns_the_codes_without_labels(target, pixel_logits):
    *_, stage, _ = stages(target=target, pixel_logits=pixel_logits)
    module = stage.turns[0].module
    classifier, codings = state(module.student.fc), state(module.labelling.codings)
    body, labelled = state(module.student), batch()
    result = step(stage)
    assert set(result.loss.terms) == ({"local", "global"} if target == "both" else {target})
    assert result.output is None
    assert equal(module.student.fc, classifier)  # weight decay passes it by too
    assert module.student.fc.weight.grad is None
    assert equal(module.labelling.codings, codings)
    assert not torch.equal(module.student.conv1.weight, body["conv1.weight"])
    assert all(head.dictionary.grad is not None for head in module.heads)
    unlabelled = replace(labelled, labels=torch.zeros_like(labelled.labels))
    module.eval()
    assert torch.equal(module(labelled).loss.total, module(unlabelled).loss.total)


def test_initialisation_sums_both_losses_over_the_places():
    *_, stage, _ = stages()
    module = stage.turns[0].module.eval()
    loss = module(batch()).loss
    codes = module.labelling(batch().images)
    said = [head(each) for head, each in zip(module.heads, module.read(batch().images), strict=True)]
    local = sum(pixel_loss(z, each.pixel_labels) for z, each in zip(said, codes, strict=True))
    overall = sum(image_loss(z, each.image_labels) for z, each in zip(said, codes, strict=True))
    assert len(said) == 4
    assert loss["local"].item() == pytest.approx(local.item())
    assert loss["global"].item() == pytest.approx(overall.item())


def test_the_official_codes_local_loss_never_falls_below_its_floor():
    *_, stage, _ = stages(pixel_logits="sigmoid", target="local")
    floor = sum(log((atoms - 1 + e) / e) for atoms in (32, 64, 128, 128))
    losses = [step(stage).loss.total.item() for _ in range(5)]
    assert losses[-1] < losses[0]
    assert losses[-1] > floor


def test_a_probe_trains_the_classifier_on_a_body_that_does_not_move():
    found = stages(last="probe")
    network = found[-1].deliver["target"]
    before = state(network)
    for _ in range(3):
        result = step(found[-1])
    assert not network.training
    assert equal(network, before, but=("fc.",))
    assert not torch.equal(network.fc.weight, before["fc.weight"])
    assert set(result.loss.terms) == {"cross_entropy"}


def test_distillation_starts_from_the_initial_student_and_has_none_of_its_terms():
    *_, initial, last = stages()
    student = last.network
    assert initial.turns[0].module.student is student
    result = last.turns[0].module(batch())
    assert set(result.loss.terms) == {"cross_entropy", "distillation"}
    expected = 0.5 * nn.functional.cross_entropy(student(batch().images), batch().labels)
    assert result.loss["cross_entropy"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert set(map(id, last.turns[0].parameters)) == set(map(id, student.parameters()))


def test_optimisers_and_schedules_of_the_paper():
    _, dictionaries, initial, last = stages(
        schedule="paper", dictionary_rate=2e-3, initial_rate=3e-3, initial_decay=1e-2
    )
    seen = []
    for stage in (dictionaries, initial):
        (turn,) = stage.turns
        optimiser = turn.optimiser(turn.parameters)
        assert isinstance(optimiser, torch.optim.Adam)
        (group,) = optimiser.param_groups
        schedule = stage.schedule(optimiser, 160)
        rates = []
        for _ in range(160):
            rates.append(round(group["lr"], 9))
            optimiser.step()
            schedule.step()
        seen.append((group["weight_decay"], {rate: rates.count(rate) for rate in rates}))
    assert seen[0] == (0, {2e-3: 16, 2e-4: 96, 2e-5: 48})  # 10, 60 and 30 %
    assert seen[1] == (1e-2, {3e-3: 30, 3e-4: 100, 3e-5: 30})
    assert last.turns[0].optimiser is None
    assert last.schedule is None
    assert stages()[1].schedule is None


class Cut(Srm):
    """SRM that a signal stops after so many steps."""

    after = None

    def stages(self, task):
        hook = interrupting(type(self).after)
        for stage in super().stages(task):
            yield replace(stage, hooks=Hooks(after_step=hook))


@pytest.mark.parametrize("last", ["distillation", "probe"])
def test_a_run_resumes_exactly_in_every_stage(last, digits, tmp_path, monkeypatch):
    method = Cut(network="resnet8", teacher_bn="train", last=last, features="layer1,fc:in")
    options = {"epochs": 1, "batch_size": 40}
    whole = go(method, digits, tmp_path / "whole", **options)
    for where, after in (("dictionaries", 6), ("initialisation", 10), (last, 14)):
        monkeypatch.setattr(Cut, "after", after)
        with pytest.raises(Interrupted, match=f"step 2 of stage {where}"):
            go(method, digits, tmp_path / where, **options)
        monkeypatch.setattr(Cut, "after", None)
        cut = go(method, digits, tmp_path / where, resume=True, **options)
        assert same(whole, cut)
        assert comparable(cut.metrics) == comparable(whole.metrics)


def test_shell_train_evaluate_export_report_and_a_named_teacher(alone, tmp_path, capsys):
    given = ["train", "--method", "srm", "--network", "resnet8", "--data", "digits", "--data.train_samples", "60"]
    given += ["--data.test_samples", "60"]
    first, second = tmp_path / "first", tmp_path / "second"
    main([*given, "--epochs", "1", "--method.teacher_network", "resnet14", "--out", str(first)])
    run = coterie.Run(first)
    assert [row["stage"] for row in run.metrics] == [*STAGES, "distillation"]
    assert "test_error_target" not in run.metrics[1]
    teacher = ["--method.teacher", str(alone.path), "--method.last", "probe", "--method.features", "layer2,layer3"]
    main([*given, "--epochs", "1", *teacher, "--out", str(second)])
    assert [row["stage"] for row in coterie.Run(second).metrics] == [*STAGES[1:], "probe"]
    assert coterie.Run(second).config["method"]["features"] == ["layer2", "layer3"]
    main(["evaluate", str(first)])
    main(["export", str(second), "--format", "onnx", "--out", str(tmp_path / "m.onnx")])
    assert "largest difference" in " ".join(capsys.readouterr().out.split())
    page = tmp_path / "r.html"
    main(["report", str(first), str(second), "--out", str(page)])
    assert "srm" in page.read_text()
    main(["train", "--config", str(second / "config.yaml"), "--out", str(tmp_path / "again")])
    assert same(coterie.Run(second), coterie.Run(tmp_path / "again"))


def test_a_student_that_has_seen_no_label_is_far_better_than_an_untrained_one(digits, tmp_path):
    options = {"batch_size": 16, "epochs": 8}
    go(coterie.methods.Vanilla(network="resnet8"), digits, tmp_path / "teacher", **options)
    errors = []
    for rate, epochs in ((1e-2, 8), (1e-12, 1)):
        lengths = {"dictionaries": 3, "initialisation": epochs, "probe": 4}
        method = Srm(network="resnet8", teacher=str(tmp_path / "teacher"), last="probe", epochs=lengths)
        run = go(replace(method, initial_rate=rate, initial_decay=0), digits, tmp_path / str(rate), **options)
        errors.append(run.metrics[-1]["test_error_target"])
    learned, untrained = errors  # 16 and 66 % on more test images
    assert learned < untrained - 25, errors
    assert set(weights(run)) == {f"target.{key}" for key in coterie.networks.build("resnet8", 10, 1).state_dict()}


def test_the_precision_of_a_run_whose_first_stage_trains_no_classifier(alone, digits, tmp_path, monkeypatch):
    seen = []

    def resolve(choice, device, flops):
        seen.append(flops)
        raise UserError("seen enough")

    monkeypatch.setattr("coterie.training.precision.resolve_precision", resolve)
    for method in (Srm(network="resnet8", teacher=str(alone.path)), coterie.methods.Vanilla(network="resnet8")):
        with pytest.raises(UserError, match="seen enough"):
            go(method, digits, tmp_path / "run", epochs=1)
    assert seen[0] == seen[1] > 0


def pair_of(first, second):
    return [(pair.student.path, pair.teacher.path, pair.size) for pair in first] == second


def test_automatic_features_are_matched_and_logged(caplog):
    student, teacher = coterie.networks.build("resnet8", 10, 1), coterie.networks.build("densenet-bc-100-12", 10, 1)
    with caplog.at_level(logging.INFO, "coterie"):
        pairs = pair_features(student, Adapted(teacher.eval()), torch.zeros(2, 1, 8, 8))
    assert pair_of(
        pairs,
        [
            ("layer1", "dense1", (8, 8)),
            ("layer2", "dense2", (4, 4)),
            ("layer3", "relu", (2, 2)),
            ("fc:in", "fc:in", (1, 1)),
        ],
    )
    assert "features layer1 (16x8x8) learns from the teacher's dense1 (216x8x8)" in caplog.text


def test_maps_of_unequal_size_meet_at_the_smaller_or_are_refused():
    options = {"features": "layer1, layer3", "teacher_features": "layer3,layer1"}
    _, learning, initial, _ = stages(**options)
    pairs = learning.turns[0].module.pairs
    assert pair_of(pairs, [("layer1", "layer3", (2, 2)), ("layer3", "layer1", (2, 2))])
    codes = initial.turns[0].module.labelling(batch().images)
    assert [tuple(each.codes.shape) for each in codes] == [(6, 128, 2, 2), (6, 32, 2, 2)]
    assert FeaturePair(FeaturePlace("a", 1, (4, 8)), FeaturePlace("b", 1, (8, 2))).size == (4, 2)
    assert step(initial).loss.total.isfinite()
    with pytest.raises(UserError, match=r"unequal is refuse.*layer1 \(16x8x8\).*layer3 \(64x2x2\)"):
        stages(unequal="refuse", **options)
    with pytest.raises(UserError, match="teacher_features names 2, and features 1"):
        stages(features="layer1", teacher_features="layer1,layer2")
    with pytest.raises(UserError, match=r"unknown module in teacher_features 'layr1'; did you mean 'layer1'"):
        stages(features="layer1", teacher_features="layr1")


def test_a_card_of_0_1_0_names_features_as_it_called_them():
    old = {"sites": ["layer1"], "teacher_sites": ["layer3"], "mu": 4.0}
    assert upgrade_options("srm", old) == {"features": ["layer1"], "teacher_features": ["layer3"], "mu": 4.0}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mu": 0}, "mu is 0"),
        ({"mu": 0.05}, "mu is 0.05: layer1 would have 0 atoms"),
        ({"lam": 0}, "lam is 0"),
        ({"lam": 1.5}, "lam is 1.5"),
        ({"alpha": 2}, "alpha is 2"),
        ({"temperature": 0}, "temperature is 0"),
        ({"initial_rate": -1}, "initial_rate is -1"),
        ({"initial_decay": -1}, "initial_decay is -1"),
        ({"teachers": 2}, "reads one teacher's features"),
        ({"teacher": "a,b"}, "reads one teacher's features"),
    ],
)
def test_wrong_options_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        stages(**options)
