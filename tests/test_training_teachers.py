"""Teachers from elsewhere: every way to name one, every mistake, and answers that are remembered."""

import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

import coterie
from coterie import Run, UserError
from coterie.methods import Kd, Vanilla
from coterie.methods.frozen_teacher import Input
from coterie.outputs import answer
from coterie.recipes import Recipe
from coterie.teachers import open_teacher
from resuming import go
from toys import same


@pytest.fixture(scope="module")
def images(digits):
    return next(coterie.data.evaluation_batches(digits, digits.test, batch_size=100)).images


def asked(source, data, images):
    with torch.inference_mode():
        return open_teacher(str(source), data).eval()(images)


def said(network, images):
    with torch.inference_mode():
        return answer(network(images))


def test_a_run_its_deliverables_and_an_exported_file_say_what_the_run_says(digits, finished, images, tmp_path):
    target, ensemble = said(finished.model, images), said(finished.network("ensemble"), images)
    assert torch.equal(asked(finished.path, digits, images), target)
    assert torch.equal(asked(f"{finished.path}:target", digits, images), target)
    assert torch.equal(asked(f"{finished.path}:ensemble", digits, images), ensemble)
    for student, expected in (("target", target), ("ensemble", ensemble)):
        file = tmp_path / f"{student}.safetensors"
        coterie.export(finished, "safetensors", file, student)
        assert torch.equal(asked(file, digits, images), expected)
    shutil.copytree(finished.path, tmp_path / "odd@one")  # an @ in a path is no sign of weights by name
    assert torch.equal(asked(tmp_path / "odd@one", digits, images), target)
    shutil.copy(tmp_path / "target.safetensors", tmp_path / "odd@file.safetensors")
    assert torch.equal(asked(tmp_path / "odd@file.safetensors", digits, images), target)
    weights = finished.path / "model.safetensors"
    assert torch.equal(asked(f"resnet8@{weights}", digits, images), target)


def test_a_teacher_of_another_image_size_sees_the_images_in_its_own(digits, images, tmp_path):
    large = coterie.data.load("digits", train_samples=160, test_samples=100, image_size=16)
    teacher = go(Vanilla(network="resnet8"), large, tmp_path / "large", epochs=1)
    adapted = open_teacher(str(teacher.path), digits)
    assert adapted.conversion == (
        Input(1, (8, 8), digits.mean, digits.std),
        Input(1, (16, 16), large.mean, large.std),
    )
    assert adapted.convert(images).shape == (100, 1, 16, 16)
    run = go(Kd(network="resnet8", teacher=f"{teacher.path},{teacher.path}"), digits, tmp_path / "kd", epochs=1)
    assert run.card["image_size"] == (8, 8)
    asked_twice = 2 * teacher.card["cost"]["target"]["flops"]
    assert run.card["cost"]["training"]["flops"] == run.card["cost"]["target"]["flops"] + asked_twice


def test_weights_of_a_librarys_network_see_images_as_the_library_gives_them(digits, images, tmp_path):
    network = coterie.networks.build("timm/test_resnet", 10, 3)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    adapted = open_teacher(f"timm/test_resnet@{tmp_path / 'w.safetensors'}", digits)
    wanted = coterie.networks.Backbone("timm/test_resnet", pretrained=True).preprocessing()
    assert adapted.conversion[1] == Input(3, wanted.image_size, wanted.mean, wanted.std)
    assert asked(f"timm/test_resnet@{tmp_path / 'w.safetensors'}", digits, images[:2]).shape == (2, 10)


def test_a_mistake_is_one_line_before_anything_is_trained(digits, finished, tmp_path):
    unfinished = tmp_path / "unfinished"
    shutil.copytree(finished.path, unfinished)
    (unfinished / "model.json").unlink()
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    bare = finished.path / "model.safetensors"
    for source, expected in (
        ("nowhere", "teacher nowhere: no such Run folder or file"),
        (unfinished, "has not finished"),
        (tmp_path, "not a Run folder"),
        (f"{finished.path}:peer9", "unknown student 'peer9'"),
        ("model.onnx", "an ONNX file cannot teach"),
        (tmp_path / "no.safetensors", "no such file"),
        (tmp_path / "bad.safetensors", "damaged"),
        (bare, "has no card of coterie's"),
        ("resnet8", "write resnet8@FILE.safetensors"),
        (f"resnet9@{bare}", "unknown network 'resnet9'"),
        (f"resnet14@{bare}", "weights of another network"),
        ("resnet8@no.safetensors", "no.safetensors: no such file; check teacher"),
        ("timm/resnot", "unknown network"),
    ):
        with pytest.raises(UserError, match=r".") as caught:
            go(Kd(network="resnet8", teacher=str(source)), digits, tmp_path / "run")
        assert expected in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "run").exists()


def test_a_teacher_must_know_these_classes(digits, finished, tmp_path):
    few = replace(digits, classes=digits.classes[:5])
    with pytest.raises(UserError, match=r"knows 10 classes, and the data have 5"):
        open_teacher(str(finished.path), few)
    with pytest.raises(UserError, match=r"knows 10 classes, and the data have 5"):
        open_teacher(f"resnet8@{finished.path / 'model.safetensors'}", few)
    other = replace(digits, classes=digits.classes[::-1])
    with pytest.raises(UserError, match="classes of other names"):
        open_teacher(str(finished.path), other)


def test_a_run_is_opened_when_its_teacher_is_gone(digits, alone, tmp_path):
    teacher = tmp_path / "teacher"
    shutil.copytree(alone.path, teacher)
    run = go(Kd(network="resnet8", teacher=str(teacher)), digits, tmp_path / "kd", epochs=1)
    shutil.rmtree(teacher)
    assert coterie.evaluate(Run(run.path))["error"] == run.card["test"]["target"]["error"]
    coterie.export(run, "safetensors", tmp_path / "kd.safetensors")
    assert said(open_teacher(str(tmp_path / "kd.safetensors"), digits), torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_a_run_does_not_go_on_with_another_teacher(digits, alone, finished, tmp_path):
    teacher = tmp_path / "teacher"
    shutil.copytree(alone.path, teacher)
    run = go(Kd(network="resnet8", teacher=str(teacher)), digits, tmp_path / "kd")
    (run.path / "model.json").unlink()
    shutil.copy(finished.path / "model.safetensors", teacher / "model.safetensors")
    with pytest.raises(UserError, match="other weights than when this run began"):
        go(Kd(network="resnet8", teacher=str(teacher)), digits, run.path, resume=True)


@pytest.mark.processor
def test_remembered_answers_give_the_same_weights(digits, alone, finished, tmp_path):
    still = coterie.data.load("digits", train_samples=160, test_samples=100, augment="none")
    teacher = f"{alone.path},{finished.path}:ensemble"
    runs = [
        go(Kd(network="resnet8", teacher=teacher, remember=remember), still, tmp_path / str(remember))
        for remember in (True, False)
    ]
    assert same(*runs)
    files = [list((run.path / "checkpoints").glob("answers-*")) for run in runs]
    assert [len(each) for each in files] == [1, 0]
    assert load_file(files[0][0])["logits"].shape == (160, 2, 10)
    moving = go(Kd(network="resnet8", teacher=str(alone.path)), digits, tmp_path / "moving", epochs=1)
    assert not list((moving.path / "checkpoints").glob("answers-*"))


def test_answers_are_not_remembered_where_images_are_mixed(alone, tmp_path):
    still = coterie.data.load("digits", train_samples=160, test_samples=100, augment="none")
    runs = {}
    for name, mixing in (("mixed", {"cutmix": 1.0}), ("smoothed", {"label_smoothing": 0.1})):
        method = Kd(network="resnet8", teacher=str(alone.path))
        runs[name] = go(method, still, tmp_path / name, epochs=1, recipe=Recipe(**mixing))
    files = {name: len(list((run.path / "checkpoints").glob("answers-*"))) for name, run in runs.items()}
    assert files == {"mixed": 0, "smoothed": 1}


def test_a_damaged_or_foreign_file_of_answers_is_made_anew(digits, alone, tmp_path):
    still = coterie.data.load("digits", train_samples=160, test_samples=100, augment="none")

    def run(out, **options):
        return go(Kd(network="resnet8", teacher=str(alone.path)), still, out, epochs=1, **options)

    first = run(tmp_path / "run")
    (file,) = (first.path / "checkpoints").glob("answers-*")
    whole, logits = file.read_bytes(), load_file(file)["logits"]
    flipped = bytearray(whole)
    flipped[-1] ^= 1
    for content in (bytes(flipped), whole[:100], b""):
        second = tmp_path / f"again{len(content)}"
        (second / "checkpoints").mkdir(parents=True)
        (second / "checkpoints" / file.name).write_bytes(content)
        assert same(run(second, resume=True), first)
        assert torch.equal(load_file(second / "checkpoints" / file.name)["logits"], logits)
