"""What the data room refuses, and the corners of its readers."""

import pickle
import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from coterie import UserError
from coterie.data import decode, load, training_batches
from coterie.data.splits import stratified

random = np.random.default_rng(1)


@given(st.lists(st.integers(0, 6), min_size=2, max_size=80), st.data())
def test_every_class_of_two_keeps_one_in_each_part(labels, data):
    labels = np.array(labels)
    classes = len(np.unique(labels))
    count = data.draw(st.integers(1, len(labels) - 1))
    first, rest = stratified(labels, count, seed=0)
    for each in np.unique(labels):
        if (labels == each).sum() < 2:
            continue
        if count >= classes:
            assert (labels[first] == each).any()
        if len(labels) - count >= classes:
            assert (labels[rest] == each).any()


def test_a_large_class_does_not_take_a_small_class_from_validation():
    labels = np.repeat(np.arange(10), [2] * 9 + [200])
    first, _ = stratified(labels, 11, seed=0)
    assert set(labels[first]) == set(range(10))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"augment": "flop"}, "unknown augment 'flop'"),
        ({"channels": 2}, "channels is 2"),
        ({"root": ""}, "root is empty; name a folder, '.' for this one"),
        ({"std": (0.0,)}, "std, item 1 is 0.0"),
        ({"mean": (0.1, 0.2)}, "mean has 2 values"),
        ({"seed": -1}, "seed is -1"),
        ({"workers": -2}, "workers is -2"),
        ({"memory_gb": float("nan")}, "memory_gb is nan"),
        ({"image_size": (8, 8, 8)}, "image_size has 3 values"),
        ({"root": "somewhere"}, "root"),
        ({"test_fraction": 0.0001}, "test_fraction=0.0001 holds out 0 of 1797 images"),
    ],
)
def test_a_wrong_option_is_named(options, said):
    with pytest.raises(UserError, match=said):
        load("digits", **options)


def test_a_batch_too_small_for_its_processes_is_named(digits):
    with pytest.raises(UserError, match="batch_size is 3; use 4 or more"):
        next(training_batches(digits, batch_size=3, seed=0, stage=0, epoch=0, world=2))


@pytest.mark.parametrize(("side", "label"), [(28, 10), (27, 0)])
def test_idx_files_that_are_not_fashion_mnist_are_refused(tmp_path, side, label):
    for name in ("train", "t10k"):
        pixels = random.integers(0, 256, (4, side, side), np.uint8)
        for kind, array in (("images", pixels), ("labels", np.full(4, label, np.uint8))):
            head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            (tmp_path / f"{name}-{kind}-idx{array.ndim}-ubyte").write_bytes(head + array.tobytes())
    with pytest.raises(UserError, match="not Fashion-MNIST's"):
        load("fashion_mnist", root=tmp_path)


def test_an_svhn_label_out_of_range_is_named(tmp_path):
    pixels = random.integers(0, 256, (32, 32, 3, 2), np.uint8)
    for split in ("train", "test"):
        savemat(tmp_path / f"{split}_32x32.mat", {"X": pixels, "y": np.array([[1], [11]], np.uint8)})
    with pytest.raises(UserError, match=r"train_32x32\.mat: labels from 1 to 11"):
        load("svhn", root=tmp_path)


@pytest.mark.parametrize(("labels", "said"), [([-1, 0], "a label of -1"), (["x", "y"], "no integers")])
def test_wrong_cifar_labels_are_named(tmp_path, labels, said):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = random.integers(0, 256, (2, 3072), np.uint8)
    for name in [f"data_batch_{index}" for index in range(1, 6)] + ["test_batch"]:
        (folder / name).write_bytes(pickle.dumps({b"data": pixels, b"labels": labels}, protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"a", b"b"]}, protocol=2))
    with pytest.raises(UserError, match=said):
        load("cifar10", root=tmp_path)


def test_a_download_that_fails_without_a_word_is_one_line(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError

    monkeypatch.setattr("torchvision.datasets.SVHN", refuse)
    with pytest.raises(UserError, match=r"SVHN cannot be downloaded \(RuntimeError\)"):
        load("svhn", root=tmp_path)


# Folders ------------------------------------------------------------------------------------------------------------


def test_a_dark_16_bit_image_keeps_its_range(tmp_path):
    Image.fromarray(np.full((4, 4), 200, np.uint16)).save(tmp_path / "dark.png")
    assert decode(tmp_path / "dark.png", None, 1).max() == 1


def test_images_on_their_side_give_their_upright_size(tmp_path):
    sideways = Image.new("RGB", (24, 16))
    exif = sideways.getexif()
    exif[0x0112] = 6
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            sideways.save(tmp_path / split / name / "0.jpg", exif=exif)
    assert load("folder", root=tmp_path).image_size == (24, 16)


def test_hidden_files_and_what_is_no_image_are_left_out(tmp_path):
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            place = tmp_path / split / name
            (place / ".thumbs").mkdir(parents=True)
            (place / "more.png").mkdir()
            for file in (place / "0.png", place / "more.png" / "1.png", place / ".thumbs" / "2.png", place / ".3.png"):
                Image.new("RGB", (10, 10)).save(file)
            (place / "notes.pdf").write_bytes(b"%PDF-1.4")
            (place / "notes.txt").write_text("notes")
    data = load("folder", root=tmp_path)
    assert (len(data.train), len(data.test)) == (4, 4)


def test_a_share_of_the_digits_can_be_held_out():
    data = load("digits", test_fraction=0.9, seed=3)
    assert (len(data.train), len(data.test)) == (180, 1617)
    assert set(np.bincount(data.train.labels)) <= {17, 18, 19}
    same, other = (load("digits", test_fraction=0.9, seed=seed) for seed in (3, 4))
    assert torch.equal(data.train.data, same.train.data)
    assert not torch.equal(data.train.data, other.train.data)
    assert (data.options["test_fraction"], data.options["seed"]) == (0.9, 3)
    with pytest.raises(UserError, match="data 'svhn' has no such option; leave it out"):
        load("svhn", test_fraction=0.5)
