"""Study files: what they ask for, and what is wrong with them."""

from datetime import date
from pathlib import Path

import pytest
import yaml

from coterie.errors import UserError
from coterie.studies.reading import load_study
from coterie.studies.study import locate_run, locate_teachers
from coterie.studies.trial import command_of, method_of, recipe_of

RUNS = Path("runs")
SMALL = {
    "seeds": 2,
    "common": {"epochs": 1, "batch_size": 80, "threads": 1, "recipe": {"name": "short"}},
    "data": {"digits": {"name": "digits", "train_samples": 160}},
    "networks": {"resnet8": {"name": "resnet8"}, "resnet14": {"name": "resnet14"}},
    "arms": {
        "alone": {"method": {"name": "vanilla"}},
        "kd": {"method": {"name": "kd", "teacher": "@alone/resnet14:target"}},
    },
    "tables": [
        {"name": "first", "data": ["digits"], "networks": ["resnet8"], "arms": ["kd", "alone"], "minutes": {"kd": 3}},
        {"name": "second", "data": ["digits"], "networks": ["resnet8"], "arms": ["alone"], "measures": ["flatness"]},
    ],
}


FIRST, SECOND = SMALL["tables"]
FIGURE = {"arm": "kd", "part": "target", "of": "CIFAR-10", "metric": "error", "value": 7.0, "evidence": "paper"}
SAID = {"says": "x", "by": {"arm": "kd", "part": "target"}, "than": {"arm": "alone", "part": "target"}}


def arm(**options):
    """A change of the small scale: its plain arm, with these options beside."""
    return {"small": {"arms": SMALL["arms"] | {"alone": SMALL["arms"]["alone"] | options}}}


def table(**options):
    """A change of the small scale: its first table, with these options instead."""
    return {"small": {"tables": [FIRST | options]}}


def write(path, **changes):
    content = {"title": "A study", "small": SMALL | changes.pop("small", {}), **changes}
    path.write_text(yaml.safe_dump(content))
    return str(path)


def trials(path):
    return {trial.name: trial for trial in load_study(path).scale("small").trials()}


def test_every_combination_is_a_trial_once_and_teachers_come_first(tmp_path):
    found = trials(write(tmp_path / "s.yaml"))
    assert list(found) == [
        *("digits/resnet14/alone/0", "digits/resnet8/kd/0", "digits/resnet8/alone/0"),
        *("digits/resnet14/alone/1", "digits/resnet8/kd/1", "digits/resnet8/alone/1"),
    ]
    assert found["digits/resnet8/kd/0"].minutes == 3
    # The analyses of one table are those of the trial, wherever it stands; a teacher that no table names has none.
    assert found["digits/resnet8/alone/0"].measures == ("flatness",)
    assert found["digits/resnet14/alone/0"].measures == ()


def test_a_teacher_is_the_run_of_the_same_data_and_seed(tmp_path):
    found = trials(write(tmp_path / "s.yaml"))
    taught, teacher = found["digits/resnet8/kd/1"], found["digits/resnet14/alone/1"]
    assert taught.configuration["method"]["teacher"] == f"@{locate_run(teacher, RUNS).name}:target"
    for runs in (RUNS, Path("/large/disc")):  # the same trial wherever its Runs are
        assert locate_teachers(taught.configuration, runs)["method"]["teacher"] == f"{locate_run(teacher, runs)}:target"
        assert f"--method.teacher {locate_run(teacher, runs)}:target" in command_of(taught, runs)
    assert taught.needs == (teacher.key,)
    assert locate_run(teacher, RUNS) != locate_run(found["digits/resnet14/alone/0"], RUNS)


def test_studies_share_the_run_of_the_same_configuration(tmp_path):
    one = trials(write(tmp_path / "one.yaml"))["digits/resnet8/alone/0"]
    other = trials(write(tmp_path / "other.yaml", small={"seeds": 1}))["digits/resnet8/alone/0"]
    longer = trials(write(tmp_path / "longer.yaml", small={"common": {"epochs": 2}}))["digits/resnet8/alone/0"]
    assert locate_run(one, RUNS) == locate_run(other, RUNS) != locate_run(longer, RUNS)


def test_a_trial_says_the_command_that_repeats_it(tmp_path):
    found = trials(write(tmp_path / "s.yaml", small={"common": {"epochs": 1, "recipe": {"name": "paper"}}}))
    trial = found["digits/resnet8/alone/1"]
    assert command_of(trial, RUNS) == (
        "coterie train --epochs 1 --recipe paper --method vanilla --network resnet8 "
        "--data digits --data.train_samples 160 --seed 1"
    )
    assert (method_of(trial.configuration).name, recipe_of(trial.configuration).name) == ("vanilla", "paper")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"titel": "x"}, "unknown key of the study 'titel'; did you mean 'title'"),
        (
            {"small": {"tables": [{"name": "t", "data": ["digit"], "networks": ["resnet8"], "arms": ["kd"]}]}},
            "did you mean 'digits'",
        ),
        ({"small": {"tables": [{"name": "t", "data": []}]}}, "'networks' and 'arms' are missing"),
        ({"small": {"arms": {"alone": {"method": {}}}}}, "arm 'alone' names no method"),
        ({"small": {"tables": [SMALL["tables"][1] | {"measures": ["flat"]}]}}, "did you mean 'flatness'"),
        ({"claims": [{"says": "x", "by": {"arm": "kdd", "part": "target"}, "than": 1}]}, "did you mean 'kd'"),
        ({"claims": [{"says": "x", "by": {"arm": "kd", "part": "target"}}]}, "'than' is missing"),
        (
            {"claims": [{"says": "x", "by": {"arm": "kd", "part": "t"}, "than": 1, "expect": "same"}]},
            "'same' needs a margin",
        ),
        (
            {"claims": [{"says": "x", "by": {"arm": "kd", "part": "t"}, "than": 1, "expect": "less"}]},
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
        (arm(epoch=9), "unknown key of small, arms, alone 'epoch'; did you mean 'epochs'?"),
        (arm(budgets={"digit": {"epochs": 2}}), "data set in budgets of arm 'alone' 'digit'; did you mean 'digits'?"),
        (arm(budgets={"digits": {"epoch": 2}}), "small, arms, alone, budgets, digits 'epoch'; did you mean 'epochs'?"),
        ({"small": {"budgets": {"digits": {"epoch": 2}}}}, "small, budgets, digits 'epoch'; did you mean 'epochs'?"),
        (arm(experiment={"name": "theory"}, epochs=9), "unknown key of small, arm 'alone' 'epochs'; known: experiment"),
        (table(minutes={"dk": 3}), "unknown arm of minutes in small, table 'first' 'dk'; did you mean 'kd'?"),
        (
            table(published=[FIGURE | {"arm": "dk"}]),
            "arm of published in small, table 'first' 'dk'; did you mean 'kd'?",
        ),
        ({"claims": [SAID | {"data": ["digit"]}]}, "unknown data set in claim 'x' 'digit'; did you mean 'digits'?"),
        (
            {"claims": [SAID | {"than": {"arm": "kd", "part": "target", "network": "resnet41"}}]},
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
        ({"small": {"arms": ["alone"]}}, "small, arms is ['alone']; write a mapping"),
        ({"small": {"networks": {"resnet8": None}}}, "small, networks, resnet8 is empty; write a mapping"),
        ({"small": {"tables": FIRST}}, "small, tables is {'arms': ['kd', 'alone'], "),
        (
            {"small": {"tables": [FIRST, None]}},
            "small, tables, item 2 is empty; write a mapping of name, data, networks",
        ),
        ({"small": {"tables": []}}, "small, tables is empty; write a list"),
        (table(arms=[]), "small, table 'first', arms is empty; name at least one"),
        (table(arms="kd"), "small, table 'first', arms is 'kd'; write a list"),
        (table(minutes=None), "small, table 'first', minutes is empty; write a number or a mapping"),
        (table(published=FIGURE), "small, table 'first', published is {'arm': 'kd', 'evidence': 'paper', "),
        (table(published=[FIGURE | {"value": "7"}]), "table 'first', published, value is '7'; write a number"),
        (arm(method=None), "small, arms, alone, method is empty; write a mapping"),
        (arm(method="vanilla"), "small, arms, alone, method is 'vanilla'; write a mapping"),
        (arm(recipe="paper"), "small, arms, alone, recipe is 'paper'; write a mapping"),
        (arm(budgets=None), "small, arms, alone, budgets is empty; write a mapping"),
        (arm(epochs="9"), "small, arms, alone, epochs is '9'; write a whole number"),
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
            arm(method={"name": "vanilla", "option": [{"a": date(2024, 1, 1)}]}),
            "small, arms, alone, method, option, item 1, a is 2024-01-01; write text",
        ),
        ({"claims": SAID}, "claims is {'by': {'arm': 'kd', 'part': 'target'}, 'says': 'x', 'than'…; write a list"),
        ({"claims": [None]}, "claims, item 1 is empty; write a mapping of says, by, than"),
        ({"claims": [SAID | {"by": "kd"}]}, "claim 'x', by is 'kd'; write a mapping of part, arm, network"),
        (
            {"claims": [SAID | {"than": "20"}]},
            "claim 'x', than is '20'; write a mapping of part, arm, network or a number",
        ),
        ({"claims": [SAID | {"expect": "same", "margin": "0.5"}]}, "claim 'x', margin is '0.5'; write a number"),
        ({"claims": [SAID | {"data": "digits"}]}, "claim 'x', data is 'digits'; write a list"),
    ],
)
def test_a_value_of_another_kind_is_one_line(tmp_path, changes, message):
    refused(write(tmp_path / "s.yaml", **changes), message)


@pytest.mark.parametrize("kind", ["data", "networks", "arms"])
@pytest.mark.parametrize(("name", "text"), [(1, "1"), (False, "no"), (True, "yes")])
def test_a_name_that_is_no_text_is_refused_before_anything_is_trained(tmp_path, kind, name, text):
    path = write(tmp_path / "s.yaml", small={kind: {**SMALL[kind], name: {"name": "x"}}})
    refused(path, f"small, {kind}: {name} is no text; write '\"{text}\"'")


def test_what_is_no_mistake_is_taken(tmp_path):
    noisy = {"name": "digits", "noise": 0.2, "noise_kind": "asymmetric", "noise_map": {3: 5, 5: 3}}
    own = {
        "budgets": {"digits": {"epochs": 2}},
        **arm(recipe=None, batch_size=None, compile=False)["small"],
        "common": None,
        "data": {"digits": noisy},
    }
    path = write(tmp_path / "s.yaml", small=own, claims=[SAID | {"than": 20, "published": None}])
    assert trials(path)["digits/resnet8/alone/0"].configuration["data"] == noisy
    empty = tmp_path / "empty.yaml"
    empty.write_text("")
    refused(str(empty), "the study is empty; write a mapping")
    empty.write_text("title: x\nsmall: {seeds: 2024-13-01}")
    refused(str(empty), "not valid YAML")


def test_a_teacher_that_no_table_names_is_not_analysed(tmp_path):
    found = trials(write(tmp_path / "s.yaml", **table(arms=["kd"], measures=["flatness"])))
    assert {name: trial.measures for name, trial in found.items() if trial.seed == 0} == {
        "digits/resnet14/alone/0": (),
        "digits/resnet8/kd/0": ("flatness",),
    }


def test_what_no_trial_can_be_made_of_is_one_line(tmp_path):
    itself = {"arms": {"kd": {"method": {"name": "kd", "teacher": "@kd"}}, "alone": SMALL["arms"]["alone"]}}
    with pytest.raises(UserError, match="arm 'kd' learns from itself"):
        trials(write(tmp_path / "s.yaml", small=itself))
    unknown = {"arms": {"kd": {"method": {"name": "kd", "teacher": "@alon"}}, "alone": SMALL["arms"]["alone"]}}
    with pytest.raises(UserError, match="unknown arm in '@alon' 'alon'; did you mean 'alone'"):
        trials(write(tmp_path / "s.yaml", small=unknown))
    nowhere = {"kd": {"method": {"name": "kd", "teacher": "@alone/resnet20"}}, "alone": SMALL["arms"]["alone"]}
    with pytest.raises(UserError, match="unknown network in '@alone/resnet20' 'resnet20'; did you mean 'resnet"):
        trials(write(tmp_path / "s.yaml", small={"arms": nowhere}))
    with pytest.raises(UserError, match="arm '(alone|kd)' has no epochs on 'digits'; write them in common"):
        trials(write(tmp_path / "s.yaml", small={"common": {}}))
    budgeted = {"common": {}, "budgets": {"digits": {"epochs": 2}}}
    assert trials(write(tmp_path / "s.yaml", small=budgeted))["digits/resnet8/kd/0"].configuration["epochs"] == 2
    with pytest.raises(UserError, match="unknown scale of study 's' 'paper'; known: small"):
        load_study(write(tmp_path / "s.yaml")).scale("paper")
    with pytest.raises(UserError, match="unknown study 'on'; did you mean 'one'"):
        load_study("on")
    with pytest.raises(UserError, match="none.yaml: no such file"):
        load_study(str(tmp_path / "none.yaml"))
