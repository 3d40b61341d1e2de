"""Frontiers: equal costs on every rung, and what curves of error against cost say."""

from dataclasses import replace

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from coterie.errors import UserError
from coterie.reports.studies.frontier import FrontierView, crossing_sentence, draw_frontier
from coterie.reports.studies.page import Measured, report_studies
from coterie.studies.curves import (
    Point,
    bound_gain,
    count_seeds,
    find_crossing,
    find_saturation,
    find_uneven,
    judge,
    pair,
    read_curves,
)
from coterie.studies.frontiers import judge_frontiers
from coterie.studies.ladder import Frontier, Teacher, match_epochs, name_arm
from coterie.studies.reading import load_study
from coterie.studies.results import Result, Results
from coterie.studies.statistics import compare, power

STUDY = """
title: A ladder
small:
  seeds: 4
  common: {batch_size: 32}
  data: {digits: {name: digits}}
  networks: {small: {name: resnet8}, large: {name: resnet20}}
  arms:
    alone: {method: {name: vanilla}}
    one: {method: {name: one}}
    kd: {method: {name: kd, teacher: "@alone/large"}}
  frontiers:
    - {data: digits, network: small, epochs: 40, rungs: 3, costs: {alone: 1, one: 1.6, kd: 1.3},
       teachers: {kd: {cost: 4, share: 0.4}}, minutes: 2}
"""


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "ladder.yaml"
    path.write_text(STUDY)
    return load_study(str(path))


@given(st.floats(30, 2000), st.dictionaries(st.text(min_size=1), st.floats(0.3, 5), min_size=1, max_size=4))
def test_whole_epochs_of_all_arms_cost_the_same_to_a_hundredth(wanted, others):
    costs = {"": 1.0} | others
    found = match_epochs(wanted, costs)
    if found is None:
        assert max(costs.values()) > wanted / 50  # few epochs of a dear arm: none may fit
        return
    budget, epochs = found
    assert abs(budget / wanted - 1) <= 0.08
    assert epochs.keys() == costs.keys()
    assert max(abs(epochs[arm] * costs[arm] / budget - 1) for arm in costs) <= 0.01


def test_a_share_of_the_budget_is_the_teachers():
    frontier = Frontier(
        "digits", "small", {"alone": 1, "kd": 1.3}, 100, 1, teachers={"kd": Teacher(cost=4.0, share=0.4)}
    )
    (rung,) = frontier.ladder()
    cost = rung.epochs["kd"] * 1.3 + rung.taught["kd"] * 4
    assert rung.taught["kd"] == 10
    assert cost == pytest.approx(rung.budget, rel=0.01)


def test_a_study_trains_each_arm_on_each_rung(study):
    scale = study.scale("small")
    trials = {trial.key: trial for trial in scale.trials()}
    rungs = scale.frontiers[0].ladder()
    assert [rung.budget for rung in rungs] == pytest.approx([40, 64, 102.4], rel=0.08)
    for rung in rungs:
        for arm, epochs in rung.epochs.items():
            trial = trials["digits", "small", name_arm(arm, epochs), 3]
            assert trial.configuration["epochs"] == epochs
            assert trial.minutes == pytest.approx(2 * rung.budget / 40)
            assert trial.configuration["recipe"] == {"name": "modern", "strength_epochs": rung.epochs["alone"]}
    student = trials["digits", "small", name_arm("kd", rungs[1].epochs["kd"]), 0]
    assert student.needs == (("digits", "large", name_arm("alone", rungs[1].taught["kd"]), 0),)
    assert trials[student.needs[0]].configuration["epochs"] == rungs[1].taught["kd"]
    assert trials[student.needs[0]].configuration["recipe"] == {"name": "modern"}


def test_arms_of_one_name_and_length_have_the_recipe_and_the_teacher_of_their_own_rung(tmp_path):
    path = tmp_path / "ladder.yaml"
    path.write_text(
        STUDY.replace("{digits: {name: digits}}", "{digits: {name: digits}, clothes: {name: fashion_mnist}}")
        + "    - {data: clothes, network: small, epochs: 66, rungs: 1, costs: {alone: 1, kd: 1.3},\n"
        "       teachers: {kd: {cost: 4, share: 0.6}}}\n"
    )
    scale = load_study(str(path)).scale("small")
    trials = {trial.key: trial for trial in scale.trials()}
    for frontier, strength, taught in zip(scale.frontiers, (42, 66), (4, 10), strict=True):
        rung = frontier.ladder()[0]
        assert (rung.epochs["kd"], rung.taught["kd"]) == (20, taught)
        student = trials[frontier.data, "small", name_arm("kd", 20), 0]
        assert student.configuration["recipe"]["strength_epochs"] == strength
        assert [need[2] for need in student.needs] == [name_arm("alone", taught)]


def test_an_arm_may_be_trained_on_some_rungs_only(study, tmp_path):
    path = tmp_path / "some.yaml"
    path.write_text(STUDY.replace("minutes: 2}", "minutes: 2, only: {kd: [2]}}"))
    scale = load_study(str(path)).scale("small")
    whole = study.scale("small").frontiers[0].ladder()
    lengths = {trial.arm for trial in scale.trials() if trial.arm.startswith("kd")}
    assert lengths == {name_arm("kd", whole[1].epochs["kd"])}
    assert [set(rung.taught) for rung in scale.frontiers[0].ladder()] == [set(), {"kd"}, set()]


@pytest.mark.parametrize("recipe", ["name: short", "name: modern, strength_epochs: 7"])
def test_a_frontier_keeps_the_recipe_that_its_study_names(recipe, tmp_path):
    path = tmp_path / "ladder.yaml"
    path.write_text(STUDY.replace("batch_size: 32", f"recipe: {{{recipe}}}"))
    trials = load_study(str(path)).scale("small").trials()
    assert all(trial.configuration["recipe"] == yaml.safe_load(f"{{{recipe}}}") for trial in trials)


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        (
            "network: small, epochs",
            "network: smal, epochs",
            "unknown network in a frontier 'smal'; did you mean 'small'?",
        ),
        (
            "costs: {alone: 1, one: 1.6",
            "costs: {alone: 2, one: 1.6",
            "begin with no arm of cost 1; write 'alone: 1' first",
        ),
        ("one: 1.6, kd", "onee: 1.6, kd", "unknown arm in a frontier 'onee'; did you mean 'one'"),
        ("epochs: 40", "epochs: 4", "near 4 epochs of 'alone' no whole epochs of all arms cost the same to 1%"),
        ("teachers: {kd", "teachers: {kds", "unknown arm in teachers of the frontier on 'digits' 'kds'"),
        ("share: 0.4", "share: 1.4", "share is 1.4"),
        ("minutes: 2", "only: {kd: [4]}", "has 'kd' on rungs [4]; name some of 1 to 3"),
        ("minutes: 2", "only: {kd: []}", "has 'kd' on rungs []; name some of 1 to 3"),
        ("minutes: 2", "only: {kd: [0]}", "only"),
        ("minutes: 2", "only: {kdd: [1]}", "unknown arm in only of the frontier on 'digits' 'kdd'"),
        ("minutes: 2", "only: {alone: [1]}", "names 'alone', which the others are held against on every rung"),
    ],
)
def test_a_frontier_that_cannot_be_is_refused_in_a_line(tmp_path, before, after, says):
    path = tmp_path / "wrong.yaml"
    assert STUDY.count(before) == 1
    path.write_text(STUDY.replace(before, after))
    with pytest.raises(UserError) as caught:
        load_study(str(path))
    assert says in str(caught.value)
    assert str(path) in str(caught.value)


def curve(*means, noise=0.3, seeds=6, cost=1e12, random=None):
    random = random or np.random.default_rng(0)
    return {
        rung: Point(10, cost * 1.6**rung, {seed: mean + noise * random.standard_normal() for seed in range(seeds)})
        for rung, mean in enumerate(means)
    }


def test_saturation_is_where_no_further_rung_gains_half_a_point():
    falling = curve(20.0, 17.0, 15.0, 14.9, 14.8, noise=0.05)
    assert find_saturation(falling) == 2
    assert bound_gain(falling, 0) > 2.9
    assert find_saturation(curve(20.0, 18.0, 16.0, noise=0.05)) is None
    # A gain that may be large for all that is known is no saturation.
    assert find_saturation(curve(15.0, 14.9, noise=3.0)) is None
    # Nor is a rest on the way.
    assert find_saturation(curve(15.0, 14.95, 12.0, 11.9, noise=0.05)) == 2


def test_the_budget_where_curves_cross_is_found_with_its_interval():
    other = np.random.default_rng(1)
    ours, theirs = curve(22.0, 18.0, 14.0, noise=0.1), curve(20.0, 18.5, 17.0, noise=0.1, random=other)
    crossing = find_crossing(ours, theirs)
    assert crossing.ahead
    # Differences 2 and -0.5: at 0.8 of the way from the first rung to the second, over the logarithm of the budget.
    assert crossing.flops == pytest.approx(1e12 * 1.6**0.8, rel=0.05)
    assert crossing.low < 1e12 * 1.6**0.8 < crossing.high
    assert crossing.high / crossing.low < 1.3
    assert find_crossing(theirs, ours).ahead is False
    above = find_crossing(curve(22.0, 21.0, noise=0.01), curve(20.0, 19.0, noise=0.01))
    assert (above.flops, above.ahead) == (None, False)
    assert "a higher mean test error than alone at every measured budget" in crossing_sentence("one", "alone", above)


def test_an_unsure_crossing_has_an_open_interval():
    crossing = find_crossing(
        curve(20.2, 19.9, noise=2.0), curve(20.0, 20.0, noise=2.0, random=np.random.default_rng(1))
    )
    assert crossing.low is None or crossing.high is None


def test_differences_are_judged_with_the_seeds_that_would_decide():
    random = np.random.default_rng(0)
    theirs = 20 + random.standard_normal(8)
    noise = 0.2 * random.standard_normal(8)
    noise -= noise.mean()
    words = [
        each.word
        for each in judge(
            [
                compare(list(theirs + shift + scale * noise), list(theirs))
                for shift, scale in (
                    (-2.0, 1),
                    (2.0, 1),
                    (0.0, 1),
                    (0.1, 20),
                )
            ]
        )
    ]
    assert words == ["better", "worse", "equivalent", "inconclusive"]
    seeds = count_seeds(1.5, 0.5)
    assert power(0.5, 1.5, seeds) >= 0.8 > power(0.5, 1.5, seeds - 1)
    assert count_seeds(100.0, 0.5) is None
    assert count_seeds(0.0, 0.5) == 2


def filled(study, means, noise=0.1):
    """Results with errors around ``means[arm][rung]``, at the cost that each rung should have."""
    scale, random = study.scale("small"), np.random.default_rng(0)
    trials = [
        Result(
            "digits",
            "small",
            name_arm(arm, epochs),
            seed,
            measured={"target": {"error": means[arm][rung.number] + noise * random.standard_normal()}},
            training_flops=1e10 * rung.budget,
        )
        for rung in scale.frontiers[0].ladder()
        for arm, epochs in rung.epochs.items()
        for seed in range(scale.seeds)
    ]
    return Results("ladder", "small", trials=trials)


MEANS = {"alone": (20.0, 17.0, 16.9), "one": (23.0, 16.0, 15.9), "kd": (21.0, 17.0, 16.9)}


def test_arms_are_compared_where_the_baseline_is_saturated(study):
    (judged,) = judge_frontiers(study.scale("small").frontiers, filled(study, MEANS))
    assert (judged.rung, judged.saturated) == (1, {"alone": 1, "one": 1, "kd": 1})
    assert {arm: each.word for arm, each in judged.judgements.items()} == {"one": "better", "kd": "equivalent"}
    assert judged.judgements["one"].comparison == pair(judged.curves["one"][1], judged.curves["alone"][1])
    assert judged.crossings["one"].ahead
    said = " ".join(FrontierView(judged).sentences)
    assert "At equal cost 'one' is better than 'alone': test error 16.0" in said
    assert "'kd' is equivalent to 'alone' within 0.5 points" in said
    assert "where 'alone' is saturated" in said
    assert "on 'one' has a lower mean test error than 'alone'" in said


def test_what_is_not_saturated_is_compared_at_the_highest_rung_and_said(study):
    (judged,) = judge_frontiers(study.scale("small").frontiers, filled(study, {**MEANS, "alone": (20.0, 18.0, 16.0)}))
    assert judged.rung == 2
    assert "'alone' is not saturated on this ladder" in " ".join(FrontierView(judged).sentences)


def test_what_is_compared_at_the_highest_rung_may_be_saturated_below_it(study):
    frontier = replace(study.scale("small").frontiers[0], judged_at="highest")
    (judged,) = judge_frontiers([frontier], filled(study, MEANS))
    assert (judged.rung, judged.saturated["alone"]) == (2, 1)
    _, compared, saturated, *_ = (said for said in FrontierView(judged).sentences if "equal cost 'kd'" not in said)
    assert compared.endswith("their highest budget.")
    assert saturated.startswith("'alone' is saturated from ")


@pytest.mark.parametrize(("others", "scale"), [((70.0, 5.2, 4.9), "log"), ((9.0, 6.0, 4.9), "linear")])
def test_low_errors_are_told_apart_beside_high_ones_and_beside_long_intervals(others, scale, monkeypatch):
    curves = {
        name: {rung: Point(10, 1e12 * 1.6**rung, {0: mean - 0.1, 1: mean + 0.1}) for rung, mean in enumerate(means)}
        for name, means in {"alone": (6.0, 5.0, 4.7), "one": others}.items()
    }
    curves["one"][0] = Point(10, 1e12, {0: others[0] - 3, 1: others[0] + 3})  # an interval of 27 points to each side
    drawn = []
    monkeypatch.setattr("coterie.reports.studies.frontier.to_svg", lambda figure, title: drawn.append(figure) or "")
    draw_frontier(curves, "a title")
    (axes,) = drawn[0].axes
    low, high = axes.get_ylim()
    assert axes.get_yscale() == scale
    assert 0 <= low < 4.7 < others[0] < high < 2 * others[0]
    places = axes.transAxes.inverted().transform(axes.transData.transform([(1e12, 4.7), (1e12, 6.0)]))[:, 1]
    assert places[1] - places[0] > 0.05


def test_the_page_names_frontiers_that_were_not_measured(study, tmp_path):
    results = filled(study, MEANS)
    other = replace(study.scale("small").frontiers[0], epochs=900.0)
    scale = replace(study.scale("small"), frontiers=(*study.scale("small").frontiers, other))
    measured = Measured(replace(study, scales={**study.scales, "small": scale}), results)
    assert measured.unmeasured == [other.title]
    assert f"Not measured: {other.title}." in report_studies([measured], tmp_path / "p.html").read_text()


def test_costs_that_are_not_equal_are_named(study):
    results = filled(study, MEANS)
    rung = study.scale("small").frontiers[0].ladder()[2]
    results.trials = [
        replace(each, training_flops=1.05 * each.training_flops)
        if each.arm == name_arm("one", rung.epochs["one"])
        else each
        for each in results.trials
    ]
    curves = read_curves(study.scale("small").frontiers[0], results)
    ((number, arm, share),) = find_uneven(curves)
    assert (number, arm, round(share, 3)) == (2, "one", 0.05)
    (judged,) = judge_frontiers(study.scale("small").frontiers, results)
    assert "On rung 3 'one' cost +5.0% of what it should" in " ".join(FrontierView(judged).sentences)


def test_the_page_begins_with_the_frontier_and_shows_no_table_for_each_rung(study, tmp_path):
    measured = Measured(study, filled(study, MEANS))
    page = report_studies([measured], tmp_path / "page.html").read_text()
    assert (
        page.index("Error against cost: small on digits") < page.index("<h2>Tables") if "<h2>Tables" in page else True
    )
    assert page.count("<svg") == 1
    assert measured.tables == []
    assert "At equal cost &#39;one&#39; is better than &#39;alone&#39;" in page
