"""The layouts in which data sets lie on disk, and what becomes of an option that a data set does not have."""

import pickle
import struct

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from coterie import UserError
from coterie.data import Streaming, evaluation_batches, load, training_batches
from coterie.data.pixels import EIGHT
from coterie.data.sources.folder_survey import Header, read_header
from coterie.data.transforms import augment, normalise
from coterie.processor import memory_format

random = np.random.default_rng(2)
EPOCH = {"seed": 0, "stage": 0, "epoch": 0}


def rgb(count):
    return random.integers(0, 256, (count, 32, 32, 3), np.uint8)


def flat(pixels):
    return pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)


def write_folder(root, splits=("train", "val"), size=(20, 20), mode="RGB", count=3):
    for split in splits:
        for name in ("cat", "dog"):
            place = root / split / name
            place.mkdir(parents=True)
            for index in range(count):
                image = Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8)).convert(mode)
                image.save(place / f"{index}.png")


# Augmentation -------------------------------------------------------------------------------------------------------


def test_crop_moves_and_never_mirrors():
    ramp = torch.arange(1, 33, dtype=torch.uint8).expand(64, 32, 32).unsqueeze(3)  # brighter to the right
    rows = augment(ramp, np.arange(64), 7, "crop")[:, 16, :, 0].int()
    inside = (rows[:, 1:] > 0) & (rows[:, :-1] > 0)
    assert ((rows[:, 1:] - rows[:, :-1])[inside] == 1).all()
    assert len({tuple(row.tolist()) for row in rows}) == 9  # four pixels either way, and none
    mirrored = augment(ramp, np.arange(64), 7, "crop-flip")[:, 16, :, 0].int()
    assert (mirrored[:, 16] < mirrored[:, 15]).any()


def test_none_leaves_training_images_as_they_are(digits):
    data = load("digits", train_samples=40, augment="none")
    batch = next(training_batches(data, batch_size=40, **EPOCH))
    assert torch.equal(batch.images, normalise(data.train.pixels(batch.indices.numpy()), data.mean, data.std))
    assert torch.equal(batch.labels, torch.from_numpy(data.train.labels)[batch.indices])


# CIFAR, Fashion-MNIST -----------------------------------------------------------------------------------------------


def python2_pickle(pixels, labels):
    """The very opcodes of the published files: protocol 2 written by Python 2, whose strings are bytes."""

    def text(value):
        return b"U" + bytes([len(value)]) + value

    def long_text(value):
        return b"T" + struct.pack("<i", len(value)) + value

    rows, width = pixels.shape
    array = b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\n" + b"K\x00\x85" + text(b"b") + b"\x87R"
    dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R"
    dtype += b"(K\x03" + text(b"|") + b"NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb"
    shape = b"M" + struct.pack("<H", rows) + b"M" + struct.pack("<H", width) + b"\x86"
    state = b"(K\x01" + shape + dtype + b"\x89" + long_text(pixels.tobytes()) + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + state + text(b"labels") + numbers + b"u."


def test_cifar10_as_python_2_wrote_it(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = rgb(3)
    for name in [f"data_batch_{index}" for index in range(1, 6)] + ["test_batch"]:
        (folder / name).write_bytes(python2_pickle(flat(pixels), [1, 0, 1]))
    (folder / "batches.meta").write_bytes(b"\x80\x02}U\x0blabel_names](U\x01aU\x01bes.")
    data = load("cifar10", root=tmp_path)
    assert torch.equal(data.test.data, torch.from_numpy(pixels))
    assert data.train.labels.tolist() == [1, 0, 1] * 5
    assert data.classes == ("a", "b")


def test_cifar10_binary_layout(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    pixels = rgb(2)
    rows = np.concatenate([np.array([[1], [0]], np.uint8), flat(pixels)], 1)
    for name in [f"data_batch_{index}" for index in range(1, 6)] + ["test_batch"]:
        (folder / f"{name}.bin").write_bytes(rows.tobytes())
    (folder / "batches.meta.txt").write_text("plane\ncar\n\n")
    data = load("cifar10", root=tmp_path)
    assert data.classes == ("plane", "car")
    assert data.train.labels.tolist() == [1, 0] * 5
    assert torch.equal(data.test.data, torch.from_numpy(pixels))
    (folder / "data_batch_3.bin").unlink()
    with pytest.raises(UserError, match=r"data_batch_3\.bin: cannot be read"):
        load("cifar10", root=tmp_path)


def test_cifar100_python_layout_has_the_fine_labels(tmp_path):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    content = {b"data": flat(rgb(2)), b"fine_labels": [2, 1], b"coarse_labels": [0, 0]}
    for name in ("train", "test"):
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    (folder / "meta").write_bytes(pickle.dumps({b"fine_label_names": [b"x", b"y", b"z"]}, protocol=2))
    assert load("cifar100", root=tmp_path).train.labels.tolist() == [2, 1]


def test_fashion_mnist_where_torchvision_puts_it(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = random.integers(0, 256, (4, 28, 28), np.uint8)
    for name in ("train", "t10k"):
        (raw / f"{name}-images-idx3-ubyte").write_bytes(
            bytes([0, 0, 8, 3]) + struct.pack(">3I", 4, 28, 28) + bytes(pixels)
        )
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(
            bytes([0, 0, 8, 1]) + struct.pack(">I", 4) + bytes([9, 8, 7, 0])
        )
    data = load("fashion_mnist", root=tmp_path, download=False)
    assert torch.equal(data.test.data[..., 0], torch.from_numpy(pixels))
    assert data.classes[data.train.labels[0]] == "Ankle boot"


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn"])
def test_what_is_not_there_and_may_not_be_fetched_is_named(tmp_path, name):
    with pytest.raises(UserError, match="download"):
        load(name, root=tmp_path, download=False)


# Folders ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("held_out", ["val", "test", "valid"])
def test_each_name_of_the_held_out_images_is_known(tmp_path, held_out):
    write_folder(tmp_path, ("train", held_out), size=(70, 90))
    data = load("folder", root=tmp_path)
    assert (data.image_size, data.channels, len(data.test)) == ((224, 224), 3, 6)
    assert load("folder", root=tmp_path, default_image_size=(32, 40)).image_size == (32, 40)


def test_grey_folders_have_one_channel(tmp_path):
    write_folder(tmp_path, mode="L")
    data = load("folder", root=tmp_path)
    assert (data.channels, data.mean, data.std) == (1, (0.449,), (0.226,))
    assert data.train.data.shape == (6, 20, 20, 1)
    Image.new("RGB", (20, 20)).save(tmp_path / "val" / "cat" / "colour.png")
    assert load("folder", root=tmp_path).channels == 3


def test_options_make_the_same_folder_again_through_yaml(tmp_path):
    write_folder(tmp_path / "all", ("",), count=10)
    data = load("folder", root=tmp_path / "all", test_fraction=0.3, validation=0.2, train_samples=10, seed=4)
    again = load(**yaml.safe_load(yaml.safe_dump(data.options)))
    for split in ("train", "test", "validation"):
        assert getattr(again, split).names == getattr(data, split).names
    assert (len(data.train), len(data.validation), len(data.test)) == (8, 2, 6)


def test_imagenet_streams_and_needs_both_splits(tmp_path):
    write_folder(tmp_path)
    data = load("imagenet", root=tmp_path, memory_gb=0, workers=0)
    assert (data.image_size, data.augment, len(data.test)) == ((224, 224), "random-resized-crop", 6)
    assert isinstance(data.train, Streaming)
    batch = next(evaluation_batches(data, data.test, batch_size=4))
    assert batch.images.shape == (4, 3, 224, 224)
    assert batch.images.is_contiguous(memory_format=memory_format())
    with pytest.raises(UserError, match=r"train: missing.*ImageNet"):
        load("imagenet", root=tmp_path / "val")


def test_val_without_train_is_not_taken_for_classes(tmp_path):
    write_folder(tmp_path, ("val", "test"))
    with pytest.raises(UserError, match="no train/"):
        load("folder", root=tmp_path)


@pytest.mark.parametrize("name", ["folder", "imagenet"])
def test_a_test_fraction_is_refused_where_nothing_is_split(tmp_path, name):
    write_folder(tmp_path)
    with pytest.raises(UserError, match="test_fraction"):
        load(name, root=tmp_path, test_fraction=0.2)


def test_looking_at_a_png_does_not_decode_it(tmp_path, monkeypatch):
    Image.new("RGB", (9, 7)).save(tmp_path / "x.png")

    def refuse(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", refuse)
    assert read_header(tmp_path / "x.png") == Header((7, 9), False, EIGHT, False)


def test_a_png_on_its_side_is_seen(tmp_path):
    sideways = Image.new("RGB", (24, 16))
    exif = sideways.getexif()
    exif[0x0112] = 6
    sideways.save(tmp_path / "x.png", exif=exif)
    assert read_header(tmp_path / "x.png").size == (24, 16)


def test_streaming_leaves_random_numbers_alone_and_names_a_broken_file(tmp_path):
    write_folder(tmp_path)
    data = load("folder", root=tmp_path, memory_gb=0, workers=1)
    before = torch.get_rng_state()
    assert len(list(training_batches(data, batch_size=4, **EPOCH))) == 2
    assert torch.equal(torch.get_rng_state(), before)
    broken = tmp_path / "train" / "dog" / "1.png"
    broken.write_bytes(broken.read_bytes()[:200])  # after it was looked at
    with pytest.raises(UserError, match=r"dog.1\.png: cannot be decoded"):
        list(training_batches(data, batch_size=4, **EPOCH))


# Options ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"memory_gb": 0.5}, "memory_gb: data 'digits'"),
        ({"workers": 2}, "workers: data 'digits'"),
        ({"mean": (float("nan"),)}, "mean"),
        ({"std": (float("inf"),)}, "std"),
    ],
)
def test_an_option_without_meaning_is_named(options, said):
    with pytest.raises(UserError, match=said):
        load("digits", **options)


def test_too_few_images_for_the_processes_are_named():
    data = load("digits", train_samples=3)
    assert len(list(training_batches(data, batch_size=4, **EPOCH))) == 1
    with pytest.raises(UserError, match="3 training images; give 4 or more"):
        list(training_batches(data, batch_size=4, world=2, **EPOCH))
