"""Decoded images on disk: the same images, decoded once, in bounds, whatever happens to the files."""

import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from coterie.data import Streaming, evaluation_batches, load, training_batches
from coterie.data import disk_cache as cache
from coterie.data.disk_cache import DiskCache, cache_folder, keep_decoded
from coterie.data.pixels import decode as decode_whole
from coterie.data.say import say_once

SIZE = 40


def made_photograph(seed, size=(300, 420)):
    """Smooth waves and a little grain, as a photograph has them."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    waves = [np.sin(x / (23 + channel) + seed) + np.cos(y / (34 + channel)) for channel in range(3)]
    pixels = 128 + 50 * np.stack(waves, 2) + generator.normal(0, 4, (*size, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture
def own(tmp_path, monkeypatch):
    """An empty cache, and a process that has said nothing yet."""
    monkeypatch.setenv("COTERIE_CACHE", str(tmp_path / "cache"))
    say_once.cache_clear()
    return tmp_path / "cache" / "images"


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "photographs"
    for split, name in ((split, name) for split in ("train", "val") for name in ("cat", "dog")):
        (root / split / name).mkdir(parents=True)
        for index in range(4):
            made_photograph(len(split) + 10 * index + (name == "dog")).save(
                root / split / name / f"{index}.jpg", quality=92
            )
    return root


def streamed(root, **options):
    return load("folder", root=root, image_size=SIZE, memory_gb=0, **({"workers": 0} | options))


def pixels_of(data):
    """Two epochs of training images, and all test images."""
    options = {"batch_size": 4, "seed": 0, "stage": 0}
    epochs = [batch.images for epoch in (0, 1) for batch in training_batches(data, epoch=epoch, **options)]
    return torch.cat([*epochs, *(batch.images for batch in evaluation_batches(data, data.test))])


def files(own):
    return sorted(path for path in own.rglob("*") if path.is_file())


@pytest.mark.parametrize("workers", [0, 2])
def test_images_are_decoded_once_and_are_the_same(own, folder, workers, monkeypatch, caplog):
    plain = pixels_of(streamed(folder, cache_gb=0))
    assert not own.exists()
    first = streamed(folder, workers=workers)
    assert "decoded images are kept in" in caplog.text
    assert torch.equal(pixels_of(first), plain)
    assert len(files(own)) == 16
    again = streamed(folder, workers=workers)

    def refuse(*_, **__):
        raise AssertionError("decoded again")

    for split in (again.train, again.test):
        monkeypatch.setattr(split.decode, "decode", partial(refuse, **split.decode.decode.keywords))
    assert torch.equal(pixels_of(again), plain)


def test_a_file_that_changed_is_decoded_anew(own, folder):
    data = streamed(folder)
    before = pixels_of(data)
    changed = folder / "train" / "cat" / "0.jpg"
    state = changed.stat()
    made_photograph(7).save(changed, quality=92)
    os.utime(changed, ns=(state.st_atime_ns, state.st_mtime_ns))  # as tools that keep times do
    after = pixels_of(streamed(folder))
    assert not torch.equal(before, after)
    assert torch.equal(after, pixels_of(streamed(folder, cache_gb=0)))
    shutil.copy(folder / "train" / "dog" / "1.jpg", changed)
    assert torch.equal(pixels_of(data), pixels_of(streamed(folder, cache_gb=0)))  # while it is open, too


@pytest.mark.parametrize(
    "damage", [lambda whole: whole[:-1] + bytes([whole[-1] ^ 1]), lambda whole: whole[:50], lambda _: b""]
)
def test_what_is_damaged_is_decoded_anew_and_mended(own, folder, damage):
    data = streamed(folder)
    plain = pixels_of(data)
    for path in files(own):
        path.write_bytes(damage(path.read_bytes()))
    assert torch.equal(pixels_of(data), plain)
    whole = [path.read_bytes() for path in files(own)]
    shutil.rmtree(own)
    assert torch.equal(pixels_of(data), plain)  # deleted while it is used: the training goes on
    assert torch.equal(pixels_of(streamed(folder)), plain)
    assert [path.read_bytes() for path in files(own)] == whole


def test_ways_of_decoding_do_not_mix(own, folder):
    wide, narrow = (streamed(folder, augment="crop-flip", crop_ratio=ratio) for ratio in (1.0, 0.5))
    assert not torch.equal(pixels_of(wide), pixels_of(narrow))
    for ratio in (1.0, 0.5):
        kept, plain = (streamed(folder, augment="crop-flip", crop_ratio=ratio, cache_gb=gb) for gb in (10, 0))
        assert torch.equal(pixels_of(kept), pixels_of(plain))


def way(name, count=1):
    return partial(decode_whole, image_size=(SIZE, SIZE), channels=3, note=name), (SIZE, SIZE, 3), count


def fill(own, root, name, age):
    """A folder of the cache with one image, last used so many seconds ago."""
    (decode,) = keep_decoded(root, [way(name)], 1e9)
    (decode.folder / "image").write_bytes(bytes(SIZE * SIZE * 3 + 4))
    used = decode.folder.stat().st_mtime - age
    os.utime(decode.folder, (used, used))
    return decode.folder


def test_what_was_not_used_for_longest_makes_room(own, tmp_path):
    one = SIZE * SIZE * 3 + 4
    old, new = fill(own, tmp_path, "old", 200), fill(own, tmp_path, "new", 100)
    (third,) = keep_decoded(tmp_path, [way("third")], 2 * one)
    assert third.folder.is_dir()
    assert (old.exists(), new.exists()) == (False, True)
    (again,) = keep_decoded(tmp_path, [way("new")], 2 * one)
    assert again.folder == new
    assert third.folder.exists()


def test_more_than_is_allowed_is_not_kept_and_nothing_is_deleted_for_it(own, tmp_path, caplog):
    kept = fill(own, tmp_path, "kept", 100)
    (decode,) = keep_decoded(tmp_path, [way("large", 10)], 9 * SIZE * SIZE * 3)
    assert not isinstance(decode, DiskCache)
    assert "cache_gb" in caplog.text
    assert kept.exists()


def test_a_disk_without_room_is_left_alone(own, tmp_path, monkeypatch, caplog):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    (decode,) = keep_decoded(tmp_path, [way("any")], 1e9)
    assert not isinstance(decode, DiskCache)
    assert "the disk has 1e-06 GB left" in caplog.text


def test_a_cache_that_cannot_be_made_is_one_line(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("COTERIE_CACHE", str(tmp_path / "file"))
    say_once.cache_clear()
    (decode,) = keep_decoded(tmp_path, [way("any")], 1e9)
    assert not isinstance(decode, DiskCache)
    assert "cannot be kept there (Not a directory); set COTERIE_CACHE" in caplog.text


def test_a_full_disk_ends_the_keeping_and_not_the_training(own, folder, monkeypatch):
    plain = pixels_of(streamed(folder, cache_gb=0))
    data = streamed(folder)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.os, "replace", full)
    assert torch.equal(pixels_of(data), plain)
    assert not data.train.decode.writes
    assert files(own) == []


def test_the_cache_lies_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("COTERIE_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path / "images"
    monkeypatch.delenv("COTERIE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "coterie" / "images"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "coterie" / "images"


# Photographs that are far larger than what is made of them


@pytest.mark.parametrize(("side", "mean", "most"), [(256, 0.5, 3), (128, 0.5, 3), (64, 3, 12)])
def test_training_images_are_drafted_and_nearly_the_same(tmp_path, side, mean, most):
    path = tmp_path / "large.jpg"
    made_photograph(3, (900, 1200)).save(path, quality=92)
    for channels in (3, 1):
        decoded = [decode_whole(path, (side, side), channels, draft=draft) for draft in (False, True)]
        exact, drafted = (pixels.astype(int) for pixels in decoded)
        assert 0 < np.abs(exact - drafted).mean() < mean
        assert np.abs(exact - drafted).max() <= most


@pytest.mark.parametrize(("name", "size"), [("small.jpg", (200, 300)), ("large.png", (900, 1200))])
def test_what_cannot_be_drafted_is_exact(tmp_path, name, size):
    made_photograph(3, size).save(tmp_path / name)
    exact, drafted = (decode_whole(tmp_path / name, (128, 128), 3, draft=draft) for draft in (False, True))
    assert np.array_equal(exact, drafted)


def test_test_images_are_never_drafted(folder, own):
    data = streamed(folder, cache_gb=0)
    assert isinstance(data.test, Streaming)
    pixels = data.test.pixels(np.arange(len(data.test))).numpy()
    exact = np.stack([decode_whole(Path(name), (SIZE, SIZE), 3) for name in data.test.names])
    assert np.array_equal(pixels, exact)
