"""Folders of images."""

import numpy as np
import pytest
import torch
from PIL import Image

from coterie import UserError
from coterie.data import Resident, Streaming, decode, evaluation_batches, load, training_batches

random = np.random.default_rng(0)


def write_folder(root, count=6, size=(20, 20), suffix="png"):
    for split in ("train", "val"):
        for label, name in enumerate(("cat", "dog")):
            place = root / split / name
            place.mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 128, (*size, 3), np.uint8) + np.uint8(100 * label)
                Image.fromarray(pixels).save(place / f"{index}.{suffix}")


def test_a_folder_of_small_images_keeps_their_size(tmp_path):
    write_folder(tmp_path)
    data = load("folder", root=tmp_path)
    assert (data.image_size, data.channels, data.classes) == ((20, 20), 3, ("cat", "dog"))
    assert (len(data.train), len(data.test)) == (12, 12)
    assert isinstance(data.train, Resident)
    assert load("folder", root=tmp_path, image_size=16).image_size == (16, 16)


def test_streaming_gives_the_same_batches_as_resident(tmp_path):
    write_folder(tmp_path)
    resident = load("folder", root=tmp_path)
    for workers in (0, 1):
        streaming = load("folder", root=tmp_path, memory_gb=0, workers=workers)
        assert isinstance(streaming.train, Streaming)
        options = {"batch_size": 5, "seed": 0, "stage": 0, "epoch": 0, "views": 2}
        for ours, theirs in zip(
            training_batches(resident, **options), training_batches(streaming, **options), strict=True
        ):
            assert torch.equal(ours.views[1], theirs.views[1])
            assert torch.equal(ours.labels, theirs.labels)


def test_one_folder_is_split_by_the_seed_and_validation_by_class(tmp_path):
    write_folder(tmp_path, count=20)
    data = load("folder", root=tmp_path / "train", test_fraction=0.25)
    assert (len(data.train), len(data.test)) == (30, 10)
    assert np.bincount(data.test.labels).tolist() == [5, 5]
    held = load("folder", root=tmp_path, validation=0.2)
    assert (len(held.train), len(held.validation), len(held.test)) == (32, 8, 40)
    assert not set(held.train.names) & set(held.validation.names)


def saved(tmp_path, image, name="x.png", **options):
    image.save(tmp_path / name, **options)
    return decode(tmp_path / name, None, 3)


def test_every_kind_of_image_decodes(tmp_path):
    deep = Image.fromarray(np.array([[0, 32768, 65535]], np.uint16))
    assert saved(tmp_path, deep)[0, :, 0].tolist() == [0, 128, 255]
    clear = Image.new("RGBA", (2, 1), (10, 20, 30, 0))
    assert saved(tmp_path, clear)[0, 0].tolist() == [255, 255, 255]
    palette = Image.new("RGB", (2, 1), (200, 10, 10)).convert("P")
    assert abs(int(saved(tmp_path, palette)[0, 0, 0]) - 200) < 30
    assert saved(tmp_path, Image.new("L", (2, 1), 77))[0, 0].tolist() == [77] * 3
    assert saved(tmp_path, Image.new("1", (2, 1), 1))[0, 0].tolist() == [255] * 3
    assert saved(tmp_path, Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "x.jpg").min() > 250
    turned = Image.new("RGB", (4, 2))
    exif = turned.getexif()
    exif[0x0112] = 6
    assert saved(tmp_path, turned, "x.jpg", exif=exif).shape == (4, 2, 3)
    assert decode(tmp_path / "x.jpg", (8, 8), 1).shape == (8, 8, 1)


def test_what_is_wrong_with_a_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="root"):
        load("folder")
    with pytest.raises(UserError, match="no such folder"):
        load("folder", root=tmp_path / "nowhere")
    write_folder(tmp_path)
    (tmp_path / "val" / "bird").mkdir()
    with pytest.raises(UserError, match="bird: a class folder without images"):
        load("folder", root=tmp_path)
    Image.new("RGB", (20, 20)).save(tmp_path / "val" / "bird" / "0.png")
    with pytest.raises(UserError, match=r"bird: no class of train/"):
        load("folder", root=tmp_path)
    (tmp_path / "val" / "bird" / "0.png").unlink()
    (tmp_path / "val" / "bird").rmdir()
    broken = tmp_path / "train" / "cat" / "0.png"
    whole = broken.read_bytes()
    broken.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"0\.png: cannot be decoded"):
        load("folder", root=tmp_path)
    broken.write_bytes(whole[: len(whole) // 2])  # the header is right, the rest is not
    with pytest.raises(UserError, match=r"0\.png: cannot be decoded"):
        load("folder", root=tmp_path)
    broken.write_bytes(whole)
    (tmp_path / "test").mkdir()
    with pytest.raises(UserError, match="test: 0 class folders"):
        load("folder", root=tmp_path)
    (tmp_path / "test").rmdir()
    (tmp_path / "valid").mkdir()
    with pytest.raises(UserError, match="has val/ and valid/, of the same meaning"):
        load("folder", root=tmp_path)


def test_large_images_are_cropped_at_random_from_a_larger_size(tmp_path):
    write_folder(tmp_path, size=(90, 100))
    for memory in (2.0, 0.0):
        data = load("folder", root=tmp_path, image_size=70, memory_gb=memory, workers=0, validation=0.4)
        assert data.augment == "random-resized-crop"
        assert data.train.pixels(np.array([0])).shape == (1, 80, 80, 3)
        assert data.test.pixels(np.array([0])).shape == (1, 70, 70, 3)
        options = {"seed": 0, "stage": 0, "epoch": 0}
        assert next(training_batches(data, batch_size=4, **options)).images.shape == (4, 3, 70, 70)
        for split in (data.test, data.validation, data.train):
            assert next(evaluation_batches(data, split)).images.shape == (len(split), 3, 70, 70)
        assert load(**data.options).augment == "random-resized-crop"
    moved = load("folder", root=tmp_path, image_size=70, augment="crop-flip")
    assert moved.train.data.shape[1:3] == (70, 70)
