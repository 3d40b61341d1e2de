"""The training images of the report: what the first epoch gave, and what the page says of them."""

import base64
import dataclasses
import html
import io
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.nn import functional

import coterie
from coterie.data import training_batches
from coterie.methods import Vanilla
from coterie.recipes import Recipe
from coterie.reports.augmented import show_augmented
from coterie.reports.groups import group_runs
from coterie.reports.measured import Experiment, Measured


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """Trains the smallest network for an epoch, by a recipe."""
    made = tmp_path_factory.mktemp("runs")

    def trained(data, batch_size=20, **fields):
        out = made / str(len(list(made.iterdir())))
        options = {"epochs": 1, "batch_size": batch_size, "progress": False}
        return coterie.train(Vanilla(network="resnet8"), data, out=out, recipe=Recipe(**fields), **options)

    return trained


@pytest.fixture(scope="module")
def digits():
    """All four kinds of batches fit into their epoch of eight."""
    return coterie.data.load("digits", train_samples=160, test_samples=40, augment="crop")


def shown(*runs, data=None):
    """The parts of a page of these runs."""
    groups = group_runs(runs)
    measured = [Measured(group.runs[0], data or group.runs[0].data()) for group in groups]
    return show_augmented([Experiment(group, (run,)) for group, run in zip(groups, measured, strict=True)])


def image_of(picture):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(picture.url.partition(",")[2]))))


def pixels_of(picture):
    """The image in a data URL, in the data's own size (H, W): it is enlarged by whole factors."""
    image = image_of(picture)
    factor = len(image) // 8
    assert np.array_equal(np.kron(image[::factor, ::factor], np.ones((factor, factor))), image)
    return torch.from_numpy(image[::factor, ::factor].copy()).float()


def first_batch(data, **options):
    batch = next(training_batches(data, batch_size=20, seed=0, stage=0, epoch=0, **options))
    return ((batch.images * data.std[0] + data.mean[0]) * 255)[:, 0], batch.labels


def test_twelve_images_are_those_of_the_first_epoch(train, digits):
    (part,) = shown(train(digits))
    images, labels = first_batch(digits)
    assert len(part.pictures) == 12
    for picture, image, label in zip(part.pictures, images, labels.tolist(), strict=False):
        assert (pixels_of(picture) - image).abs().max() < 0.01
        assert picture.classes == [(str(label), "")]
    assert part.title == "What was trained on"
    assert "moved by up to an eighth of the side, none mirrored. Below" in part.text
    assert "mixed" not in part.text


def test_erasing_and_the_policy_change_the_images_and_the_words(train, digits):
    recipe = {"erasing": 0.5, "policy": "trivial-augment", "policy_strength": 0.7, "jitter": 0.2}
    run = train(digits, **recipe)
    (plain,), (part,) = shown(train(digits)), shown(run)
    different = [ours.url != theirs.url for ours, theirs in zip(part.pictures, plain.pictures, strict=True)]
    assert sum(different) >= 6
    images, _ = first_batch(digits, variation=Recipe(**recipe).variation)
    assert all(
        (pixels_of(picture) - image).abs().max() < 0.51 for picture, image in zip(part.pictures, images, strict=False)
    )
    for words in ("TrivialAugment at 70 % of its strength", "colours jittered by 0.2", "a box erased of 50 % of them"):
        assert words in part.text


def test_mixed_images_have_both_classes_and_their_shares(train, digits):
    recipe = {"cutmix": 1.0, "mixup": 1.0, "mix_probability": 0.6, "label_smoothing": 0.1}
    (part,) = shown(train(digits, **recipe))
    assert len(part.pictures) == 12
    alone = [picture for picture in part.pictures if len(picture.classes) == 1]
    mixed = [picture for picture in part.pictures if len(picture.classes) == 2]
    assert len(alone) >= 4  # as many of each kind: not mixed, mixup, cutmix; two of one class may be mixed
    assert len(alone) + len(mixed) == 12
    assert len({picture.classes[0][1] for picture in mixed}) == 2  # a share for mixup, one for cutmix
    for picture in mixed:
        (_, larger), (_, smaller) = picture.classes
        larger, smaller = (int(share.removesuffix("\N{NO-BREAK SPACE}%")) for share in (larger, smaller))
        assert larger + smaller == 100
        assert larger >= smaller > 0
    assert "mixed in pairs by mixup or cutmix in 60 % of the batches; labels smoothed by 0.1. Below" in part.text
    (plain,) = shown(train(digits))
    assert {picture.url for picture in part.pictures} != {picture.url for picture in plain.pictures}


def test_a_mixed_picture_is_what_the_network_saw(train, digits):
    recipe = Recipe(mixup=0.8)
    (part,) = shown(train(digits, mixup=0.8))
    images, labels = first_batch(digits, mixing=recipe.mixing)
    for picture, image, label in zip(part.pictures, images, labels, strict=False):
        assert (pixels_of(picture) - image).abs().max() < 0.51  # of 8 bits
        assert picture.classes[0][0] == str(int(label.argmax()))
    hard = functional.one_hot(labels.argmax(1), 10).float()
    assert not torch.equal(labels, hard)


def test_runs_that_are_varied_alike_share_their_pictures(train, digits):
    runs = [train(digits), train(digits, learning_rate=0.05), train(digits, erasing=0.5)]
    parts = shown(*runs)
    assert len(parts) == 2
    assert [part.title.count("vanilla") for part in parts] == [2, 1]
    assert len(shown(*runs[:2])) == 1


@pytest.fixture
def colours(tmp_path):
    """A folder of sixteen colour images of two classes."""
    for name, colour in (("<b>&amp;", (200, 40, 90)), ("blue", (10, 20, 220))):
        (tmp_path / "colours" / name).mkdir(parents=True)
        for index in range(10):
            plain = Image.new("RGB", (12, 12), tuple(value + index for value in colour))
            plain.save(tmp_path / "colours" / name / f"{index}.png")
    return tmp_path / "colours"


@pytest.mark.parametrize("memory", [2.0, 0.0])
def test_colour_images_are_collected_from_small_batches(train, colours, memory, tmp_path):
    data = coterie.data.load("folder", root=colours, augment="none", memory_gb=memory, workers=1)
    run = train(data, batch_size=4)
    (part,) = shown(run)
    assert len(part.pictures) == 12
    assert len({picture.url for picture in part.pictures}) == 12
    assert "(seed 0): as they are. Below" in part.text
    for picture in part.pictures:
        assert image_of(picture).shape == (156, 156, 3)
        assert (image_of(picture)[0, 0, 0] > 100) == (picture.classes == [("<b>&amp;", "")])
    text = coterie.report(run, tmp_path / "r.html").read_text()
    block = text[text.index("<h2>What was trained on</h2>") : text.index("<h2>The runs</h2>")]
    assert block.count("<figure><img") == 12
    assert html.escape("<b>&amp;") in block
    assert "<b>&amp;</b>" not in block


def test_without_training_images_there_is_no_picture_and_no_failure(train, colours, digits, tmp_path):
    run = train(coterie.data.load("folder", root=colours), batch_size=4)
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(colours, elsewhere)
    shutil.rmtree(elsewhere / "blue")
    text = coterie.report(run, tmp_path / "r.html", root=elsewhere).read_text()  # all of these are test images
    assert "What was trained on" not in text
    colours.rename(tmp_path / "moved")
    assert "What was trained on" not in coterie.report(run, tmp_path / "r.html").read_text()
    own = train(dataclasses.replace(digits, options={}))
    assert "What was trained on" not in coterie.report(own, tmp_path / "r.html").read_text()
    data = coterie.data.load("folder", root=tmp_path / "moved")
    assert len(shown(run, data=data)) == 1
    config = yaml.safe_load((run.path / "config.yaml").read_text())
    for recipe in (None, "short", {"name": "another"}, {"name": ["short"]}, {"name": "short", "erasing": 7}):
        (run.path / "config.yaml").write_text(yaml.safe_dump(config | {"recipe": recipe}))
        assert shown(run, data=data) == []
