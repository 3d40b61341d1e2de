"""``coterie compare``: what a budget buys, who goes on, what the verdict is, and the whole of it on digits."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import coterie
from coterie.cli import main
from coterie.comparison.as_study import write_study
from coterie.comparison.budget import Cost, keep_better, make_plan, parse_duration, relative_costs
from coterie.comparison.costing import cost_of, probe_arm
from coterie.comparison.outcome import find_outcome, validation_errors
from coterie.comparison.question import Limits, Question
from coterie.comparison.running import Comparison, compare
from coterie.errors import UserError
from coterie.studies.ladder import Frontier, name_arm
from coterie.studies.reading import load_study
from coterie.studies.results import Result, Results, load_results
from coterie.studies.study import Scale

DIGITS = {"name": "digits", "train_samples": 160, "test_fraction": 0.5}
TWO = {"alone": Cost(1e9, 0, 2.0, 5.0), "one": Cost(1.6e9, 0, 3.2, 6.0)}
THREE = TWO | {"kd": Cost(1.3e9, 4e9, 2.6, 8.0)}


@pytest.mark.parametrize(
    ("text", "seconds"), [("2h", 7200), ("90m", 5400), ("1h30m", 5400), ("1.5 hours", 5400), ("45s", 45), ("1d", 86400)]
)
def test_a_budget_is_said_as_one_would(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "0h", "two hours", "2h now", "-2h"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(UserError, match="is no time; write"):
        parse_duration(text)


@settings(max_examples=30, deadline=None)
@given(st.floats(300, 1e6), st.sampled_from([TWO, THREE]), st.integers(1, 4))
def test_a_plan_keeps_to_its_budget_at_equal_cost(seconds, costs, workers):
    try:
        plan = make_plan(costs, seconds=seconds, epochs=None, seeds=None, workers=workers)
    except UserError as error:
        # The time that the line names suffices.
        minutes = int(str(error).split("budget=")[1].split("m,")[0]) if "budget=" in str(error) else 0
        assert minutes * 60 > seconds
        assert make_plan(costs, seconds=minutes * 60, epochs=None, seeds=None, workers=workers)
        return
    assert plan.total <= seconds * workers
    own, fixed = relative_costs(costs)
    for rung in plan.rungs:
        spent = [rung.epochs[arm] * own[arm] + fixed.get(arm, 0) for arm in costs]
        assert max(spent) / min(spent) < 1.0203
    assert plan.rungs[-1].seeds >= 3
    assert plan.rungs[-1].seeds >= plan.rungs[0].seeds


def test_more_time_buys_longer_trainings_then_more_seeds():
    plans = [make_plan(TWO, seconds=hours * 3600, epochs=None, seeds=None, workers=2) for hours in (0.1, 0.5, 2, 8, 48)]
    lengths = [plan.rungs[-1].epochs["alone"] for plan in plans]
    assert lengths == sorted(lengths)
    assert 280 <= lengths[-1] <= 324
    assert [len(plan.rungs) for plan in plans] == sorted(len(plan.rungs) for plan in plans)
    assert plans[-1].rungs[-1].seeds == 20


def test_where_time_is_short_arms_are_dropped_on_the_way():
    plan = make_plan(THREE, seconds=1400, epochs=None, seeds=None, workers=1)
    assert plan.halves
    assert plan.rungs[0].arms == 3
    assert plan.rungs[-1].arms == 2
    assert not make_plan(THREE, seconds=1e5, epochs=None, seeds=None, workers=1).halves
    errors = {"alone": [9.0, 9.0], "kd": [8.0, 8.2], "one": [7.0, 9.4], "dml": []}
    assert keep_better(errors, 2) == ["alone", "kd"]
    assert keep_better(errors, 3) == ["alone", "kd", "one"]


def test_a_comparison_needs_an_end(tmp_path):
    with pytest.raises(UserError, match="needs an end; give budget=2h or epochs=60"):
        compare("resnet8", DIGITS, tmp_path / "endless")
    assert not (tmp_path / "endless").exists()
    plan = make_plan(TWO, seconds=None, epochs=64, seeds=None, workers=1)
    assert (plan.rungs[-1].epochs, plan.rungs[-1].seeds) == ({"alone": 64, "one": 40}, 5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"methods": ("oen",)}, "unknown method 'oen'; did you mean 'one'"),
        ({"methods": ("kd",)}, "needs a teacher; name a published network"),
        ({"methods": ("ensemble",)}, "delivers no network of the same size"),
        ({"methods": ("vanilla",)}, "names the network alone"),
        ({"teacher": "@runs/teacher"}, "is no published network"),
        ({"data": {"name": "digits", "validation": 0}}, "validation is 0; the best arm is chosen on validation images"),
        ({"batch_size": "many"}, "batch_size is 'many'"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_line(options, says):
    with pytest.raises(UserError) as caught:
        Question(**({"network": {"name": "resnet8"}, "data": DIGITS} | options))
    assert says in str(caught.value).replace("⟨", "").replace("⟩", "")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"epochs": 0}, "epochs is 0; use 1 or more"),
        ({"epochs": 9, "seeds": 1}, "seeds is 1; use 2 or more"),
        ({"epochs": 9, "workers": 0}, "workers is 0; use 1 or more"),
        ({"epochs": 9, "batch_size": 1}, "batch_size is 1; use 2 or more"),
        ({"epochs": 9, "precision": "bf61"}, "unknown precision 'bf61'; did you mean 'bf16'"),
        ({"budget": "soon"}, "budget='soon' is no time"),
    ],
)
def test_options_are_checked_from_python_as_from_the_shell(options, says, tmp_path, capsys):
    with pytest.raises(UserError) as caught:
        compare("resnet8", DIGITS, tmp_path / "out", **options)
    assert says in str(caught.value)
    flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    with pytest.raises(SystemExit) as ended:
        main(["compare", "--network", "resnet8", "--data", "digits", "--out", str(tmp_path / "out"), *flags])
    line = capsys.readouterr().err.splitlines()[-1]
    assert ended.value.code == 2
    assert line.startswith("coterie: ")
    assert list(options)[-1] in line
    assert not (tmp_path / "out").exists()


def test_a_script_of_ones_own_without_a_guard_is_told_so_in_a_line(tmp_path):
    script = tmp_path / "mine.py"
    script.write_text(f"import coterie\ncoterie.compare('resnet8', {DIGITS!r}, 'out', epochs=16, seeds=2)\n")
    ended = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    said = "coterie.errors.UserError: a process that tried a few steps died"
    line = next(line for line in ended.stderr.splitlines() if line.startswith(said))
    assert line.endswith("call coterie.compare under: if __name__ == '__main__'")
    assert not (tmp_path / "out").exists()


def test_the_strong_recipe_is_everybodys():
    question = Question({"name": "resnet8"}, DIGITS, teacher="timm/resnet18")
    assert list(question.methods_by_arm()) == ["alone", "one", "kd"]
    assert question.methods_by_arm()["kd"] == {"name": "kd", "teacher": "timm/resnet18"}
    assert question.common()["recipe"] == {"name": "modern"}
    assert question.configuration("one")["data"]["validation"] == 0.1
    trained = Question({"name": "timm/resnet18", "pretrained": True}, DIGITS)
    assert trained.common()["recipe"] == {"name": "finetune"}


def test_an_epoch_on_all_images_is_told_from_two_on_a_few():
    class Data:
        train, validation, test = range(1000), range(100), range(300)

    rows = [
        {"stage": "probe", "epoch": 1, "seconds": 1.0, "training_flops": 7.0},
        {"stage": "train", "epoch": 1, "seconds": 9.0, "training_flops": 10.0},
        {"stage": "train", "epoch": 2, "seconds": 2.0, "training_flops": 12.0},
    ]
    cost = cost_of(rows, Data(), 100, wall=15.0)
    assert (cost.flops, cost.fixed_flops) == (100.0, 70.0 + 20.0)
    assert cost.seconds == pytest.approx(20 * (1 + 0.1 / 3))
    assert cost.fixed_seconds == pytest.approx(10 + 20 * 0.3 / 3 + 3)


# The verdict ---------------------------------------------------------------------------------------------------------


def made(random, gains, seeds=5, noise=1.0):
    """A comparison of arms whose true gains over the network alone are these, in points."""
    frontier = Frontier("images", "net", {"alone": 1, **dict.fromkeys(gains, 1.25)}, 100, 1, judged_at="highest")
    scale = Scale(seeds, {"images": {}}, {"net": {}}, {arm: {} for arm in frontier.costs}, (), (frontier,))
    trials = []
    for seed in range(seeds):
        for arm, epochs in frontier.ladder()[0].epochs.items():
            error = 20 - gains.get(arm, 0.0) + noise * random.standard_normal()
            figures = {"error": error, "validation_error": error + noise * random.standard_normal()}
            trials.append(
                Result("images", "net", name_arm(arm, epochs), seed, measured={"target": figures}, training_flops=1e12)
            )
    return scale, Results("made", "small", trials=trials)


def named(outcome):
    """Arms of which the verdict says that they are better."""
    return [arm for arm, each in outcome.judged.judgements.items() if each.word == "better"]


def test_between_equal_arms_a_winner_is_named_in_no_more_than_one_of_twenty():
    random = np.random.default_rng(0)
    wrong = sum(bool(named(find_outcome(*made(random, {"one": 0.0, "dml": 0.0})))) for _ in range(200))
    assert wrong <= 10


def test_a_gain_of_three_points_is_found():
    random = np.random.default_rng(0)
    outcomes = [find_outcome(*made(random, {"one": 3.0, "dml": 0.0})) for _ in range(200)]
    assert sum("one" in named(outcome) for outcome in outcomes) >= 160
    assert sum(outcome.chosen == "one" for outcome in outcomes) >= 180
    assert "At equal cost method 'one' is better than the network alone: test error 1" in outcomes[0].sentences[0]


def test_the_best_network_is_chosen_by_validation_and_never_by_test():
    scale, results = made(np.random.default_rng(1), {"one": 0.0})
    best = min(results.trials, key=lambda trial: trial.figure("target", "validation_error"))
    outcome = find_outcome(scale, results)
    chosen = [trial for trial in results.trials if trial.arm.split()[0] == outcome.chosen]
    assert outcome.delivered == min(chosen, key=lambda trial: trial.figure("target", "validation_error"))
    # Other test errors choose no other network.
    swapped = [replace(each, measured={"target": each.measured["target"] | {"error": 1.0}}) for each in results.trials]
    assert find_outcome(scale, replace(results, trials=swapped)).delivered.key == outcome.delivered.key
    assert best.arm in {each.arm for each in results.trials}


def test_before_there_are_two_pairs_the_best_so_far_is_delivered():
    scale, results = made(np.random.default_rng(2), {"one": 0.0})
    few = replace(results, trials=[each for each in results.trials if each.seed == 0])
    outcome = find_outcome(scale, few)
    assert outcome.delivered == min(few.trials, key=lambda trial: trial.figure("target", "validation_error"))
    assert outcome.sentences[0].startswith("Too little was trained to tell trainings apart; the best so far")
    assert find_outcome(scale, replace(results, trials=[])) is None


@pytest.mark.parametrize(
    ("train_samples", "given", "batch_size"),
    [(400, {}, 16), (1000, {}, 32), (100, {}, 16), (400, {"batch_size": 128}, 128)],
)
def test_an_epoch_has_twenty_steps_where_no_batch_size_is_given(train_samples, given, batch_size):
    images = {"name": "digits", "train_samples": train_samples, "validation": 0.1}
    question = Question({"name": "resnet8"}, images, **given)
    probed = probe_arm(question.configuration("alone"))
    assert not isinstance(probed, str), probed
    assert probed[2] == batch_size


def test_every_training_has_the_batch_that_was_found(tmp_path):
    plan = make_plan(TWO, seconds=None, epochs=16, seeds=2, workers=1)
    study = write_study(tmp_path / "study.yaml", Question({"name": "resnet8"}, DIGITS), TWO, 16, plan)
    assert {trial.configuration["batch_size"] for trial in study.scale("small").trials()} == {16}


# The whole of it -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    out = tmp_path_factory.mktemp("compared") / "comparison"
    outcome = compare("resnet8", DIGITS, out, epochs=16, seeds=2, batch_size=32, workers=2)
    return out, outcome


def test_a_comparison_ends_with_a_verdict_that_its_files_repeat(compared):
    out, outcome = compared
    state, results = json.loads((out / "comparison.json").read_text()), load_results(out / "results.json")
    scale = load_study(str(out / "study.yaml")).scale("small")
    assert not [trial for trial in results.trials if trial.failed]
    again = find_outcome(scale, results)
    assert json.loads(json.dumps(again.to_json())) == state["verdict"] == json.loads(json.dumps(outcome.to_json()))
    assert set(state["verdict"]["arms"]) == {"one"}
    page = (out / "page.html").read_text()
    for sentence in state["verdict"]["sentences"]:
        assert sentence.replace("'", "&#39;") in page
    assert "Error against cost: resnet8 on digits" in page


def test_a_comparison_that_was_moved_draws_its_page_again(compared, tmp_path):
    moved = shutil.copytree(compared[0], tmp_path / "moved")
    main(["report", str(moved / "results.json"), "--out", str(tmp_path / "again.html")])
    assert "Error against cost: resnet8 on digits" in (tmp_path / "again.html").read_text()


def test_all_cost_the_same_and_the_strong_recipe_was_used(compared):
    out, outcome = compared
    assert not outcome.judged.uneven
    trials = load_results(out / "results.json").trials
    strengths = {
        trial.configuration["epochs"] for trial in trials if trial.configuration["method"]["name"] == "vanilla"
    }
    assert {trial.configuration["recipe"]["strength_epochs"] for trial in trials} == strengths
    for trial in trials:
        assert trial.configuration["recipe"]["name"] == "modern"
        assert trial.configuration["data"]["validation"] == 0.1


def test_the_chosen_network_is_a_run_like_any_other(compared):
    out, outcome = compared
    run = coterie.Run(out / "network")
    assert run.card["method"] == {"alone": "vanilla", "one": "one"}[outcome.chosen]
    measured = outcome.delivered.measured["target"]["error"]
    assert measured in [figures["error"] for figures in run.card["test"].values()]
    assert not (out / "network" / "checkpoints").exists()


def test_the_same_call_trains_nothing_again_and_another_is_refused(compared):
    out, outcome = compared
    before = (out / "results.json").read_bytes()
    again = compare("resnet8", DIGITS, out, epochs=16, seeds=2, batch_size=32, workers=2)
    assert again.to_json() == outcome.to_json()
    assert (out / "results.json").read_bytes() == before
    with pytest.raises(UserError, match="holds a comparison with other options"):
        compare("resnet8", DIGITS, out, epochs=17, seeds=2, batch_size=32)
    with pytest.raises(UserError, match="holds no comparison"):
        compare("resnet8", DIGITS, out.parent, epochs=16)


def test_what_is_stopped_shows_what_it_has_and_goes_on(compared, tmp_path):
    whole, outcome = compared
    out = tmp_path / "stopped"
    question = Question({"name": "resnet8"}, DIGITS, batch_size=32)
    first = Comparison(question, Limits(epochs=16, seeds=2), out)
    first.folder.write_state(first.state)
    first.state.costs = Comparison(question, Limits(epochs=16, seeds=2), whole).state.costs
    results = first.run()
    began = next(results)
    results.close()
    assert (out / "page.html").is_file()
    assert len(load_results(out / "results.json").trials) >= 1
    second = Comparison(question, Limits(epochs=16, seeds=2), out)
    rest = [result.key for result in second.run()]
    assert began.key not in rest
    assert second.outcome.to_json() == outcome.to_json()


def test_a_comparison_that_goes_on_knows_what_was_measured_before(compared):
    out, _ = compared
    comparison = Comparison(Question({"name": "resnet8"}, DIGITS, batch_size=32), Limits(epochs=16, seeds=2), out)
    assert list(comparison.run()) == []
    assert comparison.state.dropped == {}
    study = load_study(str(out / "study.yaml"))
    progress = comparison._progress(study, study.scale("small").trials())
    rung = comparison.plan.rungs[0]
    errors = validation_errors(progress.results, "digits", "resnet8", rung.epochs)
    assert {arm: len(each) for arm, each in errors.items()} == {"alone": 2, "one": 2}


def limited(seconds):
    return Limits(budget=f"{seconds:.3f}s", epochs=16, seeds=2)


def test_trainings_that_would_not_end_in_time_are_not_begun(compared):
    out, _ = compared
    comparison = Comparison(Question({"name": "resnet8"}, DIGITS, batch_size=32), Limits(epochs=16, seeds=2), out)
    rung = comparison.plan.rungs[-1]
    trials = load_study(str(out / "study.yaml")).scale("small").trials()
    top = [trial for trial in trials if trial.arm in {name_arm(arm, epochs) for arm, epochs in rung.epochs.items()}]
    assert comparison._in_time(top, rung) == top
    comparison.state.limits = limited(comparison.used + 5 + max(rung.seconds.values()) + 1)
    assert comparison._in_time(top, rung) == top
    comparison.pace = [2.0]
    assert comparison._in_time(top, rung) == []
    # A seed of which one arm would be late is not begun at all: without its pair it tells nothing.
    comparison.pace = [1.0]
    comparison.state.limits = limited(
        comparison.used + 5 + (min(rung.seconds.values()) + max(rung.seconds.values())) / 2
    )
    assert comparison._in_time(top, rung) == []
