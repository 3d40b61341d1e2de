"""How images are cropped and resized to be measured: as published weights were, and everywhere alike."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from torchvision.transforms import CenterCrop, InterpolationMode, Resize

import coterie
from coterie.cli import main
from coterie.data import evaluation_batches, load, training_batches
from coterie.data.pixels import before_crop, decode
from coterie.data.transforms import framed, normalise
from coterie.errors import UserError
from coterie.methods import Vanilla
from coterie.networks import Backbone
from coterie.training.folder.checkpoint import describe_data
from coterie.training.images import load_for

RRC = "random-resized-crop"
FRAMING = ("crop_ratio", "interpolation")


def made_photograph(size, seed=0):
    """Smooth shapes and fine grain: what is cropped, and by what it is resized, shows in every pixel."""
    height, width = size
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (3 + channel) + seed) + np.cos(y / (4 + channel)) for channel in range(3)]
    pixels = 128 + 40 * np.stack(waves, 2) + generator.normal(0, 20, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Four photographs of two classes for each split, broad and tall."""
    root = tmp_path_factory.mktemp("photographs")
    for number, (split, name) in enumerate((split, name) for split in ("train", "test") for name in ("cat", "dog")):
        (root / split / name).mkdir(parents=True)
        for index in range(4):
            size = (90, 110) if index % 2 else (120, 80)
            made_photograph(size, 4 * number + index).save(root / split / name / f"{index}.png")
    return root


@pytest.mark.parametrize("size", [(151, 200), (200, 151), (90, 90), (30, 47)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("ratio", [0.875, 0.95])
def test_a_photograph_is_cropped_to_the_pixel_as_torchvision_and_timm_do_it(size, ratio, interpolation, tmp_path):
    photograph = made_photograph(size)
    photograph.save(tmp_path / "photograph.png")
    whole = math.floor(64 / ratio)  # timm's
    theirs = CenterCrop(64)(Resize(whole, InterpolationMode(interpolation))(photograph))
    ours = decode(tmp_path / "photograph.png", (64, 64), 3, crop_ratio=ratio, interpolation=interpolation)
    assert np.array_equal(ours, np.asarray(theirs))
    others = {"bicubic": "bilinear", "bilinear": "bicubic"}
    other = decode(tmp_path / "photograph.png", (64, 64), 3, crop_ratio=ratio, interpolation=others[interpolation])
    assert not np.array_equal(ours, other)
    assert not np.array_equal(ours, decode(tmp_path / "photograph.png", (64, 64), 3, interpolation=interpolation))


def test_sizes_that_are_not_square_are_cropped_as_timm_does_it(tmp_path):
    photograph = made_photograph((151, 200))
    photograph.save(tmp_path / "photograph.png")
    steps = timm.data.create_transform((3, 64, 48), crop_pct=0.875, interpolation="bicubic").transforms[:2]
    theirs = steps[1](steps[0](photograph))
    ours = decode(tmp_path / "photograph.png", (64, 48), 3, crop_ratio=0.875)
    assert ours.shape == (64, 48, 3)
    # The longer side is 97 pixels to timm, which rounds here, and 96 to torchvision, which rounds down.
    assert np.abs(ours.astype(int) - np.asarray(theirs)).mean() < 10
    whole = decode(tmp_path / "photograph.png", (64, 48), 3)
    assert np.abs(whole.astype(int) - np.asarray(theirs)).mean() > 30


def test_the_size_before_the_crop():
    assert before_crop((224, 224), 0.875) == (256, 256)
    assert before_crop((224, 224), 0.95) == (235, 235)
    assert before_crop((224, 192), 1.0) == (224, 192)
    for whole in range(224, 300):  # a ratio that was made of a size gives it back
        assert before_crop((224, 224), 224 / whole) == (whole, whole)


def test_kept_images_are_framed_once():
    pixels = torch.from_numpy(np.asarray(made_photograph((256, 256))).copy()).unsqueeze(0)
    assert torch.equal(framed(pixels, (224, 224), 0.875), pixels[:, 16:240, 16:240])
    measured = framed(pixels, (224, 224), 0.875)
    assert torch.equal(framed(measured, (224, 224), 0.875), measured)  # decoded so already
    assert not torch.equal(framed(pixels, (224, 224), 0.95), framed(pixels, (224, 224), 0.875))
    assert not torch.equal(framed(pixels, (96, 96), 0.9, "bilinear"), framed(pixels, (96, 96), 0.9))


@pytest.mark.parametrize("memory", [2.0, 0.0])
def test_a_folder_is_measured_by_the_ratio_and_trained_on_as_augment_says(photographs, memory):
    options = {"image_size": 70, "memory_gb": memory, "workers": 0}
    plain = load("folder", root=photographs, **options)
    data = load("folder", root=photographs, crop_ratio=0.8, interpolation="bilinear", **options)
    assert (data.crop_ratio, data.interpolation, data.augment) == (0.8, "bilinear", RRC)
    assert (plain.crop_ratio, plain.interpolation) == (1.0, "bicubic")
    expected = [decode(file, (70, 70), 3, crop_ratio=0.8, interpolation="bilinear") for file in map_paths(data)]
    assert np.array_equal(data.test.pixels(np.arange(8)).numpy(), np.stack(expected))
    assert not torch.equal(data.test.pixels(np.arange(8)), plain.test.pixels(np.arange(8)))
    # Training images are kept whole at 8/7 of the size, and cropped at random from it.
    assert data.train.pixels(np.arange(8)).shape == plain.train.pixels(np.arange(8)).shape == (8, 80, 80, 3)
    assert next(training_batches(data, batch_size=8, seed=0, stage=0, epoch=0)).images.shape == (8, 3, 70, 70)
    # Without random crops they are of one scale with the images that are measured.
    moved = load("folder", root=photographs, crop_ratio=0.8, augment="none", **options)
    file = photographs / "train" / "cat" / "0.png"
    assert np.array_equal(moved.train.pixels(np.array([0]))[0].numpy(), decode(file, (70, 70), 3, crop_ratio=0.8))


def map_paths(data):
    return [Path(name) for name in data.test.names]


@pytest.mark.parametrize("memory", [2.0, 0.0])
def test_validation_images_cut_from_training_are_framed_too(photographs, memory):
    options = {"root": photographs, "image_size": 70, "validation": 0.5, "memory_gb": memory, "workers": 0}
    images = {
        ratio: next(evaluation_batches(data, data.validation)).images
        for ratio in (1.0, 0.875, 0.7)
        if (data := load("folder", crop_ratio=ratio, **options))
    }
    assert all(batch.shape == (4, 3, 70, 70) for batch in images.values())
    assert not torch.equal(images[1.0], images[0.875])
    assert not torch.equal(images[0.7], images[0.875])
    data = load("folder", crop_ratio=0.875, **options)
    whole = data.train if memory else load("folder", **(options | {"validation": 0.0})).train
    assert whole.pixels(np.array([0])).shape[1] == before_crop((70, 70), 0.875)[0]  # cropped without resizing again
    # Of a picture that was kept larger, and so not to the pixel: but of the same part of it.
    decoded = np.stack([decode(Path(name), (70, 70), 3, crop_ratio=0.875) for name in data.validation.names])
    expected = normalise(torch.from_numpy(decoded), data.mean, data.std)
    distances = {ratio: (batch - expected).abs().mean() for ratio, batch in images.items()}
    assert distances[0.875] < 0.25 * min(distances[1.0], distances[0.7])


def test_options_that_stay_at_their_defaults_change_nothing(photographs):
    plain = load("folder", root=photographs, image_size=70)
    assert not {"crop_ratio", "interpolation"} & set(plain.options)
    explicit = load("folder", root=photographs, image_size=70, crop_ratio=1, interpolation="bicubic")
    assert torch.equal(explicit.test.data, plain.test.data)
    assert describe_data(explicit) == describe_data(plain)
    assert describe_data(plain)["digest"] == "e244e131996681b4"
    for options in ({"crop_ratio": 0.9}, {"interpolation": "bilinear"}):
        data = load("folder", root=photographs, image_size=70, **options)
        assert describe_data(data)["digest"] != describe_data(plain)["digest"]
        again = load(**yaml.safe_load(yaml.safe_dump(data.options)))
        assert torch.equal(again.test.data, data.test.data)
        assert describe_data(again) == describe_data(data)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"crop_ratio": 0}, "crop_ratio is 0; .*above 0 and 1 or less"),
        ({"crop_ratio": 1.2}, "crop_ratio is 1.2"),
        ({"interpolation": "cubic"}, "unknown interpolation 'cubic'; did you mean 'bicubic'"),
    ],
)
def test_values_that_mean_nothing_are_one_line(options, line, photographs):
    with pytest.raises(UserError, match=line) as caught:
        load("folder", root=photographs, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("option", [{"crop_ratio": 0.9}, {"interpolation": "bilinear"}])
def test_data_that_are_not_decoded_from_files_have_no_such_options(option):
    with pytest.raises(UserError, match=f"{next(iter(option))}: data 'digits' has no such option"):
        load("digits", **option)


def test_published_weights_bring_their_own(photographs):
    network = Backbone("timm/resnet18.tv_in1k", pretrained=True)
    theirs = timm.data.create_transform(
        **timm.data.resolve_data_config({}, pretrained_cfg=timm.get_pretrained_cfg("resnet18.tv_in1k").to_dict())
    )
    data = load_for(network, {"name": "folder", "root": photographs})
    assert (data.image_size, data.crop_ratio, data.interpolation) == ((224, 224), 0.875, "bilinear")
    expected = torch.stack([theirs(Image.open(file)) for file in map_paths(data)])
    torch.testing.assert_close(
        next(evaluation_batches(data, data.test)).images.contiguous(), expected, atol=1e-5, rtol=0
    )
    # What the user gives goes before, and is there again when the run is repeated from its configuration.
    options = {"name": "folder", "root": photographs, "crop_ratio": 1.0, "interpolation": "bicubic"}
    own = load_for(network, options)
    again = load_for(network, own.options)
    assert (own.crop_ratio, own.interpolation) == (again.crop_ratio, again.interpolation) == (1.0, "bicubic")
    # Where objects are trained on at the size that they have, nothing is cropped off of what is measured.
    moved = load_for(network, {"name": "folder", "root": photographs, "augment": "crop-flip"})
    assert (moved.crop_ratio, moved.interpolation) == (1.0, "bilinear")
    assert load_for(network, {"name": "digits"}).crop_ratio == 1.0
    assert load_for("resnet8", {"name": "folder", "root": photographs}).crop_ratio == 1.0


@pytest.fixture(scope="module")
def cropped_run(photographs, tmp_path_factory):
    """A run on images of which the middle 60 % is measured, resized bilinearly."""
    data = load("folder", root=photographs, image_size=32, crop_ratio=0.6, interpolation="bilinear")
    out = tmp_path_factory.mktemp("runs") / "cropped"
    options = {"epochs": 2, "batch_size": 4, "progress": False}
    return coterie.train(Vanilla(network="resnet8"), data, out=out, **options)


def test_what_is_evaluated_is_what_is_predicted_and_exported(cropped_run, photographs, tmp_path):
    run = cropped_run
    assert (run.card["crop_ratio"], run.card["interpolation"]) == (0.6, "bilinear")
    assert {"crop_ratio": 0.6, "interpolation": "bilinear"}.items() <= run.config["data"].items()
    data = run.data()
    with torch.inference_mode():
        expected = run.model(next(evaluation_batches(data, data.test)).images).softmax(1)
    files = map_paths(data)
    sources = [run]
    for form in ("safetensors", "onnx"):
        sources.append(coterie.export(run, form, tmp_path / f"net.{form}").path)
        assert json.loads((tmp_path / f"net.{form}.json").read_text())["crop_ratio"] == 0.6
    for source in sources:
        found = coterie.predict(source, files, top=2)
        answers = torch.tensor([dict(zip(each.classes, each.probabilities, strict=True))["cat"] for each in found])
        torch.testing.assert_close(answers, expected[:, 0], atol=1e-4, rtol=0)
    nll = -expected[torch.arange(8), torch.from_numpy(data.test.labels)].log().mean()
    assert coterie.evaluate(run)["nll"] == pytest.approx(nll.item(), abs=1e-4)
    assert coterie.evaluate(run, crop_ratio=1.0)["nll"] != pytest.approx(nll.item(), abs=1e-4)
    assert 0 <= coterie.evaluate(run, name="folder", root=photographs)["error"] <= 100


def test_a_card_that_does_not_say_it_is_read_as_before(cropped_run, tmp_path):
    old = tmp_path / "old"
    (old / "students").mkdir(parents=True)
    card = json.loads((cropped_run.path / "model.json").read_text())
    (old / "model.json").write_text(json.dumps({key: card[key] for key in card if key not in FRAMING}))
    config = yaml.safe_load((cropped_run.path / "config.yaml").read_text())
    config["data"] = {key: value for key, value in config["data"].items() if key not in FRAMING}
    (old / "config.yaml").write_text(yaml.safe_dump(config))
    (old / "model.safetensors").write_bytes((cropped_run.path / "model.safetensors").read_bytes())
    run = coterie.Run(old)
    data = run.data()
    assert (data.crop_ratio, data.interpolation) == (1.0, "bicubic")
    with torch.inference_mode():
        expected = run.model(next(evaluation_batches(data, data.test)).images).softmax(1)
    found = coterie.predict(run, map_paths(data), top=1)
    assert [each.probabilities[0] for each in found] == pytest.approx(expected.max(1).values.tolist(), abs=1e-5)
    (old / "model.json").write_text(json.dumps(card | {"crop_ratio": 1.5}))
    with pytest.raises(UserError, match=r"crop_ratio is 1.5"):
        coterie.predict(run, map_paths(data))


def test_a_run_goes_on_with_the_ratio_that_it_began_with(cropped_run, photographs, capsys):
    command = ["train", "--method", "vanilla", "--network", "resnet8", "--data", "folder", "--data.root"]
    command += [str(photographs), "--data.image_size", "32", "--epochs", "2", "--batch_size", "4", "--resume"]
    command += ["--out", str(cropped_run.path)]
    with pytest.raises(SystemExit):
        main([*command, "--data.interpolation", "bilinear", "--data.crop_ratio", "0.7"])
    assert "--data.crop_ratio is 0.7, and the run in" in capsys.readouterr().err
    main([*command, "--data.interpolation", "bilinear", "--data.crop_ratio", "0.6"])
    assert "this run is finished" in capsys.readouterr().err
