"""The runner: what is missing is run, teachers first; what fails does not stop the rest; what is stopped goes on."""

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import BrokenExecutor, Executor, Future, wait
from dataclasses import replace
from functools import partial

import pytest

from coterie.cli import main
from coterie.cli.study import _left
from coterie.console.interrupt import Worker
from coterie.errors import UserError
from coterie.methods import Hooks
from coterie.metrics import read_metrics
from coterie.studies import runner
from coterie.studies.experiments import EXPERIMENTS
from coterie.studies.pools import RayExecutor, describe_machine, make_process_pool
from coterie.studies.reading import load_study
from coterie.studies.results import Result, Results, load_results, save_results
from coterie.studies.study import locate_run
from coterie.studies.trial import command_of, run_trial
from coterie.training import Interrupted
from coterie.training.together import Together
from test_studies_study import SMALL, write
from toys import Mutual
from toys import go as train


class Here(Executor):
    """Runs functions when they are waited for; those of some trials die, so many times, and all that run with them.

    Args:
        deaths: How often, by the trial's name.
        refusals: Which attempts to submit find the processes dead, from 0 up.
    """

    def __init__(self, deaths=(), refusals=()):
        self.deaths, self.refusals, self.attempts, self.broken = dict(deaths), refusals, 0, True
        self.running, self.rounds = [], []

    def new(self):
        self.broken = False
        return self

    def submit(self, function, trial, *given):
        self.broken = self.broken or self.attempts in self.refusals
        self.attempts += 1
        if self.broken:
            raise BrokenExecutor("a process died")
        future = Future()
        self.running.append((future, trial.name, partial(function, trial, *given)))
        return future

    def wait(self, futures, return_when):
        names = [name for _, name, _ in self.running]
        self.rounds += [names] if names else []
        died = next((name for name in names if self.deaths.get(name, 0) > 0), None)
        if died is not None:
            self.deaths[died] -= 1
            self.broken = True
        for future, _, run in self.running:
            if died is None:
                future.set_result(run())
            else:
                future.set_exception(BrokenExecutor("a process died"))
        self.running.clear()
        return wait(futures, return_when=return_when)


def progress(tmp_path, **changes):
    study = load_study(write(tmp_path / "s.yaml", **changes))
    runs = tmp_path / "runs"
    trials = study.scale("small").trials()
    return runner.Progress(tmp_path / "results.json", Results("s", "small", "coterie study s"), trials, runs)


def go(kept, pool=None, only=""):
    pool = pool or Here()
    todo = kept.missing([trial for trial in kept.trials if only in trial.name])
    pools = getattr(pool, "new", lambda: pool)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "wait", getattr(pool, "wait", wait))
        return {"/".join(map(str, r.key)): r for r in runner.Scheduler(kept, todo, pools, 2).run()}


@pytest.fixture
def half(tmp_path):
    """A study of one seed without analyses."""
    tables = [{k: v for k, v in SMALL["tables"][0].items() if k != "minutes"}]
    return {"seeds": 1, "tables": tables}


def test_a_study_is_trained_measured_and_written(tmp_path, half):
    kept = progress(tmp_path, small=half)
    found = go(kept)
    assert set(found) == {"digits/resnet14/alone/0", "digits/resnet8/alone/0", "digits/resnet8/kd/0"}
    assert list(found)[-1] == "digits/resnet8/kd/0"  # its teacher first
    saved = load_results(tmp_path / "results.json")
    assert [trial.arm for trial in saved.trials] == ["alone", "kd", "alone"]  # in the study's order
    teacher, taught, alone = saved.trials
    run = locate_run(kept.trials[1], kept.runs)
    assert (run / "model.safetensors").is_file()
    assert 0 < taught.measured["target"]["error"] <= 100
    assert taught.measured["target"].keys() >= {"nll", "ece", "train_error"}
    assert taught.cost["target"] == alone.cost["target"] != teacher.cost["target"]
    # What the teacher's training cost is part of what the student's cost.
    assert taught.training_flops > teacher.training_flops + alone.training_flops
    assert saved.machine.endswith("no GPU") or "cores" in saved.machine
    assert kept.missing(kept.trials) == []


def test_what_is_done_in_this_configuration_is_not_run_again(tmp_path, half):
    go(progress(tmp_path, small=half), only="alone")
    again = progress(tmp_path, small=half)
    assert [trial.name for trial in again.missing(again.trials)] == ["digits/resnet8/kd/0"]
    longer = {"alone": SMALL["arms"]["alone"] | {"epochs": 2}, "kd": SMALL["arms"]["kd"]}
    other = progress(tmp_path, small=half | {"arms": longer})
    assert len(other.missing(other.trials)) == 3  # the student of another teacher is another student
    go(other, only="resnet8/alone")
    assert [trial.configuration["epochs"] for trial in load_results(tmp_path / "results.json").trials] == [2]
    go(progress(tmp_path, small=half), only="alone")
    analysed = progress(tmp_path, small=half | {"tables": [half["tables"][0] | {"measures": ["generalisation"]}]})
    assert [trial.name for trial in analysed.missing(analysed.trials) if trial.arm == "alone"][
        -1
    ] == "digits/resnet8/alone/0"


def test_curves_are_of_the_training_that_gave_the_figures(tmp_path, half):
    tables = [half["tables"][0] | {"networks": ["resnet8"], "arms": ["alone"], "measures": ["curves"]}]
    arms = {"alone": SMALL["arms"]["alone"] | {"epochs": 3}}
    (blind,) = go(progress(tmp_path, small=half | {"tables": tables, "arms": arms})).values()
    assert blind.failed.startswith("its table measures curves; give 'test_every'")
    arms["alone"]["test_every"] = 1
    (found,) = go(progress(tmp_path, small=half | {"tables": tables, "arms": arms})).values()
    curve = found.curves["target"]
    assert [[epoch for epoch, _ in curve[metric]] for metric in ("train_error", "test_error")] == [[1, 2, 3]] * 2
    assert curve["test_error"][-1][1] == pytest.approx(found.measured["target"]["error"])
    assert curve["train_error"][-1][1] == found.measured["target"]["train_error"]


def test_a_teacher_whose_run_is_gone_is_trained_again(tmp_path, half):
    kept = progress(tmp_path, small=half)
    go(kept, only="alone")
    (locate_run(kept.trials[0], kept.runs) / "model.json").unlink()
    assert [trial.name for trial in kept.missing(kept.trials)] == ["digits/resnet14/alone/0", "digits/resnet8/kd/0"]


def test_a_failed_trial_says_why_and_stops_only_those_who_learn_from_it(tmp_path, half):
    arms = SMALL["arms"] | {
        "alone": {"method": {"name": "vanilla"}, "batch_size": 9999},
        "plain": SMALL["arms"]["alone"],
    }
    tables = [half["tables"][0] | {"arms": ["kd", "alone", "plain"]}]
    found = go(progress(tmp_path, small=half | {"arms": arms, "tables": tables}))
    assert found["digits/resnet8/alone/0"].failed.startswith("batch_size is 9999")
    assert found["digits/resnet8/kd/0"].failed == "its teacher failed: digits/resnet14/alone/0"
    assert found["digits/resnet8/plain/0"].failed is None
    again = progress(tmp_path, small=half | {"arms": arms, "tables": tables})
    assert len(again.missing(again.trials)) == 3  # what failed is tried again


def test_a_process_that_dies_once_costs_nothing_and_twice_only_its_trial(tmp_path, half):
    pool = Here({"digits/resnet14/alone/0": 1, "digits/resnet8/alone/0": 2})
    found = go(progress(tmp_path, small=half), pool)
    assert found["digits/resnet14/alone/0"].failed is None
    assert found["digits/resnet8/kd/0"].failed is None
    assert found["digits/resnet8/alone/0"].failed.startswith("its process died twice")
    small, large, taught = "digits/resnet8/alone/0", "digits/resnet14/alone/0", "digits/resnet8/kd/0"
    assert pool.rounds == [[large, small], [large], [small], [taught]]


def test_processes_that_are_found_dead_cost_no_trial_a_try(tmp_path, half):
    # The second trial finds them dead before the first one's answer says so; the last one, when nothing runs.
    pool = Here({"digits/resnet14/alone/0": 1}, refusals=[1, 3])
    found = go(progress(tmp_path, small=half), pool)
    assert [result.failed for result in found.values()] == [None, None, None]
    small, large, taught = "digits/resnet8/alone/0", "digits/resnet14/alone/0", "digits/resnet8/kd/0"
    assert pool.rounds == [[large], [large], [taught, small]]


def test_every_training_that_a_trial_learned_from_is_counted_once(tmp_path, half):
    arms = SMALL["arms"] | {
        "kd": {"method": {"name": "kd", "teacher": "@alone"}},
        "again": {"method": {"name": "kd", "teacher": "@kd"}},
        "both": {"method": {"name": "kd", "teacher": ["@alone", "@kd"]}},
    }
    tables = [half["tables"][0] | {"arms": ["again", "both"]}]
    kept = progress(tmp_path, small=half | {"arms": arms, "tables": tables})
    trials = {trial.arm: trial for trial in kept.trials}

    def trained(arm, flops):
        kept.add(Result(*trials[arm].key, training_flops=flops))

    trained("alone", 100.0)
    assert kept.taught(trials["alone"]) == 0
    assert kept.taught(trials["kd"]) == 100
    trained("kd", 200.0)
    assert kept.taught(trials["again"]) == kept.taught(trials["both"]) == 200
    trained("alone", None)
    assert [kept.taught(trials[arm]) for arm in ("kd", "again", "both")] == [None] * 3


def test_what_learned_from_an_uncounted_training_is_uncounted(tmp_path, half):
    go(progress(tmp_path, small=half), only="alone")
    saved = load_results(tmp_path / "results.json")
    save_results(
        tmp_path / "results.json",
        replace(saved, trials=[replace(trial, training_flops=None) for trial in saved.trials]),
    )
    (found,) = go(progress(tmp_path, small=half)).values()
    assert found.failed is found.training_flops is None


def test_a_file_names_all_that_made_it(tmp_path, half):
    path = tmp_path / "results.json"
    go(progress(tmp_path, small=half), only="resnet14")
    here = load_results(path)
    save_results(path, replace(here, version="0.0.9", torch="2.0", machine="a laptop; a server"))
    go(progress(tmp_path, small=half), only="alone")
    go(progress(tmp_path, small=half))
    both = load_results(path)
    assert both.version == f"0.0.9; {here.version}"
    assert both.torch == f"2.0; {here.torch}"
    assert both.machine == f"a laptop; a server; {describe_machine()}"
    other = progress(tmp_path, small=half | {"common": SMALL["common"] | {"epochs": 2}})
    assert other.results.machine == here.machine  # nothing is kept of what the others made


def test_two_commands_do_not_write_one_file(tmp_path, half, capsys):
    first, second = progress(tmp_path, small=half), progress(tmp_path, small=half)
    line = ["study", str(tmp_path / "s.yaml"), "--out", str(second.path), "--runs", str(second.runs)]
    with first.alone():
        assert {each.name for each in tmp_path.iterdir()} == {"s.yaml", ".results.json.lock"}
        main([*line, "--plan"])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(line)
        said = capsys.readouterr().err
        assert stop.value.code == 2
        assert f"coterie: --out {second.path}: another coterie study is writing it; wait for it, or" in said
    assert {each.name for each in tmp_path.iterdir()} == {"s.yaml"}
    go(first, only="resnet14")
    # What the first command wrote is neither lost nor run again by one that had read the file before.
    assert list(go(second, only="alone")) == ["digits/resnet8/alone/0"]
    assert [trial.network for trial in load_results(second.path).trials] == ["resnet14", "resnet8"]
    (tmp_path / ".results.json.lock").touch()  # of a command that was killed
    assert list(go(second)) == ["digits/resnet8/kd/0"]
    assert not (tmp_path / ".results.json.lock").exists()


def test_a_pretrained_network_sees_the_images_that_its_command_shows_it(tmp_path, half, monkeypatch):
    data = {"digits": SMALL["data"]["digits"] | {"channels": 3, "std": [0.5]}}
    network = {"resnet8": {"name": "timm/resnet18.a1_in1k", "pretrained": True}}
    tables = [half["tables"][0] | {"arms": ["alone"]}]
    arms = {"alone": SMALL["arms"]["alone"]}
    (trial,) = progress(
        tmp_path, small=half | {"data": data, "networks": network, "arms": arms, "tables": tables}
    ).trials
    seen = []

    def stop(method, data, **options):
        seen.append(data)
        raise UserError("seen")

    monkeypatch.setattr("coterie.studies.trial.train", stop)
    monkeypatch.setattr("coterie.cli.train.train", stop)
    assert run_trial(trial, tmp_path).failed == "seen"
    with pytest.raises(SystemExit):
        main(shlex.split(command_of(trial, tmp_path))[1:])
    study, line = seen
    assert study.options == line.options
    assert study.mean == line.mean == pytest.approx((0.485, 0.456, 0.406))
    assert study.std == line.std == (0.5, 0.5, 0.5)  # what is said wins


def test_an_experiment_is_repeated_by_its_study(tmp_path, half):
    arms = {"theory-1": {"experiment": {"name": "no such"}}}
    tables = [half["tables"][0] | {"networks": ["resnet8"], "arms": ["theory-1"]}]
    kept = progress(tmp_path, small=half | {"arms": arms, "tables": tables})
    (found,) = go(kept).values()
    assert found.failed.startswith("unknown experiment 'no such'")
    (saved,) = load_results(tmp_path / "results.json").trials
    shown = shlex.split(saved.command)
    assert shown[:4] == ["coterie", "study", "s", "--only"]
    assert [trial.name for trial in kept.trials if re.search(shown[-1], trial.name)] == ["digits/resnet8/theory-1/0"]


def test_another_studys_file_is_refused(tmp_path, half):
    go(progress(tmp_path, small=half), only="alone")
    with pytest.raises(UserError, match="holds s at scale small; name another file for s, scale paper"):
        runner.Progress(tmp_path / "results.json", Results("s", "paper"), [], tmp_path)


@pytest.mark.libraries
def test_a_ray_cluster_runs_a_study(tmp_path, half, monkeypatch):
    import ray

    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "300")  # a busy machine starts it slowly
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    before = signal.getsignal(signal.SIGTERM)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        signal.signal(signal.SIGTERM, before)  # Ray's own would outlive the test
        cluster = RayExecutor("local")
        assert signal.getsignal(signal.SIGTERM) is before
        assert cluster.workers == 2
        found = go(progress(tmp_path, small=half), cluster)
    finally:
        ray.shutdown()
    assert [result.failed for result in found.values()] == [None, None, None]
    assert found["digits/resnet8/kd/0"].measured["target"]["error"] <= 100


@pytest.fixture
def worker(monkeypatch):
    """This process as a worker of a pool."""
    made = Worker()
    monkeypatch.setattr("coterie.studies.trial.worker", made)
    before = signal.signal(signal.SIGTERM, made)
    yield made
    signal.signal(signal.SIGTERM, before)


def test_a_worker_outlives_sigterm_and_ends_its_task(tmp_path, half, worker, monkeypatch):
    arms = {"theory": {"experiment": {"name": "stopped"}}}
    tables = [half["tables"][0] | {"networks": ["resnet8"], "arms": ["theory"]}]
    (trial,) = progress(tmp_path, small=half | {"arms": arms, "tables": tables}).trials
    steps = []

    def stopped(options, seed):
        steps.append("begun")
        os.kill(os.getpid(), signal.SIGTERM)
        steps.append("went on")

    monkeypatch.setitem(EXPERIMENTS, "stopped", stopped)
    assert run_trial(trial, tmp_path) is None
    os.kill(os.getpid(), signal.SIGTERM)  # outside of a task
    assert run_trial(trial, tmp_path) is None  # one that was on its way to the worker
    assert steps == ["begun"]


def test_a_workers_training_writes_its_checkpoint_however_often_it_is_told(tmp_path, digits, worker):
    twice = Mutual(network="resnet8")
    whole = twice.stages

    def stages(task):
        def stop(done):
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)

        yield from (replace(each, hooks=Hooks(after_step=stop)) for each in whole(task))

    twice.stages = stages
    with pytest.raises(Interrupted), worker.task():
        train(twice, digits, tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "last.safetensors").is_file()
    assert worker.asked == signal.SIGTERM


SLOW = {"method": {"name": "vanilla"}, "epochs": 60, "batch_size": 320}


def slow(tmp_path, half, **arms):
    """A study of a training with few long epochs, beside other arms."""
    data = {"digits": {"name": "digits"}}
    tables = [half["tables"][0] | {"networks": ["resnet56"], "arms": [*arms, "slow"]}]
    networks = {"resnet56": {"name": "resnet56"}}
    return progress(
        tmp_path, small=half | {"data": data, "networks": networks, "arms": arms | {"slow": SLOW}, "tables": tables}
    )


def begun(kept):
    """The folder of the slow training, when it has begun."""
    path, deadline = locate_run(kept.trials[-1], kept.runs), time.monotonic() + 120
    while not (path / "config.yaml").is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    return path


def is_kept(path):
    return (path / "checkpoints" / "last.safetensors").is_file() and not (path / "model.json").exists()


def test_a_stop_keeps_a_training_whatever_else_runs(tmp_path, half):
    endless = {"name": "multiview-gaussian", "epochs": 10**6, "samples": 100, "members": 2, "students": 1}
    kept = slow(tmp_path, half, theory={"experiment": endless})
    stopping = threading.Thread(target=lambda: (begun(kept), os.kill(os.getpid(), signal.SIGTERM)))
    stopping.start()
    with pytest.raises(runner.Stopped):
        list(runner.Scheduler(kept, kept.trials, partial(make_process_pool, 2), 2).run())
    stopping.join()
    assert is_kept(begun(kept))
    assert not kept.path.exists()


def test_a_stop_while_a_result_is_read_keeps_a_training_beside_an_idle_process(tmp_path, half):
    kept = slow(tmp_path, half, quick={"experiment": {"name": "no such"}})
    results = runner.Scheduler(kept, kept.trials, partial(make_process_pool, 2), 2).run()
    assert next(results).arm == "quick"
    path = begun(kept)
    results.close()
    assert is_kept(path)


def test_trials_that_take_turns_in_one_process_measure_the_same(tmp_path, half):
    for folder in ("alone", "together"):
        (tmp_path / folder).mkdir()
    alone = go(progress(tmp_path / "alone", small=half))
    together = go(progress(tmp_path / "together", small=half), Together())
    assert set(together) == set(alone)
    for name, result in together.items():
        assert result.failed is None
        assert (result.measured, result.training_flops) == (alone[name].measured, alone[name].training_flops)


def test_the_names_of_what_runs_are_shown(tmp_path, half):
    kept, pool, shown = progress(tmp_path, small=half), Here(), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "wait", pool.wait)
        show = lambda trials: shown.append([trial.name for trial in trials])  # noqa: E731
        list(runner.Scheduler(kept, kept.missing(kept.trials), pool.new, 2, show).run())
    small, large, taught = "digits/resnet8/alone/0", "digits/resnet14/alone/0", "digits/resnet8/kd/0"
    assert shown == [[large, small], [taught]]


def test_what_is_left_goes_by_the_studys_minutes_then_by_the_pace(tmp_path, half):
    trials = progress(tmp_path, small=half | {"tables": SMALL["tables"][:1]}).trials  # of 1, 3 and 1 minutes
    assert sum(trial.minutes for trial in trials) == 5
    assert _left(trials, set(), 2, 0.0) == "about 2 min left"
    (taught,) = (trial for trial in trials if trial.minutes == 3)
    assert _left(trials, {taught.key}, 2, 540.0) == "about 6 min left"
    assert _left(trials, {trial.key for trial in trials}, 2, 540.0) == "less than a minute left"


def test_a_study_that_is_stopped_goes_on_and_ends_the_same(tmp_path, half):
    common = SMALL["common"] | {"epochs": 12, "batch_size": 16}
    small = half | {"common": common, "tables": [half["tables"][0] | {"arms": ["alone"]}]}
    file, runs = write(tmp_path / "s.yaml", small=small), tmp_path / "cut" / "runs"
    line = ["study", file, "--workers", "1", "--out", str(tmp_path / "cut.json"), "--runs", str(runs)]
    process = subprocess.Popen([sys.executable, "-m", "coterie.cli", *line], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(runs.glob("*/checkpoints/last.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 2
    assert "the same command goes on" in said
    assert not list(runs.glob("*/model.json"))
    (trial,) = load_study(file).scale("small").trials()
    resumed = run_trial(trial, runs)
    whole = run_trial(trial, tmp_path / "whole")
    assert len(read_metrics(locate_run(trial, runs) / "metrics.csv")) == 12
    assert resumed.measured == whole.measured
    assert resumed.training_flops == whole.training_flops


def test_the_plan_says_what_is_to_run_and_runs_nothing(tmp_path, half, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["study", write(tmp_path / "s.yaml", small=half | {"tables": SMALL["tables"]}), "--plan"])
    said = capsys.readouterr().out
    assert "core-minutes" in said
    assert "5.0" in said  # 3 for kd, 1 for each of the network alone and the teacher
    assert not (tmp_path / "runs").exists()
    assert list(tmp_path.glob("*.json")) == []


def test_wrong_options_of_a_study_are_one_line(tmp_path, half, capsys):
    file = write(tmp_path / "s.yaml", small=half)
    for line, message in (
        ([file, "--only", "cifar"], "--only cifar: no trial of study 's'; trials are named as digits/resnet14/alone/0"),
        ([file, "--workers", "0"], "--workers is 0; use 1 or more"),
        ([file, "--sweep"], "unknown option --sweep"),
        ([file, "--scale", "large"], "unknown scale of study 's' 'large'"),
        (["oen"], "unknown study 'oen'; did you mean 'one'"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["study", *line])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err


def test_options_and_files_that_no_study_runs_with_are_one_line(tmp_path, half, capsys):
    file = write(tmp_path / "s.yaml", small=half)
    short = write(tmp_path / "short.yaml", small=half | {"common": {}})
    for line, message in (
        ([file, "--seeds", "0"], "--seeds is 0; use 1 or more"),
        (
            [file, "--seeds", "1", "--only", "/1$"],
            "--only /1$: no trial of study 's' with --seeds 1; trials are named as",
        ),
        ([write(tmp_path / "none.yaml", small=half | {"seeds": 0}), "--plan"], "seeds is 0; use 1 or more"),
        ([short, "--plan"], f"coterie: {short}: arm 'alone' has no epochs on 'digits'"),
        ([short, "--smoke"], f"coterie: {short}: arm 'alone' has no epochs on 'digits'"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["study", *line])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
