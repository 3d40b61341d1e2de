"""Processes beside each other, and what ends them: locks, signals, full disks, folders that go."""

import multiprocessing
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
from safetensors import SafetensorError

import coterie
from coterie.cli import main
from coterie.errors import UserError
from coterie.files import locked, replacing, user_path
from coterie.methods import Hooks, Vanilla
from coterie.studies import pools
from test_studies_study import write
from toys import Mutual, go

TRAIN = ["train", "--network", "resnet8", "--data", "digits", "--data.train_samples", "200", "--batch_size", "50"]


def shell(*words, **options):
    command = [sys.executable, "-m", "coterie", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **options)


def until(condition, seconds=100):
    """Wait until something holds; False if it never does."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def alone(**options):
    return Vanilla(network="resnet8", **options)


# Locks


def test_a_lock_keeps_others_out_goes_with_its_process_and_leaves_nothing(tmp_path):
    mark = tmp_path / "new" / "run" / ".lock"
    with locked(mark, "x: taken") as held:
        assert held()
        with pytest.raises(UserError, match="x: taken"), locked(mark, "x: taken"):
            pass
        assert held()
    assert list(tmp_path.iterdir()) == []
    code = (
        "import os, pathlib, sys; from coterie.files import locked\n"
        "lock = locked(pathlib.Path(sys.argv[1]), ''); lock.__enter__(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(mark)], check=False).returncode == 9
    assert mark.exists()  # as after SIGKILL
    with locked(mark, "x: taken") as held:
        mark.unlink()
        assert not held()
        mark.touch()  # another's
        assert not held()
    assert mark.exists()


def test_two_trainings_into_one_folder_exclude_each_other(tmp_path, digits):
    out, said = tmp_path / "run", []
    method = Mutual(network="resnet8")
    stages = method.stages

    def beside(done):
        """While the first trains, a second tries."""
        for resume in (False, True) if not said else ():
            try:
                coterie.train(alone(), digits, epochs=1, out=out, resume=resume, progress=False)
            except UserError as error:
                said.append(str(error))

    method.stages = lambda task: (replace(stage, hooks=Hooks(after_step=beside)) for stage in stages(task))
    run = go(method, digits, out, epochs=1)
    assert said == [f"{out}: another coterie command trains into it; wait for it, or choose another out"] * 2
    assert run.config["method"]["name"] == run.card["method"] == "mutual"
    assert ".lock" not in files_in(out)


def test_two_commands_begun_together_leave_one_whole_run(tmp_path):
    out = tmp_path / "run"
    both = [shell(*TRAIN, "--seed", seed, "--epochs", 1, "--out", out) for seed in (1, 2)]
    said = [process.communicate(timeout=150)[1] for process in both]
    codes = [process.returncode for process in both]
    assert sorted(codes) == [0, 2]
    winner = codes.index(0)
    assert said[1 - winner].count("\n") == 1
    assert said[1 - winner].startswith(f"coterie: {out}: ")
    run = coterie.Run(out)
    assert run.config["seed"] == winner + 1
    assert not list(out.rglob(".*"))


def test_a_checkpoint_is_read_by_resume_alone(tmp_path, digits, monkeypatch):
    with pytest.raises(coterie.Interrupted):
        go(Mutual(network="resnet8", stop=3), digits, tmp_path / "cut")
    shutil.copytree(tmp_path / "cut" / "checkpoints", tmp_path / "late" / "checkpoints")
    # One that appears between the look at the folder and the training.
    monkeypatch.setattr(import_module("coterie.training.loop"), "previous_configuration", lambda *given: None)
    run = go(Mutual(network="resnet8"), digits, tmp_path / "late", epochs=1)
    assert [row["epoch"] for row in run.metrics] == [1]


def test_two_exports_to_one_file_exclude_each_other(tmp_path, finished, monkeypatch):
    out, said = tmp_path / "m.safetensors", []
    deploy = import_module("coterie.deploy.formats.weights")
    load = deploy.load_weights

    def beside(*given):
        if not said:
            with pytest.raises(UserError) as refused:
                coterie.export(finished, "safetensors", out)
            said.append(str(refused.value))
        load(*given)

    monkeypatch.setattr(deploy, "load_weights", beside)
    coterie.export(finished, "safetensors", out)
    assert said == [f"{out}: another coterie command is writing it; wait for it, or choose another out"]
    assert not list(tmp_path.glob(".*"))


# Signals


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_while_a_command_starts_is_one_line(name, tmp_path):
    for seconds in (0.4, 1.2):
        process = shell(*TRAIN, "--out", tmp_path / "my run")
        time.sleep(seconds)
        process.send_signal(signal.Signals[name])
        said = process.communicate(timeout=60)[1].strip()
        assert process.returncode == 128 + signal.Signals[name]
        assert said.startswith(f"stopped by {name}; go on with: coterie train --network resnet8")
        assert said.endswith(f"--out '{tmp_path}/my run' --resume")
        assert "\n" not in said
    assert not (tmp_path / "my run").exists()


def test_a_second_signal_is_one_line_and_the_folder_is_gone_on_with(tmp_path):
    out = tmp_path / "run"
    process = shell(*TRAIN, "--epochs", 500, "--out", out)
    assert until(lambda: (out / "metrics.csv").is_file())
    for _ in range(3):
        process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + signal.SIGTERM
    assert said.count("stopped by SIGTERM") == 1
    assert "Traceback" not in said
    assert not [name for name in files_in(out) if Path(name).name.startswith(".") and name != ".lock"]
    assert coterie.Run(out).config["epochs"] == 500
    assert (out / "checkpoints" / "last.safetensors").is_file()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_in_an_export_leaves_no_hidden_file(number, code, finished, tmp_path, capsys, monkeypatch):
    def asked(*given):
        assert len(list(tmp_path.iterdir())) == 2  # what is being written, and its lock
        os.kill(os.getpid(), number)
        time.sleep(5)

    monkeypatch.setattr(import_module("coterie.deploy.formats.weights"), "load_weights", asked)
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stopped:
        main(["export", str(finished.path), "--out", str(tmp_path / "m.safetensors")])
    assert stopped.value.code == code
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == f"\nstopped by {signal.Signals(number).name}\n"
    assert signal.getsignal(number) is before


def test_a_signal_that_python_could_only_print_ends_the_command(tmp_path):
    """An exception in a __del__ is printed and lost; the command would go on."""
    code = (
        "import os, signal, sys, time\n"
        "from coterie import cli\n"
        "class Lost:\n"
        "    def __del__(self):\n"
        "        os.kill(os.getpid(), signal.SIGTERM); time.sleep(1)\n"
        "cli._overview = lambda: (cli.started(), [Lost()].clear(), time.sleep(60))\n"
        "sys.argv = ['coterie']\n"
        "cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (143, "\nstopped by SIGTERM\n")


def test_python_m_coterie_answers_without_torch():
    code = "import sys; from coterie.cli import main; main(['--version']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"coterie {coterie.__version__}\nFalse\n"


def test_names_are_what_they_are_whatever_was_imported_before():
    for first in ("coterie.reports.studies.page", "coterie.deploy.formats", "coterie.run", "coterie"):
        code = (
            f"import {first}, coterie\n"
            "from coterie import *\n"
            "from coterie.deploy import predict as asked\n"
            "assert callable(coterie.export) and callable(coterie.report) and asked is coterie.predict is predict\n"
            "assert all(getattr(coterie, name) is not None and name in dir(coterie) for name in coterie.__all__)\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


# Full disks and folders that go


@pytest.mark.parametrize("number", [28, 122, 27])
def test_a_full_disk_is_one_line_whoever_writes(number, tmp_path, finished, monkeypatch, capsys):
    def full(*given, **options):
        raise SafetensorError(f"Error while serializing: I/O error: {os.strerror(number)} (os error {number})")

    monkeypatch.setattr(import_module("coterie.deploy.formats.weights"), "save_file", full)
    with pytest.raises(SystemExit) as stopped:
        main(["export", str(finished.path), "--out", str(tmp_path / "m.safetensors")])
    said = capsys.readouterr().err
    assert (stopped.value.code, said.count("\n")) == (2, 1)
    assert said.startswith(f"coterie: {tmp_path / 'm.safetensors'}: the disk is full; free some space")
    assert list(tmp_path.iterdir()) == []


def test_a_training_on_a_full_disk_is_one_line_and_is_gone_on_with(tmp_path):
    """A limit on the size of files stands for the disk: writing fails in the same place, in delivery and before."""
    out = tmp_path / "run"

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    process = shell(*TRAIN, "--epochs", 1, "--out", out, preexec_fn=limit)
    said = process.communicate(timeout=100)[1]
    assert process.returncode == 2
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith(f"coterie: {out}/")
    assert "the disk is full" in said.splitlines()[-1]
    assert not [path for path in out.rglob(".*")]
    main([*TRAIN, "--epochs", "1", "--out", str(out), "--resume"])
    assert coterie.Run(out).card["epoch"] == 1


def test_a_folder_that_is_removed_while_it_is_trained_into_is_one_line(tmp_path, digits):
    out = tmp_path / "run"
    method = Mutual(network="resnet8")
    stages = method.stages
    remove = Hooks(after_step=lambda done: shutil.rmtree(out, True))
    method.stages = lambda task: (replace(stage, hooks=remove) for stage in stages(task))
    with pytest.raises(UserError, match=f"{out}: was removed while it was trained into; train again"):
        go(method, digits, out)
    assert not out.exists()


@pytest.mark.filterwarnings("error")  # the writer's thread would print its traceback
def test_without_its_tensorboard_folder_a_training_goes_on_and_says_so(tmp_path, digits, capfd):
    out = tmp_path / "run"
    method = Mutual(network="resnet8")
    stages = method.stages

    def remove(done):
        shutil.rmtree(out / "tensorboard", ignore_errors=True)

    method.stages = lambda task: (replace(stage, hooks=Hooks(after_step=remove)) for stage in stages(task))
    run = go(method, digits, out, track="tensorboard", progress=True, epochs=2)
    said = capfd.readouterr().err
    assert len(run.metrics) == 2
    assert "Traceback" not in said
    assert said.count("the figures go on in metrics.csv") == 1


def test_what_is_written_into_a_folder_that_goes_is_one_line(tmp_path):
    def write_and_lose(path):
        with replacing(path) as file:
            file.write_text("x")
            shutil.rmtree(path.parent)

    with pytest.raises(UserError, match="its folder was removed while it was written"):
        write_and_lose(tmp_path / "gone" / "x")


# Homes


def test_a_home_is_meant_wherever_a_path_comes_in(tmp_path, digits, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert user_path("~/x") == tmp_path / "x"
    assert user_path("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")
    run = coterie.train(alone(), digits, epochs=1, out="~/a", progress=False)
    assert run.path == tmp_path / "a"
    plain = [*TRAIN, "--epochs", "1"]
    main([*plain, "--method", "vanilla", "--out=~/b", "--network.weights=~/a/model.safetensors"])
    main(["train", "--out=~/b", "--resume"])
    main(["export", "~/b", "--out=~/m.safetensors"])
    main(["report", "~/b", "--out=~/r.html"])
    for teacher in ("~/a", "~/b:target", "~/m.safetensors", "resnet8@~/a/model.safetensors"):
        out = f"~/taught-{len(list(tmp_path.iterdir()))}"
        main([*plain, "--method", "kd", f"--method.teacher={teacher}", f"--out={out}"])
    assert not (tmp_path / "~").exists()
    assert {"a", "b", "m.safetensors", "r.html"} <= {path.name for path in tmp_path.iterdir()}


# Workers of a study


def wait_for_ever(mark):
    """A task that hears no signal, as a blocked call in a library does not."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
    Path(mark).touch()
    time.sleep(1000)


def test_a_worker_that_hears_no_signal_is_killed_in_time(tmp_path):
    pool = pools.make_process_pool(1)
    pool.submit(wait_for_ever, tmp_path / "begun")
    assert until((tmp_path / "begun").exists)
    begun = time.monotonic()
    pools.end_processes(pool, seconds=0.5)
    assert until(lambda: not multiprocessing.active_children(), 20)
    assert time.monotonic() - begun < 20


def test_a_worker_that_is_told_to_end_while_it_starts_breaks_no_pool():
    pool = pools.make_process_pool(1)
    future = pool.submit(os.getpid)
    (worker,) = multiprocessing.active_children()
    worker.terminate()
    assert future.result(timeout=100) == worker.pid
    pools.end_processes(pool, 20)
    assert until(lambda: not worker.is_alive(), 20)


def test_threads_are_a_share_of_the_cores_and_no_more_than_asked_for(monkeypatch):
    monkeypatch.setattr(pools, "count_cores", lambda: 8)
    for asked, threads in (("", 4), ("1", 1), ("16", 4), ("2,1", 2), ("many", 4), ("0", 4)):
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
        assert pools.threads_each(2) == threads
    assert pools.threads_each(16) == 1


def alive(number):
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(number):
    """All processes that a process has started, and those that these have."""
    parents = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
    found = [child for child, parent in parents.items() if parent == number]
    return found + [deeper for child in found for deeper in children(child)]


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="finds processes in /proc")
def test_no_worker_outlives_a_study_that_was_killed(tmp_path):
    scale = half() | {"networks": {"resnet8": {"name": "resnet8"}}, "common": SLOW}
    file, runs = write(tmp_path / "s.yaml", small=scale), tmp_path / "runs"
    line = ["study", file, "--workers", 2, "--out", tmp_path / "s.json", "--runs", runs]
    study = shell(*line)
    assert until(lambda: list(runs.glob("*/checkpoints/last.safetensors")))
    workers = children(study.pid)
    assert len(workers) >= 2  # workers, and what they are forked from
    (run,) = runs.iterdir()
    with pytest.raises(UserError, match="another coterie command trains into it"):
        coterie.train(alone(), coterie.data.load("digits"), out=run, resume=True, progress=False)
    study.kill()
    study.communicate()
    assert until(lambda: not any(map(alive, workers)), 60)
    assert (run / "checkpoints" / "last.safetensors").is_file()
    assert [path.name for path in run.rglob(".*")] == []


SLOW = {"epochs": 5000, "batch_size": 80, "threads": 1}


def half():
    """A study of one training."""
    return {"seeds": 1, "tables": [{"name": "t", "data": ["digits"], "networks": ["resnet8"], "arms": ["alone"]}]}


# Several processes


def ranks(out, *words, minutes=30):
    """Two processes of one training."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    line = [*TRAIN, "--device", "cpu", "--timeout_minutes", minutes, "--out", out, *words]
    return [
        shell(*line, env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, start_new_session=True)
        for rank in range(2)
    ]


@pytest.mark.parametrize(("number", "minutes"), [(signal.SIGKILL, 30), (signal.SIGSTOP, 0.25)])
def test_a_process_that_has_ended_or_stopped_ends_the_others_in_one_line(number, minutes, tmp_path):
    out = tmp_path / "run"
    first, second = ranks(out, "--epochs", 5000, minutes=minutes)
    try:
        assert until(lambda: (out / "checkpoints" / "last.safetensors").is_file(), 150)
        second.send_signal(number)
        said = first.communicate(timeout=100)[1]
    finally:
        for process in (first, second):
            process.kill()
    assert first.returncode == 2
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith(f"coterie: {out}: another process of this training has ended or does not")
    assert (out / "checkpoints" / "last.safetensors").is_file()


def test_a_folder_that_is_taken_is_refused_by_all_processes(tmp_path):
    out = tmp_path / "run"
    with locked(out / ".lock", "taken"):
        both = ranks(out)
        said = [process.communicate(timeout=150)[1] for process in both]
    assert [process.returncode for process in both] == [2, 2]
    for words in said:
        assert words.splitlines()[-1].startswith(f"coterie: {out}: another coterie command trains into it; wait for it")
        assert "Traceback" not in words


def test_a_time_limit_that_is_none_is_refused(tmp_path, digits):
    for minutes in (0, -1, float("nan"), 1e9):
        with pytest.raises(UserError, match="timeout_minutes is"):
            coterie.train(alone(), digits, out=tmp_path / "x", timeout_minutes=minutes)
