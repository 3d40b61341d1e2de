"""Order of batches, splits, and the readers of data sets by name."""

import gzip
import os
import pickle
import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import savemat

from coterie import UserError
from coterie.data import batches_per_epoch, evaluation_batches, load, training_batches
from coterie.data.splits import stratified
from coterie.data.transforms import normalise

random = np.random.default_rng(0)


def rgb(count):
    return random.integers(0, 256, (count, 32, 32, 3), np.uint8)


def flat(pixels):
    return pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)


# Order --------------------------------------------------------------------------------------------------------------


def collected(data, **options):
    batches = list(training_batches(data, seed=3, stage=0, epoch=1, **options))
    indices = torch.cat([batch.indices for batch in batches])
    return indices, torch.cat([batch.images for batch in batches]), [len(batch.labels) for batch in batches]


def test_order_and_augmentation_do_not_depend_on_batches_or_processes(digits):
    indices, images, _ = collected(digits, batch_size=32)
    again, same, sizes = collected(digits, batch_size=40)
    assert sizes == [40] * 4
    assert torch.equal(indices, again)
    assert torch.equal(images, same)
    parts = [collected(digits, batch_size=32, rank=rank, world=2) for rank in (0, 1)]
    by_index = {int(i): image for part in parts for i, image in zip(part[0], part[1], strict=True)}
    assert len(by_index) == len(digits.train)
    assert all(torch.equal(by_index[int(i)], image) for i, image in zip(indices, images, strict=True))
    tail, _, _ = collected(digits, batch_size=32, start=3)
    assert torch.equal(tail, indices[96:])


def test_epochs_and_views_differ(digits):
    first, second = (next(training_batches(digits, batch_size=32, seed=0, stage=0, epoch=e, views=2)) for e in (0, 1))
    assert not torch.equal(first.indices, second.indices)
    assert not torch.equal(first.views[0], first.views[1])


@given(st.integers(2, 300), st.integers(2, 64), st.integers(1, 3))
def test_every_process_gets_two_images_or_the_batch_is_left_out(count, size, world):
    whole, rest = divmod(count, size)
    assert batches_per_epoch(count, size, world) == whole + (1 if rest >= 2 * world else 0)


def test_evaluation_meets_every_image_once(digits):
    seen = [
        b.indices
        for rank in range(3)
        for b in evaluation_batches(digits, digits.test, batch_size=7, rank=rank, world=3)
    ]
    assert torch.cat(seen).tolist() == list(range(len(digits.test)))


@given(st.lists(st.integers(0, 4), min_size=2, max_size=60), st.data())
def test_stratified_splits_keep_proportions(labels, data):
    labels = np.array(labels)
    count = data.draw(st.integers(1, len(labels) - 1))
    first, rest = stratified(labels, count, seed=0)
    assert len(first) == count
    assert sorted([*first, *rest]) == list(range(len(labels)))
    for each in np.unique(labels):
        wanted = count * (labels == each).mean()
        assert abs((labels[first] == each).sum() - wanted) <= 2


# Readers ------------------------------------------------------------------------------------------------------------


def test_digits_split_never_depends_on_the_seed():
    one, two = load("digits"), load("digits", seed=5)
    assert (len(one.train), len(one.test)) == (1297, 500)
    assert np.array_equal(one.test.labels, two.test.labels)
    assert one.train.data.max() == 255
    assert abs(normalise(one.train.data, one.mean, one.std).mean()) < 0.02


def idx(path, array, magic):
    path.write_bytes(gzip.compress(magic + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()))


def write_fashion(root, count=20):
    labels = (np.arange(count) % 10).astype(np.uint8)
    for name in ("train", "t10k"):
        idx(root / f"{name}-images-idx3-ubyte.gz", random.integers(0, 256, (count, 28, 28), np.uint8), b"\0\0\x08\x03")
        idx(root / f"{name}-labels-idx1-ubyte.gz", labels, b"\0\0\x08\x01")


def test_fashion_mnist_is_read_and_truncation_is_named(tmp_path):
    write_fashion(tmp_path)
    data = load("fashion_mnist", root=tmp_path)
    assert data.train.data.shape == (20, 28, 28, 1)
    assert data.train.labels.tolist()[:3] == [0, 1, 2]
    broken = tmp_path / "t10k-images-idx3-ubyte.gz"
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(UserError, match="t10k-images-idx3-ubyte.gz.*fetch"):
        load("fashion_mnist", root=tmp_path)


def write_cifar10(root, pixels, labels):
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        content = {b"data": flat(pixels), b"labels": labels, b"batch_label": b"x", b"filenames": []}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"a", b"b", b"c"]}, protocol=2))
    return folder


def test_cifar10_python_layout(tmp_path):
    pixels = rgb(4)
    folder = write_cifar10(tmp_path, pixels, [0, 1, 2, 1])
    data = load("cifar10", root=tmp_path)
    assert len(data.train) == 20
    assert torch.equal(data.test.data, torch.from_numpy(pixels))
    assert data.test.labels.tolist() == [0, 1, 2, 1]
    assert data.classes == ("a", "b", "c")
    whole = (folder / "test_batch").read_bytes()
    (folder / "test_batch").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="test_batch: truncated"):
        load("cifar10", root=tmp_path)


class Evil:
    def __reduce__(self):
        return (os.system, ("touch owned",))


def test_a_malicious_pickle_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write_cifar10(tmp_path, rgb(2), [0, 1])
    (folder / "data_batch_1").write_bytes(pickle.dumps({b"data": Evil()}))
    with pytest.raises(UserError, match=r"data_batch_1.*asks for"):
        load("cifar10", root=tmp_path)
    assert not (tmp_path / "owned").exists()


def test_cifar100_binary_layout(tmp_path):
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    pixels = rgb(3)
    rows = np.concatenate([np.array([[9, 0], [9, 2], [9, 1]], np.uint8), flat(pixels)], 1)
    for name in ("train.bin", "test.bin"):
        (folder / name).write_bytes(rows.tobytes())
    (folder / "fine_label_names.txt").write_text("x\ny\nz\n")
    data = load("cifar100", root=tmp_path)
    assert data.train.labels.tolist() == [0, 2, 1]
    assert torch.equal(data.train.data, torch.from_numpy(pixels))
    (folder / "train.bin").write_bytes(rows.tobytes()[:-1])
    with pytest.raises(UserError, match="train.bin: truncated"):
        load("cifar100", root=tmp_path)


def test_svhn_with_and_without_extra(tmp_path):
    pixels = rgb(5)
    for split in ("train", "test", "extra"):
        labels = np.array([[10], [1], [2], [3], [4]], np.uint8)
        savemat(tmp_path / f"{split}_32x32.mat", {"X": pixels.transpose(1, 2, 3, 0), "y": labels})
    data = load("svhn", root=tmp_path)
    assert data.train.labels.tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(data.train.data, torch.from_numpy(pixels))
    assert data.augment == "none"
    assert (data.mean, data.std) == ((0.5,) * 3, (0.2,) * 3)
    assert len(load("svhn", root=tmp_path, extra=True).train) == 10
    (tmp_path / "test_32x32.mat").write_bytes(b"short")
    with pytest.raises(UserError, match="test_32x32.mat: truncated"):
        load("svhn", root=tmp_path)
    with pytest.raises(UserError, match="extra"):
        load("digits", extra=True)


def test_wrong_options_are_named():
    with pytest.raises(UserError, match="did you mean 'digits'"):
        load("digit")
    with pytest.raises(UserError, match="train_samples is 5000.*1297"):
        load("digits", train_samples=5000)
    with pytest.raises(UserError, match="validation"):
        load("digits", validation=1.5)
    with pytest.raises(UserError, match="image_size"):
        load("digits", image_size=4)


def test_other_sizes_channels_and_options_are_repeated():
    data = load("digits", image_size=16, channels=3, train_samples=50)
    assert data.train.data.shape == (50, 16, 16, 3)
    assert len(data.mean) == 3
    again = load(**data.options)
    assert torch.equal(again.train.data, data.train.data)
