"""Generations, each learning from the one before it."""

import pytest
import torch
from safetensors.torch import load_file

import coterie
from coterie import UserError
from coterie.functional import cross_entropy, kl_divergence
from coterie.methods import SelfDistillation, Task
from coterie.outputs import Batch
from resuming import go, resumes_exactly
from toys import weights


def test_a_generation_learns_from_labels_and_from_the_one_before_it():
    stages = SelfDistillation(network="resnet8", generations=2).stages(Task(10, 1, (8, 8)))
    batch = Batch((torch.randn(4, 1, 8, 8),), torch.tensor([0, 1, 2, 3]), torch.arange(4))
    before = next(stages).network
    for stage in stages:
        assert stage.teacher.members[0].network is before
        (turn,) = stage.turns
        turn.module.eval()
        loss = turn.module(batch).loss.total
        logits, soft = stage.network(batch.images), before(batch.images)
        expected = 0.1 * cross_entropy(logits, batch.labels) + 16 * kl_divergence(logits, soft, 4.0)
        torch.testing.assert_close(loss, expected)
        loss.backward()
        assert all(parameter.grad is None for parameter in before.parameters())
        before = stage.network
        before.zero_grad()


def test_generations_start_apart_and_all_are_delivered(digits, tmp_path):
    run = go(SelfDistillation(network="resnet8", generations=2, ensemble=True), digits, tmp_path / "run")
    assert run.card["deliverables"] == ["target", "generation0", "generation1", "ensemble"]
    assert [row["stage"] for row in run.metrics[::2]] == ["generation0", "generation1", "generation2"]
    trained = weights(run)
    for index, name in enumerate(("target", "generation0", "generation1")):
        assert torch.equal(trained[f"ensemble.members.{index}.fc.weight"], trained[f"{name}.fc.weight"])
    assert not torch.equal(trained["target.conv1.weight"], trained["generation1.conv1.weight"])
    measured = coterie.evaluate(run, student="ensemble")
    assert measured["error_target"] == coterie.evaluate(run)["error"]
    assert measured["error_generation0"] == coterie.evaluate(run, student="generation0")["error"]
    assert coterie.export(run, "safetensors", tmp_path / "m.safetensors", "ensemble").difference < 1e-5


def test_generation_0_is_the_network_alone(digits, alone, tmp_path):
    run = go(SelfDistillation(network="resnet8"), digits, tmp_path / "run", epochs=2, batch_size=128)
    plain = load_file(alone.path / "model.safetensors")
    trained = weights(run)
    assert all(torch.equal(trained[f"generation0.{key}"], value) for key, value in plain.items())
    assert run.card["deliverables"] == ["target", "generation0"]


def test_a_run_resumes_exactly_in_a_later_generation(digits, tmp_path):
    def make():
        return SelfDistillation(network="resnet8", generations=2, ensemble=True)

    assert resumes_exactly(make, digits, tmp_path, "generation2", 2, epochs=1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"generations": 0}, "generations is 0"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"label_weight": -0.1}, "label_weight is -0.1"),
    ],
)
def test_wrong_options_are_one_line(options, said):
    with pytest.raises(UserError, match=said):
        SelfDistillation(**options)
