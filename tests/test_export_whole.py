"""ONNX files that prepare whole images themselves, and the card that says how images are prepared."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

import coterie
from coterie import UserError
from coterie.data.pixels import decode_image
from coterie.deploy import bench, measure
from coterie.deploy.formats.preparing import Prepared

SIZES = ((50, 70), (32, 48), (200, 131), (9, 40), (61, 64))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("ratio", [1.0, 0.875, 0.95])
def test_pixels_are_prepared_as_pillow_does_it(ratio, interpolation, channels):
    card = {"image_size": (32, 48), "channels": channels, "crop_ratio": ratio, "interpolation": interpolation}
    prepare = Prepared(torch.nn.Identity(), card | {"mean": [0.5] * channels, "std": [0.25] * channels})
    y, x = np.mgrid[0:1:200j, 0:1:300j]
    waves = np.stack([np.sin(20 * x * y), np.cos(31 * x - 7 * y), np.sin(3 * x + 40 * y * y)][:channels], 2)
    picture = np.uint8(127.5 + 127.5 * waves)
    for height, width in SIZES:
        image = Image.fromarray(picture[:, :, 0] if channels == 1 else picture).resize((width, height))
        expected = decode_image(image, "image", (32, 48), channels, None, None, True, ratio, interpolation)
        given = prepare(torch.from_numpy(np.asarray(image).reshape(height, width, channels).copy()))
        pixels = (given[0] * 0.25 + 0.5).permute(1, 2, 0) * 255
        assert given.shape == (1, channels, 32, 48)
        assert np.abs(pixels.numpy() - expected).max() < 2.1  # a step or two of 255, where halves are rounded otherwise
        assert np.abs(pixels.numpy() - expected).mean() < 0.2


@pytest.fixture(scope="module")
def whole(finished, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "whole.onnx"
    return coterie.export(finished, "onnx", path, "ensemble", with_preprocessing=True)


def test_the_graph_takes_images_of_any_size_and_agrees_with_predict(whole, finished, digits):
    assert whole.agreement == 1.0
    session = onnxruntime.InferenceSession(str(whole.path), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert (given.name, given.type, given.shape[2]) == ("images", "tensor(uint8)", 1)
    for place, (height, width) in enumerate(SIZES):
        image = Image.fromarray(digits.test.data[place, :, :, 0].numpy()).resize((width, height))
        (said,) = coterie.predict(finished, image, student="ensemble", top=10)
        (again,) = coterie.predict(whole.path, image, top=10)
        expected = dict(zip(said.classes, said.probabilities, strict=True))
        assert dict(zip(again.classes, again.probabilities, strict=True)) == pytest.approx(expected, abs=0.01)
        (logits,) = session.run(None, {"images": np.asarray(image)[:, :, None]})
        assert logits.shape == (1, 10)
        assert finished.card["classes"][logits[0].argmax()] == said.classes[0]


def test_networks_of_patches_and_of_colour_images_prepare_them_too(run_named, tmp_path):
    run = run_named("timm/vit_tiny_patch16_224", 1)
    done = coterie.export(run, "onnx", tmp_path / "vit.onnx", with_preprocessing=True)
    assert done.agreement == 1.0
    run = run_named("timm/resnet10t", 3)
    path = coterie.export(run, "onnx", tmp_path / "resnet.onnx", with_preprocessing=True).path
    image = np.random.default_rng(0).integers(0, 256, (45, 60, 3), np.uint8)
    theirs, ours = coterie.predict(run, image)[0], coterie.predict(path, image)[0]
    assert ours.classes == theirs.classes
    assert ours.probabilities == pytest.approx(theirs.probabilities, abs=0.01)


def test_a_file_that_prepares_images_is_neither_measured_on_prepared_ones_nor_timed(whole):
    for call in (lambda: measure(whole.path, name="digits"), lambda: bench(whole.path, seconds=0.01)):
        with pytest.raises(UserError, match=r"whole\.onnx: prepares whole images itself; use `coterie predict`"):
            call()


def test_only_onnx_holds_the_preprocessing(finished, tmp_path):
    with pytest.raises(UserError, match="with_preprocessing=True: of ONNX files alone"):
        coterie.export(finished, "safetensors", tmp_path / "m.safetensors", with_preprocessing=True)
    assert list(tmp_path.iterdir()) == []


def test_the_card_says_how_images_are_prepared_and_where(whole, finished, tmp_path):
    path = coterie.export(finished, "onnx", tmp_path / "m.onnx").path
    outside = json.loads((tmp_path / "m.onnx.json").read_text())["preprocessing"]
    inside = json.loads(whole.path.with_name("whole.onnx.json").read_text())["preprocessing"]
    assert outside == {
        **{"turn": "EXIF orientation", "transparency": "white", "colours": "L", "pixel_range": None},
        **{"cover": [8, 8], "crop_ratio": 1.0, "filter": "bicubic", "crop": [8, 8], "scale": "1/255"},
        **{"mean": list(finished.card["mean"]), "std": list(finished.card["std"]), "in_graph": []},
    }
    assert inside == outside | {"in_graph": ["cover", "filter", "crop", "scale", "mean", "std"]}
    assert "turn" not in inside["in_graph"]
    assert path.is_file()
