"""What holds for every method."""

from pathlib import Path

import pytest
from torch import nn

import coterie.methods
from coterie.methods import METHODS, Spec

SPEC = Spec(10, 1, (8, 8), 3)


@pytest.mark.parametrize("name", METHODS)
def test_stages_are_the_ones_that_were_announced(name):
    method = METHODS[name](network="resnet8")
    stages = list(method.stages(SPEC))
    assert [stage.name for stage in stages] == list(method.stage_names())
    found = method.deliverables(SPEC)
    assert list(found) == list(stages[-1].deliver)
    for student, network in found.items():
        shapes = [{k: v.shape for k, v in each.state_dict().items()} for each in (network, stages[-1].deliver[student])]
        assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", METHODS)
def test_a_turn_never_holds_what_another_stage_trained(name):
    trained: set[int] = set()
    for stage in METHODS[name](network="resnet8").stages(SPEC):
        own = {id(parameter) for turn in stage.turns for parameter in turn.parameters if parameter.requires_grad}
        assert all(isinstance(turn.module, nn.Module) for turn in stage.turns)
        if stage.teacher is not None:
            taught_by = {id(parameter) for member in stage.teacher.members for parameter in member.parameters()}
            assert not own & taught_by
            assert trained >= taught_by
        trained |= own


def test_a_method_file_is_short():
    for path in Path(coterie.methods.__file__).parent.glob("*.py"):
        lines = len(path.read_text().splitlines())
        assert lines <= (250 if path.name == "base.py" else 150), f"{path.name} has {lines} lines"
