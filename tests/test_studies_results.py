import errno
import json
from dataclasses import replace

import pytest

from coterie import UserError
from coterie.studies.results import Result, Results, load_results, lock_results, save_results, unit_of

TRIAL = Result(
    "glyphs",
    "resnet8",
    "one",
    0,
    configuration={"method": {"name": "one"}, "seed": 0},
    command="coterie train --config c.yaml",
    measured={"target": {"error": 21.25, "nll": None}, "ensemble": {"error": 20.0}},
    curves={"target": {"test_error": [[4, 60.5], [40, 21.25]]}},
    cost={"target": {"parameters": 78042, "flops": 24600000}},
    training_flops=1.2e13,
    seconds=40.2,
)
FAILED = Result("glyphs", "resnet8", "one", 1, failed="killed: out of memory")
RESULTS = Results("one", "small", "coterie study one", "0.1.0", "2.14.1", "two cores", [TRIAL, FAILED])


def test_results_come_back_as_they_were_a_trial_on_a_line(tmp_path):
    path = tmp_path / "one.json"
    save_results(path, RESULTS)
    assert load_results(path) == RESULTS
    assert json.loads(path.read_text())["trials"][1]["failed"] == "killed: out of memory"
    lines = path.read_text().splitlines()
    assert sum('"data": "glyphs"' in line for line in lines) == 2
    assert [each.name for each in tmp_path.iterdir()] == ["one.json"]


def test_what_is_not_finite_is_null_and_no_figure(tmp_path):
    trial = replace(TRIAL, measured={"target": {"error": float("nan"), "nll": float("inf")}})
    assert trial.figure("target", "error") is None
    save_results(tmp_path / "r.json", replace(RESULTS, trials=[trial]))
    assert "NaN" not in (tmp_path / "r.json").read_text()
    (back,) = load_results(tmp_path / "r.json").trials
    assert back.measured == {"target": {"error": None, "nll": None}}
    assert TRIAL.figure("target", "error") == 21.25
    assert TRIAL.figure("target", "nll") is TRIAL.figure("leader", "error") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not valid JSON"),
        ("[]", "results is []; write a mapping"),
        ('{"study": "one", "trials": []}', "results: 'scale' is missing"),
        ('{"study": "one", "scale": "small", "trials": {}}', "results, trials is {}; write a list"),
        ('{"study": "one", "scale": "small", "trials": [3]}', "results, trials, item 1 is 3; write a mapping"),
        (
            '{"study": "one", "scale": "small", "trials": [{"data": "d"}]}',
            "results, trials, item 1: 'network' and 'arm' and 'seed' are missing",
        ),
        ('{"study": "one", "scale": "small", "trials": [], "runs": 1}', "unknown key of results 'runs'"),
    ],
)
def test_another_file_is_refused_in_one_line_that_names_it(tmp_path, text, said):
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_results(path)
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"seed": "0"}, "seed is '0'; write a whole number"),
        ({"seed": True}, "seed is True; write a whole number"),
        ({"measured": {"target": 3}}, "measured, target is 3; write a mapping"),
        ({"measured": {"target": {"error": "3"}}}, "measured, target, error is '3'; write a number"),
        ({"failed": 1}, "failed is 1; write text"),
        ({"curves": {"target": 3}}, "curves, target is 3; write a mapping"),
        ({"curves": {"target": {"test_error": [[1, "2"]]}}}, "curves, target, test_error, item 1, item 2 is '2'"),
    ],
)
def test_a_wrong_trial_is_named(tmp_path, changed, said):
    trial = {"data": "d", "network": "n", "arm": "r", "seed": 0} | changed
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"study": "one", "scale": "small", "trials": [trial]}))
    with pytest.raises(UserError, match="trials, item 1") as caught:
        load_results(path)
    assert said in str(caught.value)


def test_a_trial_that_is_there_twice_is_refused(tmp_path):
    save_results(tmp_path / "r.json", replace(RESULTS, trials=[TRIAL, TRIAL]))
    with pytest.raises(UserError, match="glyphs/resnet8/one/0 is there twice"):
        load_results(tmp_path / "r.json")


def test_no_file_is_said_so(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_results(tmp_path / "none.json")


def test_a_lock_that_its_holder_removed_meanwhile_is_taken_anew(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    path, mark, lock, locked = tmp_path / "r.json", tmp_path / ".r.json.lock", fcntl.flock, []

    def flock(*given):
        lock(*given)
        locked.append(given)
        if len(locked) == 1:
            mark.unlink()

    monkeypatch.setattr(fcntl, "flock", flock)
    with lock_results(path):
        assert len(locked) == 2
        with pytest.raises(UserError, match="another coterie study is writing it"), lock_results(path):
            pass
        assert mark.exists()
    assert not mark.exists()


def test_where_files_have_no_locks_a_study_runs_without(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def flock(*given):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with lock_results(tmp_path / "r.json"), lock_results(tmp_path / "r.json"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"), lock_results(tmp_path / "file" / "r.json"):
        pass


def test_percentages_differ_by_points():
    for metric in ("error", "single_view_error", "flatness_0.3", "generalisation_gap", "disagreement", "gain"):
        assert unit_of(metric) == " points"
    for metric in ("nll", "ece", "flatness_nll_0.3", "error_correlation", "member_divergence", "nll_gap"):
        assert unit_of(metric) == ""
