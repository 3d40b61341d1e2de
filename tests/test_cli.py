"""What a person meets at the shell, in processes of its own."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import coterie
from coterie.cli import COMMANDS, main
from coterie.data import evaluation_batches

TRAIN = ["train", "--network", "resnet8", "--data", "digits", "--data.train_samples", "200", "--batch_size", "50"]


def shell(*arguments, cwd=None, **options):
    command = [sys.executable, "-m", "coterie.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120, check=False, **options)


def refused(capsys, *arguments):
    """The one line of a user error."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("coterie: ")
    return error


@pytest.mark.libraries
def test_train_evaluate_export_predict_and_report(tmp_path, capsys):
    out = tmp_path / "one"
    main([*TRAIN, "--method", "one", "--method.num_branches", "2", "--epochs", "2", "--out", str(out)])
    names = {path.name for path in out.iterdir()}
    assert {"config.yaml", "metrics.csv", "model.safetensors", "model.json", "checkpoints"} <= names
    assert "tensorboard" not in names
    main(["evaluate", str(out), "--student", "ensemble"])
    assert "disagreement" in capsys.readouterr().out
    image = tmp_path / "digit.png"
    data = coterie.data.load("digits")
    Image.fromarray(data.test.data[0, :, :, 0].numpy()).save(image)
    said = []
    for file, form in (("m.onnx", "onnx"), ("m.safetensors", "safetensors")):
        main(["export", str(out), "--format", form, "--out", str(tmp_path / file)])
        assert "largest difference" in " ".join(capsys.readouterr().out.split())
        main(["predict", str(tmp_path / file), str(image)])
        said.append(re.findall(r"(\d) ([\d.]+)%", capsys.readouterr().out.split("png")[1]))
    main(["predict", str(out), str(image)])
    said.append(re.findall(r"(\d) ([\d.]+)%", capsys.readouterr().out.split("png")[1]))
    assert len(said[0]) == 3
    assert said[0] == said[1] == said[2]
    main(["report", str(out), "--out", str(tmp_path / "r.html")])
    assert "one: ensemble" in capsys.readouterr().out


def test_a_runs_config_repeats_it(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    main([*TRAIN, "--epochs", "1", "--out", str(first), "--method.temperature", "2.5", "--recipe", "paper"])
    main(["train", "--config", str(first / "config.yaml"), "--out", str(second)])
    ours, theirs = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert (first / "config.yaml").read_text() == (second / "config.yaml").read_text()
    assert "temperature: 2.5" in (second / "config.yaml").read_text()


def test_a_run_killed_at_any_moment_ends_with_the_same_weights(tmp_path):
    options = [*TRAIN, "--method", "one", "--epochs", "6", "--threads", "1"]
    main([*options, "--out", str(tmp_path / "whole")])
    cut = tmp_path / "cut"
    command = [sys.executable, "-m", "coterie.cli", *options, "--resume", "--out", str(cut)]
    for wanted in (1, 3):  # killed twice, at moments that nobody chose
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            if len(rows(cut)) >= wanted:
                break
            time.sleep(0.005)
        process.kill()
        process.wait()
    main(["train", "--out", str(cut), "--resume"])  # the run's own options
    ours, theirs = load_file(tmp_path / "whole" / "model.safetensors"), load_file(cut / "model.safetensors")
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert [row["epoch"] for row in coterie.Run(cut).metrics] == [1, 2, 3, 4, 5, 6]


def rows(path):
    try:
        return coterie.Run(path).metrics
    except coterie.UserError:
        return []


def test_sigterm_writes_a_checkpoint_and_says_how_to_go_on(tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "coterie.cli", *TRAIN, "--epochs", "500", "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while process.poll() is None and not rows(out):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "go on with: coterie train" in error
    assert "--resume" in error
    assert "Traceback" not in error
    assert (out / "checkpoints" / "last.safetensors").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Example: coterie " + command in text


def test_lists(capsys):
    for what, expected in (
        ("methods", "vanilla"),
        ("networks", "resnet32"),
        ("datasets", "svhn"),
        ("recipes", "paper"),
    ):
        main(["list", what])
        assert expected in capsys.readouterr().out
    main(["list", "splits", "--network", "resnet8", "--data.image_size", "32"])
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("layer3 "))
    assert "of the FLOPs and" in line
    assert line.endswith("(default)")
    main([])
    assert "coterie train" in capsys.readouterr().out


def test_mistakes_are_one_line(tmp_path, capsys, finished):
    out = ["--out", tmp_path / "x"]
    assert "did you mean 'one'" in refused(capsys, "train", "--method", "on", "--data", "digits", *out)
    assert "did you mean 'digits'" in refused(capsys, "train", "--data", "digts", *out)
    assert "timm/resnet18" in refused(capsys, "train", "--network", "resnet18", "--data", "digits", *out)
    assert "--data is missing" in refused(capsys, "train", *out)
    assert "did you mean 'train'" in refused(capsys, "trian")
    assert "--method.num_branches" in refused(capsys, *TRAIN, "--method.num_branch", "3", *out)
    assert "--epochs" in refused(capsys, *TRAIN, "--epochs", "many", *out)
    assert "--epochs is 0" in refused(capsys, *TRAIN, "--epochs", "0", *out)
    assert "--method.temperature" in refused(capsys, *TRAIN, "--method.temperature", "0", *out)
    assert "there are 200 training images" in refused(capsys, *TRAIN, "--batch_size", "201", *out)
    assert "exists already" in refused(capsys, *TRAIN, "--out", finished.path)
    assert "not a Run folder" in refused(capsys, "evaluate", tmp_path)
    assert "did you mean 'ensemble'" in refused(capsys, "evaluate", finished.path, "--student", "ensembel")
    assert "no such file" in refused(capsys, "predict", finished.path, tmp_path / "none.png")
    assert "unknown; use" in refused(capsys, "export", finished.path, "--format", "tflite", *out)
    assert "--config" in refused(capsys, "train", "--config", tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("method: {name: one, branches: 3}\ndata: digits\n")
    assert "--method.branches" in refused(capsys, "train", "--config", tmp_path / "bad.yaml")
    (tmp_path / "bad.png").write_bytes(b"no image")
    assert "cannot be decoded" in refused(capsys, "predict", finished.path, tmp_path / "bad.png")
    assert not (tmp_path / "x").exists()


def test_a_config_cannot_import_what_it_names(tmp_path, capsys):
    file = tmp_path / "evil.yaml"
    file.write_text("method: {class_path: os.system, init_args: {command: 'touch owned'}}\ndata: digits\n")
    assert "class_path" in refused(capsys, "train", "--config", file)
    file.write_text("method: !!python/object/apply:os.system ['touch owned']\n")
    assert "not valid YAML" in refused(capsys, "train", "--config", file)


def test_importing_is_quick_and_needs_no_network():
    assert shell("--version").stdout.strip() == f"coterie {coterie.__version__}"


@pytest.mark.processor
def test_onnx_takes_any_batch_and_equals_pytorch(finished, digits, tmp_path):
    for student in ("target", "ensemble"):
        done = coterie.export(finished, "onnx", tmp_path / f"{student}.onnx", student)
        session = onnxruntime.InferenceSession(str(done.path), providers=["CPUExecutionProvider"])
        network = finished.network(student)
        for count in (1, 3, 64):
            images = next(evaluation_batches(digits, digits.test, batch_size=count)).images
            (got,) = session.run(None, {"images": images.contiguous().numpy()})
            with torch.inference_mode():
                out = network(images)
            expected = out.ensemble if student == "ensemble" else out
            np.testing.assert_allclose(got, expected.numpy(), atol=1e-4)
        assert done.difference < 1e-4
    with pytest.raises(coterie.UserError, match=r"target\.onnx: exists already"):
        coterie.export(finished, "onnx", tmp_path / "target.onnx")


def test_two_formats_of_one_name_have_a_card_each_and_neither_is_replaced(finished, tmp_path):
    for name, form in (("two.onnx", "onnx"), ("two.safetensors", "safetensors")):
        coterie.export(finished, form, tmp_path / name, student="ensemble")
    cards = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in ("two.onnx", "two.safetensors")}
    assert all(card["student"] == "ensemble" for card in cards.values())
    (tmp_path / "two.onnx").unlink()
    with pytest.raises(coterie.UserError, match=r"two\.onnx\.json: exists already"):
        coterie.export(finished, "onnx", tmp_path / "two.onnx")
    assert json.loads((tmp_path / "two.onnx.json").read_text()) == cards["two.onnx"]
    assert not (tmp_path / "two.onnx").exists()


@pytest.mark.processor
def test_the_target_loads_with_three_plain_lines(finished, digits, tmp_path):
    coterie.export(finished, "safetensors", tmp_path / "m.safetensors")
    model = coterie.networks.build("resnet8", num_classes=10, in_channels=1)
    model.load_state_dict(load_file(tmp_path / "m.safetensors"))
    images = next(evaluation_batches(digits, digits.test)).images
    with torch.inference_mode():
        assert torch.equal(model.eval()(images), finished.model(images))


def test_an_export_that_computes_something_else_is_not_written(finished, tmp_path, monkeypatch):
    again = "coterie.deploy.formats.graph.run_afresh"
    monkeypatch.setattr(again, lambda script, path, images: torch.zeros(len(images), 10))
    with pytest.raises(coterie.UserError, match="differs from the network"):
        coterie.export(finished, "onnx", tmp_path / "m.onnx")
    assert os.listdir(tmp_path) == []


def test_a_file_without_a_readable_card_is_refused(finished, tmp_path, capsys):
    network = finished.model
    image = tmp_path / "digit.png"
    Image.new("L", (8, 8)).save(image)
    for metadata, said in ((None, "has no card"), ({"coterie": "{no json"}, "m.safetensors: not valid JSON")):
        save_file(network.state_dict(), tmp_path / "m.safetensors", metadata=metadata)
        assert said in refused(capsys, "predict", tmp_path / "m.safetensors", image)
    (tmp_path / "m.safetensors").write_bytes(b"no tensors")
    assert "damaged" in refused(capsys, "predict", tmp_path / "m.safetensors", image)
    (tmp_path / "m.onnx").write_bytes(b"no graph")
    assert "damaged" in refused(capsys, "predict", tmp_path / "m.onnx", image)
