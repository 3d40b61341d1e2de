"""What holds for every method."""

import pytest
from torch import nn

from coterie.methods import METHODS, Task

TASK = Task(10, 1, (8, 8), 3)


@pytest.mark.parametrize("name", METHODS)
def test_stages_are_the_ones_that_were_announced(name):
    method = METHODS[name](network="resnet8")
    stages = list(method.stages(TASK))
    assert [stage.name for stage in stages] == list(method.stage_names())
    found = method.deliverables(TASK)
    assert list(found) == list(stages[-1].deliver)
    for student, network in found.items():
        shapes, trained = (
            {k: v.shape for k, v in each.state_dict().items()} for each in (network, stages[-1].deliver[student])
        )
        # Compact structure is delivered with fewer channels than it is built with.
        assert shapes.keys() == trained.keys() if name == "compact" else shapes == trained


@pytest.mark.parametrize("name", METHODS)
def test_a_turn_never_holds_what_another_stage_trained(name):
    trained: set[int] = set()
    for stage in METHODS[name](network="resnet8").stages(TASK):
        own = {id(parameter) for turn in stage.turns for parameter in turn.trainable()}
        assert all(isinstance(turn.module, nn.Module) for turn in stage.turns)
        if stage.teacher is not None:
            taught_by = {id(parameter) for member in stage.teacher.members for parameter in member.parameters()}
            assert not own & taught_by
            assert trained >= taught_by
        trained |= own


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"name": "kd"}, {("teacher", "target")}),
        ({"name": "kd", "teachers": 2}, {("teacher1", "target"), ("teacher2", "target")}),
        ({"name": "kd", "teacher": "runs/one:ensemble"}, {("runs/one:ensemble", "target")}),
        ({"name": "self-distillation", "generations": 2}, {("generation0", "generation1"), ("generation1", "target")}),
        ({"name": "ensemble"}, set()),
    ],
)
def test_who_teaches_whom(options, expected):
    method = METHODS[options.pop("name")](**options)
    assert {(edge.source, edge.to) for edge in method.teaching() if edge.teaches} == expected
