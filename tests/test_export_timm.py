"""Folders for timm: opened by timm alone, with the same answers, images and labels; and on the Hub."""

import json
import re
import types

import huggingface_hub
import pytest
import timm
import torch
from PIL import Image

import coterie
from coterie import UserError
from coterie.cli import main
from coterie.data import evaluation_batches
from coterie.deploy.formats import timm_folder
from coterie.methods import Vanilla
from toys import go


def opened(path):
    return timm.create_model(f"local-dir:{path}", pretrained=True).eval()


@pytest.fixture(scope="module")
def framed(tmp_path_factory):
    """A network whose images are cropped, resized bilinearly, and normalised in their own way."""
    options = {"image_size": (32, 48), "channels": 3, "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    data = coterie.data.load("digits", train_samples=40, test_samples=50, **options)
    data = coterie.data.ImageData(**{**vars(data), "crop_ratio": 0.875, "interpolation": "bilinear"})
    return go(Vanilla(network="timm/resnet10t"), data, tmp_path_factory.mktemp("framed") / "run", epochs=1)


@pytest.fixture(scope="module")
def folder(framed, tmp_path_factory):
    return coterie.export(framed, "timm", tmp_path_factory.mktemp("folders") / "net", license="cc-by-4.0").path


def test_timm_prepares_images_as_the_training_did_and_knows_the_labels(framed, folder):
    path = folder
    assert sorted(file.name for file in path.iterdir()) == [
        *("README.md", "config.json", "coterie.json", "model.safetensors"),
    ]
    modes = {file.stat().st_mode for file in path.iterdir()}
    assert len(modes) == 1
    network = opened(path)
    data = framed.data()
    images = next(evaluation_batches(data, data.test, batch_size=256)).images
    with torch.inference_mode():
        torch.testing.assert_close(network(images), framed.model(images), atol=1e-4, rtol=0)
    found = timm.data.resolve_model_data_config(network)
    expected = {"input_size": (3, 32, 48), "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    expected |= {"crop_pct": 0.875, "interpolation": "bilinear", "crop_mode": "center"}
    assert {name: found[name] for name in expected} == expected
    assert list(network.pretrained_cfg["label_names"]) == [str(digit) for digit in range(10)]
    checked = json.loads((path / "coterie.json").read_text())["checked"]
    assert (checked["images"], checked["agreement"], checked["error_change"]) == (50, 1.0, 0.0)


def test_the_model_card_says_what_the_run_says(framed, folder):
    text = (folder / "README.md").read_text()
    head = text.split("---")[1]
    assert 'license: "cc-by-4.0"' in head
    assert 'library_name: "timm"' in head
    figures = framed.card["test"]["target"]
    low, high = coterie.evaluation.wilson(round(figures["error"] * 50 / 100), 50)
    assert f"| test error | {figures['error']:.4g}% | {100 * low:.2f} to {100 * high:.2f} % |" in text
    for said in (
        "`vanilla`",
        "`short`",
        "40 training and 50 test images",
        "epochs 1",
        "FLOPs",
        "32x48 pixels, 3 channels",
    ):
        assert said in text
    assert "top-1 agrees on 100 %" in text


def test_the_model_cards_own_lines_load_the_folder(framed, tmp_path, monkeypatch, capsys):
    coterie.export(framed, "timm", tmp_path / "net")
    (code,) = re.findall(r"```python\n(.*?)```", (tmp_path / "net" / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)

    Image.new("RGB", (60, 50), "red").save("photo.jpg")
    exec(code, {})
    assert capsys.readouterr().out.strip() in map(str, range(10))


# Refusals


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main(["export", *map(str, arguments)])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_what_timm_cannot_build_is_refused_and_nothing_is_left(finished, framed, digits, tmp_path, capsys):
    out = ("--format", "timm", "--out", tmp_path / "out" / "net")
    assert "no network of timm's" in refused(capsys, finished.path, *out)
    assert "no network of timm's" in refused(capsys, finished.path, *out, "--student", "ensemble")
    assert not (tmp_path / "out").exists()


def test_a_pruned_network_and_a_changed_one_are_refused(framed, tmp_path, digits):
    network = timm.create_model("resnet10t", num_classes=10, in_chans=1)
    network.conv1[0] = torch.nn.Conv2d(1, 24, 5, 2, 2, bias=False)  # timm builds one of 3x3
    # In bfloat16 oneDNN leaves part of a strided convolution's gradient unwritten on 1x1 maps: now and then it is NaN.
    run = go(Vanilla(network=network), digits, tmp_path / "changed", epochs=1, precision="fp32")
    with pytest.raises(UserError, match=r"net: cannot be opened without coterie \(RuntimeError: .*\); not written"):
        coterie.export(run, "timm", tmp_path / "net")
    run = coterie.Run(run.path, network=network)
    card = json.loads((run.path / "model.json").read_text())
    (run.path / "model.json").write_text(json.dumps(card | {"pruned": True}))
    with pytest.raises(UserError, match="has lost channels"):
        coterie.export(run, "timm", tmp_path / "net")
    assert {path.name for path in tmp_path.iterdir()} == {"changed"}


def test_a_folder_that_is_there_is_never_replaced(framed, tmp_path, capsys):
    (tmp_path / "net").mkdir()
    assert "net: exists already" in refused(capsys, framed.path, "--format", "timm", "--out", tmp_path / "net")
    assert list((tmp_path / "net").iterdir()) == []
    said = refused(capsys, framed.path, "--format", "timm", "--out", tmp_path / "net.onnx")
    assert f"give --format onnx, or --out {tmp_path / 'net'} for the folder" in said
    assert "--license mit: of folders for timm alone" in refused(
        capsys, framed.path, "--format", "onnx", "--out", tmp_path / "a.onnx", "--license", "mit"
    )


# The Hub


class Hub:
    """Stands for huggingface_hub.HfApi; keeps what it is given."""

    there = frozenset(("me/net",))
    given = None

    def __init__(self, **options):
        pass

    def file_exists(self, name, file):
        if name == "me/silent":
            raise ConnectionError("no route")
        return name in self.there

    def create_repo(self, name, exist_ok):
        return types.SimpleNamespace(repo_id=name, __str__=lambda self: name)

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        if repo_id == "me/full":
            raise ConnectionError("no room")
        self.given.append({"name": repo_id, "path": folder_path})


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_of_a_test")
    monkeypatch.setattr(Hub, "given", [])
    return Hub


def test_the_hub_gets_the_whole_folder(hub, framed, tmp_path, monkeypatch):
    monkeypatch.setattr(timm_folder, "run_afresh", lambda script, path, images: framed.model(images).detach())
    done = coterie.export(framed, "timm", tmp_path / "net", push_to_hub="me/new")
    assert hub.given == [{"name": "me/new", "path": str(tmp_path / "net")}]
    assert done.uploaded is not None
    with pytest.raises(UserError, match=r"other: written, but not uploaded \(ConnectionError: no room\)"):
        coterie.export(framed, "timm", tmp_path / "other", push_to_hub="me/full")
    assert (tmp_path / "other" / "config.json").is_file()


def test_without_a_token_nothing_is_written(hub, framed, tmp_path, capsys, monkeypatch):
    out = (framed.path, "--format", "timm", "--out", tmp_path / "net", "--push_to_hub")
    assert "has a network of that name already" in refused(capsys, *out, "me/net")
    assert "the Hub does not answer (ConnectionError: no route)" in refused(capsys, *out, "me/silent")
    assert "no name of the Hub" in refused(capsys, *out, "a b/c")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert "--push_to_hub needs a token of the Hugging Face Hub" in refused(capsys, *out, "me/new")
    assert list(tmp_path.iterdir()) == []
