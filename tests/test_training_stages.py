"""The stage contract on three toys."""

import copy
from dataclasses import dataclass, replace

import pytest
import torch

from coterie import UserError, processor
from coterie.training import Interrupted
from resuming import cut_and_resumed
from toys import Average, Handed, Mutual, comparable, go, looking_at, resumed, same, weights


@pytest.mark.parametrize("toy", [Mutual, Average, Handed])
@pytest.mark.parametrize("step", [2, 7, 10])
def test_toys_resume_exactly_from_any_step(toy, step, digits, tmp_path):
    whole = go(toy(network="resnet8"), digits, tmp_path / "whole")
    with pytest.raises(Interrupted):
        go(toy(network="resnet8", stop=step), digits, tmp_path / "cut")
    assert not (tmp_path / "cut" / "model.json").exists()
    cut = resumed(toy, digits, tmp_path)
    assert same(whole, cut)
    assert comparable(cut.metrics) == comparable(whole.metrics)


def test_a_stage_has_its_own_schedule_and_length(digits, tmp_path):
    run = go(Handed(network="resnet8", epochs={"teacher": 1}), digits, tmp_path / "run")
    assert [row["stage"] for row in run.metrics] == ["teacher", "student", "student"]
    # The schedule halves the rate after each epoch: the second one's last step was made at half of it.
    assert run.metrics[-1]["learning_rate"] == pytest.approx(0.1 * 0.5)
    with pytest.raises(UserError, match="unknown stage.*'student'"):
        go(Handed(network="resnet8", epochs={"studnet": 1}), digits, tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_turns_update_their_own_parameters_alone(digits, tmp_path):
    seen = {}

    @dataclass(kw_only=True)
    class Half(Mutual):
        def stages(self, task):
            for stage in super().stages(task):
                seen["start"] = copy.deepcopy(stage.network)
                yield replace(stage, turns=stage.turns[:1])

    run = go(Half(network="resnet8"), digits, tmp_path / "run", epochs=1)
    trained = weights(run)
    assert not torch.equal(trained["target.fc.weight"], seen["start"].networks[0].fc.weight)
    assert torch.equal(trained["peer1.fc.weight"], seen["start"].networks[1].fc.weight)


def test_both_doors_of_a_stage_lead_to_the_same_place(digits, tmp_path):
    """What a later stage is handed lies where it trains, whether the earlier one was trained here or loaded."""
    seen = []
    looking = looking_at(seen, lambda tensor: (tensor.device, tensor.stride(), tensor.is_contiguous()))
    cut_and_resumed(looking, digits, tmp_path / "run", "student", 2, epochs=1)
    trained, loaded, _ = seen
    assert trained == loaded
    # A 1x1 convolution's weight is contiguous in both layouts.
    assert all(contiguous for _, _, contiguous in loaded) is not processor.uses_avx512()
