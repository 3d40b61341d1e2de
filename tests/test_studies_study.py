"""Study files: what they ask for, and what is wrong with them."""

from pathlib import Path

import pytest
import yaml

from coterie.errors import UserError
from coterie.studies.cell import command, method_of, recipe_of
from coterie.studies.load import load_study
from coterie.studies.study import folder

RUNS = Path("runs")
SMALL = {
    "seeds": 2,
    "common": {"epochs": 1, "batch_size": 80, "threads": 1},
    "data": {"digits": {"name": "digits", "train_samples": 160}},
    "networks": {"resnet8": {"name": "resnet8"}, "resnet14": {"name": "resnet14"}},
    "rows": {
        "alone": {"method": {"name": "vanilla"}},
        "kd": {"method": {"name": "kd", "teacher": "@alone/resnet14:target"}},
    },
    "tables": [
        {"name": "first", "data": ["digits"], "networks": ["resnet8"], "rows": ["kd", "alone"], "minutes": {"kd": 3}},
        {"name": "second", "data": ["digits"], "networks": ["resnet8"], "rows": ["alone"], "measures": ["flatness"]},
    ],
}


def write(path, **changes):
    content = {"title": "A study", "small": SMALL | changes.pop("small", {}), **changes}
    path.write_text(yaml.safe_dump(content))
    return str(path)


def cells(path):
    return {cell.name: cell for cell in load_study(path).scale("small").cells(RUNS)}


def test_every_combination_is_a_cell_once_and_teachers_come_first(tmp_path):
    found = cells(write(tmp_path / "s.yaml"))
    assert list(found) == [
        *("digits/resnet14/alone/0", "digits/resnet8/kd/0", "digits/resnet8/alone/0"),
        *("digits/resnet14/alone/1", "digits/resnet8/kd/1", "digits/resnet8/alone/1"),
    ]
    assert found["digits/resnet8/kd/0"].minutes == 3
    # The analyses of one table are those of the cell, wherever it stands; a teacher that no table names has none.
    assert found["digits/resnet8/alone/0"].measures == ("flatness",)
    assert found["digits/resnet14/alone/0"].measures == ()


def test_a_teacher_is_the_run_of_the_same_data_and_seed(tmp_path):
    found = cells(write(tmp_path / "s.yaml"))
    taught, teacher = found["digits/resnet8/kd/1"], found["digits/resnet14/alone/1"]
    assert taught.configuration["method"]["teacher"] == f"{folder(teacher, RUNS)}:target"
    assert taught.needs == (teacher.key,)
    assert folder(teacher, RUNS) != folder(found["digits/resnet14/alone/0"], RUNS)


def test_studies_share_the_run_of_the_same_configuration(tmp_path):
    one = cells(write(tmp_path / "one.yaml"))["digits/resnet8/alone/0"]
    other = cells(write(tmp_path / "other.yaml", small={"seeds": 1}))["digits/resnet8/alone/0"]
    longer = cells(write(tmp_path / "longer.yaml", small={"common": {"epochs": 2}}))["digits/resnet8/alone/0"]
    assert folder(one, RUNS) == folder(other, RUNS) != folder(longer, RUNS)


def test_a_cell_says_the_command_that_repeats_it(tmp_path):
    found = cells(write(tmp_path / "s.yaml", small={"common": {"epochs": 1, "recipe": {"name": "paper"}}}))
    cell = found["digits/resnet8/alone/1"]
    assert command(cell) == (
        "coterie train --epochs 1 --recipe paper --method vanilla --network resnet8 "
        "--data digits --data.train_samples 160 --seed 1"
    )
    assert (method_of(cell.configuration).name, recipe_of(cell.configuration).name) == ("vanilla", "paper")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"titel": "x"}, "unknown key of the study 'titel'; did you mean 'title'"),
        (
            {"small": {"tables": [{"name": "t", "data": ["digit"], "networks": [], "rows": []}]}},
            "did you mean 'digits'",
        ),
        ({"small": {"tables": [{"name": "t", "data": []}]}}, "'networks' and 'rows' is missing"),
        ({"small": {"rows": {"alone": {"method": "vanilla"}}}}, "row 'alone' names no method"),
        ({"small": {"tables": [SMALL["tables"][1] | {"measures": ["flat"]}]}}, "did you mean 'flatness'"),
        ({"claims": [{"says": "x", "by": {"row": "kdd", "part": "target"}, "than": 1}]}, "did you mean 'kd'"),
        ({"claims": [{"says": "x", "by": {"row": "kd", "part": "target"}}]}, "'than' is missing"),
        (
            {"claims": [{"says": "x", "by": {"row": "kd", "part": "t"}, "than": 1, "expect": "same"}]},
            "'same' needs a margin",
        ),
        (
            {"claims": [{"says": "x", "by": {"row": "kd", "part": "t"}, "than": 1, "expect": "less"}]},
            "unknown expectation in claim 'x' 'less'",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line(tmp_path, changes, message):
    path = write(tmp_path / "s.yaml", **changes)
    with pytest.raises(UserError) as error:
        load_study(path)
    assert message in str(error.value)
    assert str(error.value).startswith(path)
    assert "\n" not in str(error.value)


def test_what_no_cell_can_be_made_of_is_one_line(tmp_path):
    itself = {"rows": {"kd": {"method": {"name": "kd", "teacher": "@kd"}}, "alone": SMALL["rows"]["alone"]}}
    with pytest.raises(UserError, match="row 'kd' learns from itself"):
        cells(write(tmp_path / "s.yaml", small=itself))
    unknown = {"rows": {"kd": {"method": {"name": "kd", "teacher": "@alon"}}, "alone": SMALL["rows"]["alone"]}}
    with pytest.raises(UserError, match="unknown row in '@alon' 'alon'; did you mean 'alone'"):
        cells(write(tmp_path / "s.yaml", small=unknown))
    with pytest.raises(UserError, match="unknown scale of study 's' 'paper'; known: small"):
        load_study(write(tmp_path / "s.yaml")).scale("paper")
    with pytest.raises(UserError, match="unknown study 'on'; did you mean 'one'"):
        load_study("on")
    with pytest.raises(UserError, match="cannot be read"):
        load_study(str(tmp_path / "none.yaml"))
