"""Figures for TensorBoard, Weights & Biases and MLflow, by the real packages."""

import json
import os
import struct
import time

import pytest
from accelerate import tracking
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2

import coterie
from coterie.cli import main
from coterie.errors import UserError
from coterie.methods import Kd, One, Vanilla
from coterie.run import Run
from coterie.training.folder.trackers import figures, flat
from resuming import stopping
from toys import comparable, go, same

ALL = "tensorboard,wandb, mlflow"
NAMES = {
    *("train/loss", "train/loss_cross_entropy", "train/learning_rate", "train/error/target", "cost/seconds"),
    *("cost/images_per_second", "cost/training_flops", "test/error/target", "test/nll/target"),
}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("WANDB_", "MLFLOW_")):
            monkeypatch.delenv(name)


def in_tensorboard(path):
    """Of each figure (step, value)."""
    events = EventAccumulator(str(path / "tensorboard"))
    events.Reload()
    return {name: [(each.step, each.value) for each in events.Scalars(name)] for name in events.Tags()["scalars"]}


def records(file):
    """Those of a .wandb file: after a header of 7 bytes, blocks of 32 KiB that hold whole records and parts of some."""
    data, place, read = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if (room := -place % 32768) < 7:
            place += room
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        if place + 7 + length > len(data):  # it is being written
            return
        read += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # all of it, or its last part
            yield wandb_internal_pb2.Record.FromString(read)
            read = b""


def whole(file, patience=60):
    """The records of a file whose end is written: its process writes on a moment after the session is over."""
    for _ in range(20 * patience):
        found = list(records(file))
        if found and found[-1].WhichOneof("record_type") == "exit":
            return found
        time.sleep(0.05)
    raise AssertionError(f"{file} has no end")


def in_wandb(path):
    """Of each figure (step, value), and the hyper-parameters, over all offline sessions; and their ids."""
    found, config, ids = {}, {}, []
    for file in sorted(path.glob("wandb/offline-run-*/*.wandb")):
        ids.append(file.stem)
        for record in whole(file):
            items = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
            for name in [name for name in items if not name.startswith("_")]:
                found.setdefault(name, []).append((items["_step"], items[name]))
            config |= {item.key: json.loads(item.value_json) for item in record.config.update}
    return found, config, ids


def in_mlflow(path):
    """Of each figure (step, value), and the hyper-parameters; there is one run."""
    (run,) = [each for each in path.glob("mlruns/*/*") if (each / "metrics").is_dir()]
    found = {}
    for file in (run / "metrics").rglob("*"):
        if file.is_file():
            rows = [line.split() for line in file.read_text().splitlines()]
            found[str(file.relative_to(run / "metrics"))] = [(int(row[2]), float(row[1])) for row in rows]
    return found, {file.name: file.read_text() for file in (run / "params").iterdir()}


@pytest.mark.libraries
def test_every_tracker_has_each_epoch_in_groups_and_the_hyper_parameters(digits, tmp_path, capfd):
    run = go(Vanilla(network="resnet8"), digits, tmp_path / "run", epochs=2, track=ALL, progress=True)
    board, (wandb, wandb_config, _), (mlflow, params) = (
        read(run.path) for read in (in_tensorboard, in_wandb, in_mlflow)
    )
    for found in (board, wandb, mlflow):
        assert set(found) >= NAMES
        assert [step for step, _ in found["test/error/target"]] == [1, 2]
        for (_, value), row in zip(found["test/error/target"], run.metrics, strict=True):
            assert value == pytest.approx(row["test_error_target"])
    for config in (wandb_config, params):
        assert config["method.name"].strip('"') == "vanilla"
        assert int(config["epochs"]) == 2
    assert list(run.path.glob("tensorboard/*/hparams.yml"))
    said = capfd.readouterr().err
    assert "ends (" not in said
    assert "wandb" not in said
    assert not {"MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_FILE_STORE"} & set(os.environ)


def test_by_default_nothing_is_written(finished):
    names = {path.name for path in finished.path.iterdir()}
    assert not names & {"tensorboard", "wandb", "mlruns", "trackers.json"}


@pytest.mark.libraries
def test_a_resumed_training_goes_on_in_the_same_runs(digits, tmp_path):
    whole = go(One(network="resnet8"), digits, tmp_path / "whole", epochs=3)
    out = tmp_path / "cut"
    with pytest.raises(coterie.Interrupted):
        go(stopping(One(network="resnet8"), "train", 12), digits, out, epochs=3, track=ALL)
    time.sleep(1.1)  # wandb names a session's folder by the second in which it begins
    run = go(One(network="resnet8"), digits, out, epochs=3, track=ALL, resume=True)
    assert comparable(run.metrics) == comparable(whole.metrics)
    assert same(run, whole)
    wandb, _, ids = in_wandb(out)
    assert len(ids) == 2
    assert len(set(ids)) == 1
    for found in (in_tensorboard(out), wandb, in_mlflow(out)[0]):
        assert [step for step, _ in found["test/error/ensemble"]] == [1, 2, 3]
    assert len(list(out.glob("tensorboard/*/hparams.yml"))) == 1


def test_stages_stand_before_the_names_and_epochs_are_counted_over_all(digits, tmp_path):
    run = go(Kd(network="resnet8"), digits, tmp_path / "run", epochs=1, track="tensorboard")
    found = in_tensorboard(run.path)
    assert [step for step, _ in found["teacher.test/error/teacher"]] == [1]
    assert [step for step, _ in found["student.train/loss"]] == [2]


@pytest.mark.parametrize("when", ["start", "store_init_configuration", "log", "finish"])
def test_a_tracker_that_fails_is_said_once_and_the_training_goes_on(when, digits, tmp_path, monkeypatch, capfd):
    def fail(self, *args, **options):
        raise RuntimeError("no\nroute")

    monkeypatch.setattr(tracking.MLflowTracker, when, fail)
    run = go(Vanilla(network="resnet8"), digits, tmp_path / "run", track="mlflow,tensorboard", progress=True)
    lines = [line for line in capfd.readouterr().err.splitlines() if "mlflow" in line]
    assert lines == ["mlflow: ends (RuntimeError: no route); the figures go on in metrics.csv"]
    assert len(run.metrics) == len(in_tensorboard(run.path)["train/loss"]) == 3
    monkeypatch.undo()
    again = go(Vanilla(network="resnet8"), digits, tmp_path / "again", epochs=1, track="mlflow")
    assert when == "finish" or in_mlflow(again.path)  # nothing was left open


def test_variables_of_the_users_own_are_heard(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "elsewhere").as_uri())
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    run = go(Vanilla(network="resnet8"), digits, tmp_path / "run", epochs=1, track="wandb,mlflow")
    assert not (run.path / "wandb").exists()
    assert not (run.path / "mlruns").exists()
    assert "name: mine" in "".join(file.read_text() for file in (tmp_path / "elsewhere").glob("*/meta.yaml"))


def test_an_unknown_tracker_is_refused():
    with pytest.raises(UserError, match="wandb"):
        coterie.training.TrainingOptions(track="tensorboard,wandbb")
    for empty in ("", "tensorboard,"):
        with pytest.raises(UserError, match="unknown track ''; known: mlflow, tensorboard, wandb"):
            coterie.training.TrainingOptions(track=empty)
    assert coterie.training.TrainingOptions(track=" mlflow,wandb,mlflow").trackers == ("mlflow", "wandb")


def test_the_shell_and_files_of_before_name_them(tmp_path, capsys):
    words = ["train", "--network", "resnet8", "--data", "digits", "--data.train_samples", "64", "--epochs", "1"]
    main([*words, "--track", "tensorboard", "--out", str(tmp_path / "new")])
    assert Run(tmp_path / "new").config["track"] == "tensorboard"
    for written, there in (("true", True), ("false", False), ("null", False)):
        config, out = tmp_path / f"{written}.yaml", tmp_path / written
        config.write_text(
            f"network: resnet8\ndata: {{name: digits, train_samples: 64}}\nepochs: 1\ntensorboard: {written}"
        )
        main(["train", "--config", str(config), "--out", str(out)])
        assert (out / "tensorboard").is_dir() == there
    with pytest.raises(SystemExit):
        main([*words, "--tensorboard", "true"])
    assert "did you mean --track?" in capsys.readouterr().err


def test_figures_are_grouped_and_configurations_flat():
    row = {"stage": "train", "epoch": 3, "loss": 1.0, "test_weight_branch_1": 0.5, "train_error_a-average": 2}
    assert figures(row) == {"train/loss": 1.0, "test/weight/branch_1": 0.5, "train/error/a-average": 2}
    assert next(iter(figures(row, "x."))) == "x.train/loss"
    assert flat({"a": {"b": None, "c": {"d": [1, 2]}}, "e": True}) == {"a.b": "null", "a.c.d": "[1, 2]", "e": True}
