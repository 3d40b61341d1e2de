"""Test-time augmentation: probabilities averaged over copies of an image."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import coterie
from coterie import UserError
from coterie.cli import main
from coterie.data import evaluation_batches
from coterie.data.say import say_once
from coterie.evaluation.tta import Copies, mean_probabilities
from coterie.methods import One, Vanilla


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A Run of digits, alone and as a group, and the first exported."""
    folder = tmp_path_factory.mktemp("tta")
    data = coterie.data.load("digits", train_samples=300, test_samples=60)
    options = {"epochs": 2, "batch_size": 50, "threads": 1, "progress": False}
    run = coterie.train(Vanilla(network="resnet8"), data, out=folder / "run", **options)
    coterie.train(One(network="resnet8"), data, out=folder / "group", **(options | {"epochs": 1}))
    coterie.export(run, "onnx", folder / "net.onnx")
    coterie.export(run, "onnx", folder / "whole.onnx", with_preprocessing=True)
    return folder


def test_copies_are_the_image_its_mirror_and_moves_that_depend_on_seed_and_index_alone():
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    pixels = torch.rand(5, 3, 16, 16)
    affine = (torch.tensor(each)[:, None, None] for each in (mean, std))
    shift, scale = affine
    images, indices = (pixels - shift) / scale, torch.arange(5)
    same, mirrored = Copies("flip", mean, std).of(images, indices)
    assert torch.equal(same, images)
    assert torch.equal(mirrored, images.flip(3))
    views = Copies(4, mean, std).of(images, indices)
    assert len(views) == 4
    assert torch.equal(views[0], images)
    assert not any(torch.equal(one, other) for one, other in zip(views[1:], views[:-1], strict=True))
    part = Copies(4, mean, std).of(images[3:], indices[3:])
    for view, own in zip(views, part, strict=True):
        assert torch.equal(view[3:], own)
    assert not torch.equal(Copies(4, mean, std, seed=1).of(images, indices)[1], views[1])
    # Each is the image moved by up to two pixels, on black.
    padded = torch.nn.functional.pad(pixels, (2, 2, 2, 2))
    for index in range(5):
        moves = [padded[index, :, y : y + 16, x : x + 16] for y in range(5) for x in range(5)]
        for view in views[1:]:
            found = view[index] * scale + shift
            assert min((found - move).abs().max() for move in moves) < 1e-5


@pytest.mark.parametrize("how", ["flip", 3])
def test_a_run_and_its_export_give_the_mean_of_the_probabilities(place, how):
    run = coterie.Run(place / "run")
    data = run.data()
    (batch,) = evaluation_batches(data, data.test, batch_size=256)
    copies = Copies(how, data.mean, data.std).of(batch.images, batch.indices)
    with torch.inference_mode():
        expected = torch.stack([run.model(copy).softmax(1) for copy in copies]).mean(0)
    error = 100 * (expected.argmax(1) != batch.labels).double().mean().item()
    nll = torch.nn.functional.nll_loss(expected.log(), batch.labels).item()
    plain = coterie.evaluate(run)
    assert abs(plain["nll"] - nll) > 1e-3
    for measures in (
        coterie.evaluate(run, tta=how),
        coterie.measure(place / "net.onnx", tta=how, **data.options).measures,
    ):
        assert measures["error"] == pytest.approx(error)
        assert measures["nll"] == pytest.approx(nll, abs=1e-4)
    arrays = [np.asarray(each) for each in data.test.data[:4].squeeze(3).numpy()]
    for source in (place / "run", place / "net.onnx"):
        for said, probabilities in zip(coterie.predict(source, arrays, tta=how), expected, strict=False):
            assert said.probabilities == pytest.approx(probabilities.topk(3).values.tolist(), abs=1e-4)


def test_every_peer_of_a_group_is_averaged_and_so_is_the_ensemble(place):
    run = coterie.Run(place / "group")
    data = run.data()
    (batch,) = evaluation_batches(data, data.test, batch_size=256)
    network = run.network("ensemble")
    with torch.inference_mode():
        outputs = [network(batch.images), network(batch.images.flip(3))]
    peer = mean_probabilities([output.logits[:, 1] for output in outputs])
    whole = torch.stack([output.ensemble.softmax(1) for output in outputs]).mean(0)
    found = coterie.evaluate(run, student="ensemble", tta="flip")
    assert found["error_branch1"] == pytest.approx(100 * (peer.argmax(1) != batch.labels).double().mean().item())
    assert found["nll"] == pytest.approx(torch.nn.functional.nll_loss(whole.log(), batch.labels).item(), abs=1e-4)


def test_a_file_that_prepares_images_is_asked_about_mirrors_and_no_views(place):
    picture = np.random.default_rng(0).integers(0, 256, (11, 9, 3), dtype=np.uint8)
    one, other = (coterie.predict(place / "whole.onnx", each, top=10)[0] for each in (picture, picture[:, ::-1].copy()))
    both = coterie.predict(place / "whole.onnx", picture, top=10, tta="flip")[0]
    for name, value in zip(both.classes, both.probabilities, strict=True):
        parts = [said.probabilities[said.classes.index(name)] for said in (one, other)]
        assert value == pytest.approx(sum(parts) / 2, abs=1e-5)
    with pytest.raises(UserError, match=r"tta=3: .*whole.onnx prepares whole images itself.*use tta='flip'"):
        coterie.predict(place / "whole.onnx", picture, tta=3)


def test_commands_say_what_it_costs_and_files_hold_it(place, capsys, tmp_path, caplog):
    say_once.cache_clear()
    main(["evaluate", str(place / "run"), "--tta", "flip", "--out", str(tmp_path / "figures.json")])
    assert "tta: flip, 2 forward passes for each image" in capsys.readouterr().out
    content = json.loads((tmp_path / "figures.json").read_text())
    assert (content["tta"], content["forward_passes"]) == ("flip", 2)
    main(["evaluate", str(place / "run"), "--format", "json"])
    content = json.loads(capsys.readouterr().out)
    assert (content["tta"], content["forward_passes"]) == (None, 1)
    assert "training did not" in caplog.text  # digits are not mirrored
    Image.new("L", (8, 8), 99).save(tmp_path / "x.png")
    asked = ["predict", str(place / "run"), str(tmp_path / "x.png"), "--tta", "3"]
    main([*asked, "--out", str(tmp_path / "said.jsonl")])
    assert "tta: 3 views, 3 forward passes for each image" in capsys.readouterr().err
    said = json.loads((tmp_path / "said.jsonl").read_text())
    assert (said["tta"], said["forward_passes"]) == (3, 3)
    for value in ("1", "mirror"):
        with pytest.raises(SystemExit):
            main(["evaluate", str(place / "run"), "--tta", value])
        assert "--tta is" in capsys.readouterr().err
