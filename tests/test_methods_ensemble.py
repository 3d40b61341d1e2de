"""Separately trained networks as one, and distilled into one."""

import pytest
import torch
from safetensors.torch import load_file

import coterie
from coterie import UserError
from coterie.methods import Ensemble, Kd
from coterie.recipes import Recipe
from resuming import go, resumes_exactly
from toys import weights


@pytest.fixture(scope="module")
def run(digits, tmp_path_factory):
    return coterie.train(
        Ensemble(network="resnet8", members=2),
        digits,
        recipe=Recipe(),
        epochs=2,
        out=tmp_path_factory.mktemp("e") / "run",
        progress=False,
    )


def test_members_are_separate_networks_and_the_first_is_the_network_alone(run, alone):
    trained = weights(run)
    plain = load_file(alone.path / "model.safetensors")
    assert all(torch.equal(trained[f"member1.{key}"], value) for key, value in plain.items())
    assert not torch.equal(trained["member1.fc.weight"], trained["member2.fc.weight"])
    for index in range(2):
        assert torch.equal(trained[f"ensemble.members.{index}.fc.weight"], trained[f"member{index + 1}.fc.weight"])
    assert len(load_file(run.path / "model.safetensors")) == 2 * len(plain)


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_the_ensemble_says_the_mean(average, run, digits, tmp_path):
    method = Ensemble(network="resnet8", members=2, average=average)
    two = go(method, digits, tmp_path / "two", epochs=1)
    images = next(coterie.data.evaluation_batches(digits, digits.test)).images
    with torch.inference_mode():
        said = two.model(images).ensemble.softmax(1)
        members = torch.stack([two.network(name)(images) for name in ("member1", "member2")])
    mean = members.softmax(2).mean(0) if average == "probabilities" else members.mean(0).softmax(1)
    torch.testing.assert_close(said, mean)


def test_every_member_is_measured(run):
    assert run.card["deliverables"] == ["ensemble", "member1", "member2"]
    assert set(run.card["test"]) == {"ensemble", "member1", "member2"}
    measured = coterie.evaluate(run)
    for name in ("member1", "member2"):
        assert measured[f"error_{name}"] == coterie.evaluate(run, student=name)["error"]
        assert [row["stage"] for row in run.metrics if f"test_error_{name}" in row] == [name, name]
    assert run.card["cost"]["ensemble"]["flops"] == 2 * run.card["cost"]["member1"]["flops"]


def test_it_is_exported_as_one(run, tmp_path):
    for file, student in (("e.onnx", "ensemble"), ("e.safetensors", "ensemble"), ("m.safetensors", "member2")):
        done = coterie.export(run, file.partition(".")[2], tmp_path / file, student)
        assert done.difference < 1e-4


def test_it_is_distilled_into_one_network(run, digits, tmp_path):
    taught = go(Kd(network="resnet8", teacher=f"{run.path}:ensemble"), digits, tmp_path / "kd", epochs=1)
    assert set(load_file(taught.path / "model.safetensors")) == set(load_file(run.weights_path("member1")))


@pytest.mark.processor
def test_a_run_resumes_exactly_in_a_later_member(digits, tmp_path):
    assert resumes_exactly(lambda: Ensemble(network="resnet8", members=2), digits, tmp_path, "member2", 3)


def test_with_a_validation_split_each_member_has_its_own_best_epoch(tmp_path):
    data = coterie.data.load("digits", train_samples=200, test_samples=50, validation=0.2)
    two = go(Ensemble(network="resnet8", members=2), data, tmp_path / "run", epochs=4)
    for name in ("member1", "member2"):
        best = min(row[f"validation_error_{name}"] for row in two.metrics if f"validation_error_{name}" in row)
        assert coterie.evaluate(two, student=name, split="validation")["error"] == pytest.approx(best, abs=1e-9)


def test_one_member_is_no_ensemble():
    with pytest.raises(UserError, match="members is 1"):
        Ensemble(members=1)
