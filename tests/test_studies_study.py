"""Study files: what they ask for, and what is wrong with them."""

from datetime import date
from pathlib import Path

import pytest
import yaml

from coterie.errors import UserError
from coterie.studies.cell import command, method_of, recipe_of
from coterie.studies.reading import load_study
from coterie.studies.study import folder, located

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


FIRST, SECOND = SMALL["tables"]
FIGURE = {"row": "kd", "part": "target", "of": "CIFAR-10", "metric": "error", "value": 7.0, "evidence": "paper"}
SAID = {"says": "x", "by": {"row": "kd", "part": "target"}, "than": {"row": "alone", "part": "target"}}


def row(**options):
    """A change of the small scale: its plain row, with these options beside."""
    return {"small": {"rows": SMALL["rows"] | {"alone": SMALL["rows"]["alone"] | options}}}


def table(**options):
    """A change of the small scale: its first table, with these options instead."""
    return {"small": {"tables": [FIRST | options]}}


def write(path, **changes):
    content = {"title": "A study", "small": SMALL | changes.pop("small", {}), **changes}
    path.write_text(yaml.safe_dump(content))
    return str(path)


def cells(path):
    return {cell.name: cell for cell in load_study(path).scale("small").cells()}


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
    assert taught.configuration["method"]["teacher"] == f"@{folder(teacher, RUNS).name}:target"
    for runs in (RUNS, Path("/large/disc")):  # the same cell wherever its Runs are
        assert located(taught.configuration, runs)["method"]["teacher"] == f"{folder(teacher, runs)}:target"
        assert f"--method.teacher {folder(teacher, runs)}:target" in command(taught, runs)
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
    assert command(cell, RUNS) == (
        "coterie train --epochs 1 --recipe paper --method vanilla --network resnet8 "
        "--data digits --data.train_samples 160 --seed 1"
    )
    assert (method_of(cell.configuration).name, recipe_of(cell.configuration).name) == ("vanilla", "paper")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"titel": "x"}, "unknown key of the study 'titel'; did you mean 'title'"),
        (
            {"small": {"tables": [{"name": "t", "data": ["digit"], "networks": ["resnet8"], "rows": ["kd"]}]}},
            "did you mean 'digits'",
        ),
        ({"small": {"tables": [{"name": "t", "data": []}]}}, "'networks' and 'rows' are missing"),
        ({"small": {"rows": {"alone": {"method": {}}}}}, "row 'alone' names no method"),
        ({"small": {"tables": [SMALL["tables"][1] | {"measures": ["flat"]}]}}, "did you mean 'flatness'"),
        ({"claims": [{"says": "x", "by": {"row": "kdd", "part": "target"}, "than": 1}]}, "did you mean 'kd'"),
        ({"claims": [{"says": "x", "by": {"row": "kd", "part": "target"}}]}, "'than' is missing"),
        (
            {"claims": [{"says": "x", "by": {"row": "kd", "part": "t"}, "than": 1, "expect": "same"}]},
            "'same' needs a margin",
        ),
        (
            {"claims": [{"says": "x", "by": {"row": "kd", "part": "t"}, "than": 1, "expect": "less"}]},
            "unknown claim 'x', expect 'less'",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line(tmp_path, changes, message):
    refused(write(tmp_path / "s.yaml", **changes), message)


def refused(path, message):
    with pytest.raises(UserError) as error:
        load_study(path)
    assert message in str(error.value)
    assert str(error.value).startswith(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"small": {"common": {"epochs": 1, "batchsize": 9}}}, "small, common 'batchsize'; did you mean 'batch_size'?"),
        (row(epoch=9), "unknown key of small, rows, alone 'epoch'; did you mean 'epochs'?"),
        (row(budgets={"digit": {"epochs": 2}}), "data set in budgets of row 'alone' 'digit'; did you mean 'digits'?"),
        (row(budgets={"digits": {"epoch": 2}}), "small, rows, alone, budgets, digits 'epoch'; did you mean 'epochs'?"),
        ({"small": {"budgets": {"digits": {"epoch": 2}}}}, "small, budgets, digits 'epoch'; did you mean 'epochs'?"),
        (row(experiment={"name": "theory"}, epochs=9), "unknown key of small, row 'alone' 'epochs'; known: experiment"),
        (table(minutes={"dk": 3}), "unknown row of minutes in small, table 'first' 'dk'; did you mean 'kd'?"),
        (
            table(published=[FIGURE | {"row": "dk"}]),
            "row of published in small, table 'first' 'dk'; did you mean 'kd'?",
        ),
        ({"claims": [SAID | {"data": ["digit"]}]}, "unknown data set in claim 'x' 'digit'; did you mean 'digits'?"),
        (
            {"claims": [SAID | {"than": {"row": "kd", "part": "target", "network": "resnet41"}}]},
            "unknown network in claim 'x' 'resnet41'; did you mean 'resnet14'",
        ),
    ],
)
def test_a_misspelt_name_is_never_ignored(tmp_path, changes, message):
    refused(write(tmp_path / "s.yaml", **changes), message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"title": 2024}, "title is 2024; write text, in quotes"),
        ({"small": {"networks": ["resnet8"]}}, "small, networks is ['resnet8']; write a mapping of names to values"),
        ({"small": {"data": ["digits"]}}, "small, data is ['digits']; write a mapping"),
        ({"small": {"rows": ["alone"]}}, "small, rows is ['alone']; write a mapping"),
        ({"small": {"networks": {"resnet8": None}}}, "small, networks, resnet8 is empty; write a mapping"),
        ({"small": {"tables": FIRST}}, "small, tables is {'data': ['digits'], "),
        (
            {"small": {"tables": [FIRST, None]}},
            "small, tables, item 2 is empty; write a mapping of name, data, networks",
        ),
        ({"small": {"tables": []}}, "small, tables is empty; write a list"),
        (table(rows=[]), "small, table 'first', rows is empty; name at least one"),
        (table(rows="kd"), "small, table 'first', rows is 'kd'; write a list"),
        (table(minutes=None), "small, table 'first', minutes is empty; write a number or a mapping"),
        (table(published=FIGURE), "small, table 'first', published is {'evidence': 'paper', "),
        (table(published=[FIGURE | {"value": "7"}]), "table 'first', published, value is '7'; write a number"),
        (row(method=None), "small, rows, alone, method is empty; write a mapping"),
        (row(method="vanilla"), "small, rows, alone, method is 'vanilla'; write a mapping"),
        (row(recipe="paper"), "small, rows, alone, recipe is 'paper'; write a mapping"),
        (row(budgets=None), "small, rows, alone, budgets is empty; write a mapping"),
        (row(epochs="9"), "small, rows, alone, epochs is '9'; write a whole number"),
        ({"small": {"budgets": None}}, "small, budgets is empty; write a mapping"),
        ({"small": {"seeds": "5"}}, "small, seeds is '5'; write a whole number"),
        ({"small": {"seeds": [0, 1]}}, "small, seeds is [0, 1]; write a whole number"),
        ({"small": {"seeds": None}}, "small, seeds is empty; write a whole number"),
        ({"small": {"seeds": True}}, "small, seeds is True; write a whole number"),
        ({"small": {"seeds": 0}}, "small: seeds is 0; use 1 or more"),
        (
            {"small": {"data": {"digits": {"name": "folder", "root": date(2024, 1, 1)}}}},
            "small, data, digits, root is 2024-01-01; write text, in quotes",
        ),
        (
            row(method={"name": "vanilla", "option": [{"a": date(2024, 1, 1)}]}),
            "small, rows, alone, method, option, item 1, a is 2024-01-01; write text",
        ),
        ({"claims": SAID}, "claims is {'by': {'part': 'target', 'row': 'kd'}, 'says': 'x', 'than'…; write a list"),
        ({"claims": [None]}, "claims, item 1 is empty; write a mapping of says, by, than"),
        ({"claims": [SAID | {"by": "kd"}]}, "claim 'x', by is 'kd'; write a mapping of part, row, network"),
        (
            {"claims": [SAID | {"than": "20"}]},
            "claim 'x', than is '20'; write a mapping of part, row, network or a number",
        ),
        ({"claims": [SAID | {"expect": "same", "margin": "0.5"}]}, "claim 'x', margin is '0.5'; write a number"),
        ({"claims": [SAID | {"data": "digits"}]}, "claim 'x', data is 'digits'; write a list"),
    ],
)
def test_a_value_of_another_kind_is_one_line(tmp_path, changes, message):
    refused(write(tmp_path / "s.yaml", **changes), message)


@pytest.mark.parametrize("kind", ["data", "networks", "rows"])
@pytest.mark.parametrize(("name", "text"), [(1, "1"), (False, "no"), (True, "yes")])
def test_a_name_that_is_no_text_is_refused_before_anything_is_trained(tmp_path, kind, name, text):
    path = write(tmp_path / "s.yaml", small={kind: {**SMALL[kind], name: {"name": "x"}}})
    refused(path, f"small, {kind}: {name} is no text; write '\"{text}\"'")


def test_what_is_no_mistake_is_taken(tmp_path):
    noisy = {"name": "digits", "noise": 0.2, "noise_kind": "asymmetric", "noise_map": {3: 5, 5: 3}}
    own = {
        "budgets": {"digits": {"epochs": 2}},
        **row(recipe=None, batch_size=None, compile=False)["small"],
        "common": None,
        "data": {"digits": noisy},
    }
    path = write(tmp_path / "s.yaml", small=own, claims=[SAID | {"than": 20, "published": None}])
    assert cells(path)["digits/resnet8/alone/0"].configuration["data"] == noisy
    empty = tmp_path / "empty.yaml"
    empty.write_text("")
    refused(str(empty), "the study is empty; write a mapping")
    empty.write_text("title: x\nsmall: {seeds: 2024-13-01}")
    refused(str(empty), "not valid YAML")


def test_a_teacher_that_no_table_names_is_not_analysed(tmp_path):
    found = cells(write(tmp_path / "s.yaml", **table(rows=["kd"], measures=["flatness"])))
    assert {name: cell.measures for name, cell in found.items() if cell.seed == 0} == {
        "digits/resnet14/alone/0": (),
        "digits/resnet8/kd/0": ("flatness",),
    }


def test_what_no_cell_can_be_made_of_is_one_line(tmp_path):
    itself = {"rows": {"kd": {"method": {"name": "kd", "teacher": "@kd"}}, "alone": SMALL["rows"]["alone"]}}
    with pytest.raises(UserError, match="row 'kd' learns from itself"):
        cells(write(tmp_path / "s.yaml", small=itself))
    unknown = {"rows": {"kd": {"method": {"name": "kd", "teacher": "@alon"}}, "alone": SMALL["rows"]["alone"]}}
    with pytest.raises(UserError, match="unknown row in '@alon' 'alon'; did you mean 'alone'"):
        cells(write(tmp_path / "s.yaml", small=unknown))
    nowhere = {"kd": {"method": {"name": "kd", "teacher": "@alone/resnet20"}}, "alone": SMALL["rows"]["alone"]}
    with pytest.raises(UserError, match="unknown network in '@alone/resnet20' 'resnet20'; did you mean 'resnet"):
        cells(write(tmp_path / "s.yaml", small={"rows": nowhere}))
    with pytest.raises(UserError, match="row '(alone|kd)' has no epochs on 'digits'; write them in common"):
        cells(write(tmp_path / "s.yaml", small={"common": {}}))
    budgeted = {"common": {}, "budgets": {"digits": {"epochs": 2}}}
    assert cells(write(tmp_path / "s.yaml", small=budgeted))["digits/resnet8/kd/0"].configuration["epochs"] == 2
    with pytest.raises(UserError, match="unknown scale of study 's' 'paper'; known: small"):
        load_study(write(tmp_path / "s.yaml")).scale("paper")
    with pytest.raises(UserError, match="unknown study 'on'; did you mean 'one'"):
        load_study("on")
    with pytest.raises(UserError, match="none.yaml: no such file"):
        load_study(str(tmp_path / "none.yaml"))
