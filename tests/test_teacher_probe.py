"""Published networks of other classes as teachers: a linear probe is trained first."""

import re

import pytest
import timm
import torch
from safetensors.torch import save_file

import coterie
from coterie import UserError
from coterie.methods import Compact, Kd, Meal, Srm, Task
from coterie.methods.offline import is_of_library
from coterie.recipes import Recipe
from coterie.teachers import open_teacher
from resuming import go, resumes_exactly

NAME = "timm/test_resnet"


@pytest.fixture(scope="module")
def theirs(digits):
    """A network of 1,000 classes whose features tell digits apart."""
    torch.manual_seed(3)
    network = timm.create_model("test_resnet", num_classes=10)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    for epoch in range(8):
        for batch in coterie.data.training_batches(digits, batch_size=32, seed=0, stage=0, epoch=epoch):
            images = torch.nn.functional.interpolate(batch.images, (64, 64)).expand(-1, 3, -1, -1)
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(network(images), batch.labels).backward()
            optimiser.step()
    network.reset_classifier(1000)
    return network.eval()


@pytest.fixture
def published(monkeypatch, theirs):
    """As if the library had fetched these weights, of 1,000 classes."""
    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_hf", lambda *_, **__: theirs.state_dict())


@pytest.fixture(scope="module")
def file(theirs, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "theirs.safetensors"
    save_file(theirs.state_dict(), path)
    return path


def stages_of(run):
    return list(dict.fromkeys(row["stage"] for row in run.metrics))


def test_a_published_network_of_other_classes_teaches_after_a_probe(published, digits, tmp_path, capsys):
    method = Kd(network="resnet8", teacher=NAME)
    assert method.stage_names() == ("teacher-probe", "student")
    run = go(method, digits, tmp_path / "run", epochs=6, batch_size=16, progress=True)
    assert stages_of(run) == ["teacher-probe", "student"]
    probe = [row for row in run.metrics if row["stage"] == "teacher-probe"]
    assert probe[-1]["train_error_teacher-probe"] < probe[0]["train_error_teacher-probe"] - 10
    assert re.search(r"^teacher: test error \d+\.\d\d %$", capsys.readouterr().err, re.MULTILINE)
    flops = sum(row["training_flops"] for row in run.metrics)
    assert run.card["training_flops"] == flops > sum(row["training_flops"] for row in run.metrics[6:])


def test_only_the_classifier_of_a_probe_learns(published, theirs, digits):
    method = Kd(network="resnet8", teacher=NAME, epochs={"teacher-probe": 3})
    task = Task(10, 1, digits.image_size, open=lambda source: open_teacher(source, digits))
    stages = method.stages(task)
    probe = next(stages)
    adapted = probe.network.network
    before = {name: value.clone() for name, value in adapted.network.state_dict().items()}
    for name, value in theirs.state_dict().items():
        assert name.startswith("fc.") or torch.equal(before[name], value)
    turn = probe.turns[0]
    assert {id(each) for each in turn.trainable()} == {id(each) for each in adapted.network.fc.parameters()}
    optimiser = turn.optimiser(turn.groups())
    turn.module.train()
    for batch in coterie.data.training_batches(digits, batch_size=80, seed=0, stage=0, epoch=0):
        turn.module(batch).loss.total.backward()
        optimiser.step()
    after = adapted.network.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {"fc.weight", "fc.bias"}
    student = next(stages)
    images = torch.rand(2, 1, *digits.image_size)
    expected = adapted(images)  # frozen as it was when its probe was over
    assert torch.equal(student.teacher(images)[:, 0], expected)
    assert not any(parameter.requires_grad for parameter in adapted.parameters())


def test_a_librarys_weights_in_a_file_are_probed_too_and_those_of_these_classes_are_not(digits, file, tmp_path):
    run = go(Kd(network="resnet8", teacher=f"{NAME}@{file}"), digits, tmp_path / "other", epochs=1)
    assert stages_of(run) == ["teacher-probe", "student"]
    same = timm.create_model("test_resnet", num_classes=10)
    save_file(same.state_dict(), tmp_path / "same.safetensors")
    run = go(Kd(network="resnet8", teacher=f"{NAME}@{tmp_path / 'same.safetensors'}"), digits, tmp_path / "same")
    assert stages_of(run) == ["student"]


@pytest.mark.processor
@pytest.mark.parametrize(("stage", "step"), [("teacher-probe", 2), ("student", 3)])
@pytest.mark.parametrize("recipe", [Recipe(), Recipe(average="ema", deliver="average")], ids=["live", "average"])
def test_a_run_with_a_probe_resumes_exactly(digits, file, tmp_path, stage, step, recipe):
    def make():
        return Kd(network="resnet8", teacher=f"{NAME}@{file}")

    assert resumes_exactly(make, digits, tmp_path, stage, step, recipe=recipe, batch_size=64)


def test_every_method_that_has_teachers_takes_one(digits, alone, file, tmp_path):
    source = f"{NAME}@{file}"
    made = (
        (Srm(network="resnet8", teacher=source, features="layer1", teacher_features="layer1"), "dictionaries"),
        (Meal(network="resnet8", teacher=[source, str(alone.path)]), "student"),
        (Compact(network="resnet8", teacher=source), "shrink"),
    )
    for method, second in made:
        run = go(method, digits, tmp_path / method.name, epochs=1)
        assert stages_of(run)[:2] == ["teacher-probe", second]
        assert tuple(stages_of(run)) == method.stage_names()


def test_several_probes_have_numbers(published, digits, alone, tmp_path):
    method = Kd(network="resnet8", teacher=[NAME, str(alone.path), NAME])
    assert method.stage_names() == ("teacher-probe1", "teacher-probe2", "student")
    run = go(method, digits, tmp_path / "run", epochs=1)
    assert tuple(stages_of(run)) == method.stage_names()


def test_files_and_folders_are_no_library_whatever_their_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "timm" / "run").mkdir(parents=True)
    assert is_of_library("timm/resnet18.a1_in1k")
    assert is_of_library("torchvision/resnet18@weights.safetensors")
    assert not is_of_library("timm/run")
    assert not is_of_library("timm/run:ensemble")
    assert not is_of_library("runs/one")
    assert not is_of_library("resnet20@weights.safetensors")


def test_weights_that_cannot_be_fetched_are_asked_for_as_a_file(digits, monkeypatch, tmp_path):
    def silent(*_, **__):
        raise OSError

    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_hf", silent)
    with pytest.raises(UserError, match=r"cannot be had.*write timm/test_resnet@FILE\.safetensors"):
        go(Kd(network="resnet8", teacher=NAME), digits, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_probe_is_no_measure_of_the_networks_size(digits, file, tmp_path):
    # 'modern' reads the parameters of what is trained in the end, which are few.
    from coterie.recipes import Modern

    run = go(Kd(network="resnet8", teacher=f"{NAME}@{file}"), digits, tmp_path / "run", recipe=Modern(), epochs=1)
    alone = go(coterie.methods.Vanilla(network="resnet8"), digits, tmp_path / "alone", recipe=Modern(), epochs=1)
    assert run.config["recipe"] == alone.config["recipe"]
