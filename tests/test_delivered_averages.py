"""Where a Run delivers averaged weights, reports, studies and teachers speak of these."""

import pytest

import coterie
from coterie.methods import One, Vanilla
from coterie.recipes import Recipe
from coterie.reports.groups import group_runs
from coterie.reports.measured import collect_curves, measure
from coterie.reports.table import make_rows
from coterie.studies.reading import load_study
from coterie.studies.smoke import try_trials
from coterie.studies.trial import command_of, recipe_of, run_trial
from test_studies_study import SECOND, SMALL, arm, write
from toys import go

EMA = Recipe(average="ema", average_window=0.5, deliver="average")


@pytest.fixture(scope="module")
def runs(digits, tmp_path_factory):
    """ONE and the network alone, trained with averages, long enough for these to answer otherwise."""
    place = tmp_path_factory.mktemp("averaged")
    return [
        go(method(network="resnet8"), digits, place / method.name, epochs=4, recipe=EMA) for method in (One, Vanilla)
    ]


def test_a_report_measures_what_is_delivered(runs):
    experiments, reasons = measure(group_runs(runs), {})
    assert reasons == []
    for experiment, run in zip(experiments, runs, strict=True):
        assert run.card["deliverables"][0] == "target-average"
        expected = run.card["test"]["target-average"]["error"]
        assert experiment.first.error == pytest.approx(expected, abs=0.01)
        assert run.card["test"]["target"]["error"] != pytest.approx(expected, abs=0.01)
    one, alone = experiments
    assert set(one.named) == {f"one {name}-average" for name in ("target", "branch1", "branch2", "ensemble")}
    assert set(alone.named) == {"alone, averaged"}
    assert set(collect_curves(alone, "test_error_")) == {"alone", "alone, averaged"}


def test_a_table_has_a_row_for_each_in_order(runs):
    names = [row.name for row in make_rows(runs)]
    assert len(names) == len(set(names))
    assert names[:4] == ["one: target", "one: branch1", "one: branch2", "one: target-average"]
    assert names[-2:] == ["resnet8 alone", "resnet8 alone, averaged"]


def test_the_page_is_drawn(runs, tmp_path):
    page = coterie.report(runs, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "resnet8 alone, averaged" in page
    assert "target-average" in page


def trial_of(path, **small):
    (trial,) = load_study(write(path, small={"seeds": 1, **small})).scale("small").trials()
    return trial


def test_a_study_counts_what_is_delivered_by_its_plain_name(tmp_path):
    recipe = {"name": "short", "average": "ema", "average_window": 0.5, "deliver": "average"}
    measures = {"measures": ["flatness", "diversity", "generalisation", "curves"]}
    arms = {"one": {"method": {"name": "one"}, "epochs": 3, "test_every": 1, "recipe": recipe}}
    trial = trial_of(tmp_path / "s.yaml", arms=arms, tables=[SECOND | {"arms": ["one"], **measures}])
    result = run_trial(trial, tmp_path / "runs")
    assert result.failed is None
    (card,) = [coterie.Run(path.parent).card for path in (tmp_path / "runs").rglob("model.json")]
    for name in ("target", "ensemble"):
        assert result.measured[name]["error"] == card["test"][f"{name}-average"]["error"]
        assert result.measured[f"{name}-last"]["error"] == card["test"][name]["error"]
    assert result.measured["target"].keys() >= {"train_error", "flatness_0.1"}
    assert "disagreement" in result.measured["ensemble"]
    assert "generalisation_gap" in result.measured["branch1"]
    assert not [part for part in result.measured if part.endswith("-average")]
    assert result.cost["target"] == result.cost["target-last"]
    assert result.curves["target"]["test_error"] != result.curves["target-last"]["test_error"]


def test_a_study_of_the_modern_recipe_is_tried_and_one_of_soft_labels_for_dkd_is_refused(tmp_path):
    modern = {"name": "modern"}
    fine = load_study(write(tmp_path / "fine.yaml", **arm(recipe=modern))).scale("small").trials()
    assert all(said.startswith("runs") for said in dict(try_trials(fine)).values())
    arms = SMALL["arms"] | {"dkd": {"method": {"name": "dml", "divergence": "dkd"}, "recipe": modern}}
    trial = trial_of(tmp_path / "dkd.yaml", arms=arms, tables=[SECOND | {"arms": ["dkd"], "measures": []}])
    (said,) = dict(try_trials([trial])).values()
    assert said.startswith("failed: ")
    assert "label_smoothing" in said


@pytest.mark.parametrize(
    ("network", "given", "expected"),
    [
        ({"name": "resnet8"}, None, {"name": "modern"}),
        ({"name": "resnet8"}, {"learning_rate": 0.05}, {"name": "modern", "learning_rate": 0.05}),
        ({"name": "resnet8"}, {"name": "short"}, {"name": "short"}),
        ({"name": "timm/resnet18", "pretrained": True}, None, {"name": "finetune"}),
        ({"name": "resnet8", "weights": "mine.safetensors"}, None, {"name": "finetune"}),
        ({"name": "timm/resnet18", "pretrained": True}, {"name": "modern"}, {"name": "modern"}),
    ],
)
def test_a_trial_says_its_recipe_also_where_the_study_names_none(network, given, expected, tmp_path):
    alone = [SECOND | {"measures": []}]
    trial = trial_of(
        tmp_path / "s.yaml", common={"epochs": 1, "recipe": given}, networks={"resnet8": network}, tables=alone
    )
    assert trial.configuration["recipe"] == expected
    assert recipe_of(trial.configuration).name == expected["name"]
    assert f"--recipe {expected['name']} " in command_of(trial, tmp_path)
