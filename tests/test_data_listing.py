"""What of a folder is used and what is left out, which folders are splits, and names that cannot be printed."""

import os
import threading

import numpy as np
import pytest
from PIL import Image

from coterie import UserError
from coterie.data import decode, load

random = np.random.default_rng(3)


def write_classes(root, classes=("cat", "dog", "owl"), count=4, suffix="png"):
    for name in classes:
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            Image.fromarray(random.integers(0, 256, (12, 12, 3), np.uint8)).save(root / name / f"{index}.{suffix}")


def total(data):
    return sum(len(split) for split in (data.train, data.validation, data.test) if split is not None)


# What is left out ---------------------------------------------------------------------------------------------------


def test_all_that_is_left_out_is_counted_and_named_once(tmp_path, caplog):
    root = tmp_path / "data"
    write_classes(root)
    cat = root / "cat"
    for name in ("a.heic", "b.heif", "no_suffix", "notes.txt"):
        (cat / name).write_bytes(b"x")
    for name in (".DS_Store", "._0.png"):  # a file manager's, no image of anybody's
        (cat / name).write_bytes(b"x")
    (cat / ".hidden.png").write_bytes((cat / "0.png").read_bytes())
    (cat / "broken.png").symlink_to("nowhere.png")
    os.mkfifo(cat / "pipe.png")
    (root / "top.png").write_bytes((cat / "0.png").read_bytes())
    assert total(load("folder", root=root)) == 12
    load("folder", root=root)
    lines = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert len(lines) == 1
    assert "outside of the class folders: 1 (top.png)" in lines[0]
    assert (
        "no images that Pillow reads, by their names: 4 (cat/a.heic, cat/b.heif, cat/no_suffix and 1 more)" in lines[0]
    )
    assert "hidden by a dot before their names: 1 (cat/.hidden.png)" in lines[0]
    assert "links that lead nowhere: 1 (cat/broken.png)" in lines[0]
    assert "no regular files (pipes, sockets, devices): 1 (cat/pipe.png)" in lines[0]


def test_linked_folders_are_followed_but_not_into_the_data_themselves(tmp_path, caplog):
    root = tmp_path / "data"
    write_classes(root)
    write_classes(tmp_path / "more", ("a",), count=3)
    (tmp_path / "more" / "a" / "back").symlink_to(tmp_path / "more")
    (root / "cat" / "linked").symlink_to(tmp_path / "more")
    (root / "cat" / "all").symlink_to("..")
    (root / "cat" / "self").symlink_to(".")
    (root / "cat" / "other").symlink_to("../dog")
    data = load("folder", root=root)
    labels = np.concatenate([data.train.labels, data.test.labels])
    assert np.bincount(labels).tolist() == [7, 4, 4]
    assert "links to folders that are read anyway: 4" in caplog.text


def test_a_link_to_the_data_or_to_a_class_is_no_class(tmp_path, caplog):
    root = tmp_path / "data"
    write_classes(root)
    write_classes(tmp_path / "pool", ("emu",))
    (root / "all").symlink_to(".")
    (root / "above").symlink_to(tmp_path)
    (root / "dog2").symlink_to("dog")
    (root / "emu").symlink_to("../pool/emu")  # a class that lies elsewhere is one
    data = load("folder", root=root)
    assert (data.classes, total(data)) == (("cat", "dog", "emu", "owl"), 16)
    assert "links to folders that are read anyway: 3 (above, all, dog2)" in caplog.text


def test_a_class_of_unreadable_files_names_them(tmp_path):
    write_classes(tmp_path)
    (tmp_path / "heic").mkdir()
    (tmp_path / "heic" / "a.heic").write_bytes(b"x")
    with pytest.raises(UserError, match=r"heic: a class folder without images \(it holds heic/a\.heic\)"):
        load("folder", root=tmp_path)


def test_a_pipe_is_refused_and_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    answers = []

    def ask():
        try:
            decode(tmp_path / "x.png", None, 3)
        except UserError as error:
            answers.append(str(error))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(10)
    assert len(answers) == 1
    assert "x.png: a pipe or device" in answers[0]
    with pytest.raises(UserError, match="a folder; name the images in it"):
        decode(tmp_path, None, 3)


# Damage -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", [2.0, 0.0])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_all_damaged_images_are_named_at_once_and_before_training(tmp_path, memory, suffix):
    write_classes(tmp_path, count=6, suffix=suffix)
    for index in range(3):
        path = tmp_path / "cat" / f"{index}.{suffix}"
        path.write_bytes(path.read_bytes()[:-60])  # the header is right
    with pytest.raises(UserError, match=r"3 of 18 images cannot be used: cat/.*cat/.*cat/.*; mend or remove them"):
        load("folder", root=tmp_path, memory_gb=memory, workers=0)
    for index in range(6):
        (tmp_path / "dog" / f"{index}.{suffix}").write_bytes(b"no image")
        (tmp_path / "owl" / f"{index}.{suffix}").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"15 of 18 images cannot be used: .* and 5 more; mend or remove them"):
        load("folder", root=tmp_path, memory_gb=memory, workers=0)


# Layouts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("Training", "Testing"), ("TRAIN", "Test"), ("train", "Validation")])
def test_splits_are_known_in_other_words_and_capitals(tmp_path, words):
    for word, count in zip(words, (4, 2), strict=True):
        write_classes(tmp_path / word, count=count)
    data = load("folder", root=tmp_path)
    assert (data.classes, len(data.train), len(data.test)) == (("cat", "dog", "owl"), 12, 6)


@pytest.mark.parametrize(
    "words",
    [("training_set", "test_set"), ("train_images", "val_images"), ("seg_test", "train"), ("TrainData", "test")],
)
def test_splits_under_longer_names_are_not_taken_for_classes(tmp_path, words):
    for word in words:
        write_classes(tmp_path / word)
    with pytest.raises(UserError, match=r"seem to be splits|has train/ and none of") as refused:
        load("folder", root=tmp_path)
    assert "\n" not in str(refused.value)


def test_classes_with_words_of_splits_in_their_names_are_classes(tmp_path):
    write_classes(tmp_path, ("test_tube", "train_car", "trainer"))
    assert load("folder", root=tmp_path).classes == ("test_tube", "train_car", "trainer")


@pytest.mark.parametrize("memory", [2.0, 0.0])
def test_three_folders_are_training_validation_and_test(tmp_path, memory):
    for word, count in (("train", 4), ("val", 3), ("test", 2)):
        write_classes(tmp_path / word, count=count)
    data = load("folder", root=tmp_path, memory_gb=memory, workers=0)
    assert (len(data.train), len(data.validation), len(data.test)) == (12, 9, 6)
    assert all("/val/" in name for name in data.validation.names)
    assert all("/test/" in name for name in data.test.names)
    assert data.drawn is None
    noisy = load("folder", root=tmp_path, noise=0.5)
    assert (noisy.validation.labels != data.validation.labels).any()
    with pytest.raises(UserError, match="validation: .*a validation set of its own"):
        load("folder", root=tmp_path, validation=0.2)


def test_held_out_images_may_be_of_some_classes(tmp_path, caplog):
    write_classes(tmp_path / "train")
    write_classes(tmp_path / "val", ("dog",))
    data = load("folder", root=tmp_path)
    assert (len(data.classes), set(data.test.labels)) == (3, {1})
    assert "no test image of 2 classes: cat, owl" in caplog.text


def test_a_class_may_be_called_train(tmp_path):
    write_classes(tmp_path, ("Train", "Plane"))
    assert load("folder", root=tmp_path).classes == ("Plane", "Train")


# Names --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "escaped"), [(b"ca\x1b[31mt", r"ca\\x1b\[31mt"), (b"caf\xe9", r"caf\\xe9"), (b"ca\nt", r"ca\\x0at")]
)
def test_class_names_that_cannot_be_printed_are_refused(tmp_path, name, escaped):
    write_classes(tmp_path)
    os.rename(os.fsencode(tmp_path / "cat"), os.path.join(os.fsencode(tmp_path), name))
    with pytest.raises(UserError, match=rf"{tmp_path}: the class name '{escaped}' holds control characters") as caught:
        load("folder", root=tmp_path)
    assert str(caught.value).isprintable()


def test_file_names_that_cannot_be_printed_are_named_with_escapes(tmp_path):
    write_classes(tmp_path)
    path = os.path.join(os.fsencode(tmp_path), b"cat", b"\xe9\x1b\n.png")
    with open(path, "wb") as file:
        file.write(b"no image")
    with pytest.raises(UserError, match=r"cat/\\xe9\\x1b\\x0a\.png: cannot be decoded") as caught:
        load("folder", root=tmp_path)
    assert str(caught.value).isprintable()


def test_names_of_many_scripts_are_classes(tmp_path):
    names = ("猫", "собака", "🦉", "a b")
    write_classes(tmp_path, names)
    assert set(load("folder", root=tmp_path).classes) == set(names)


def test_a_class_name_that_steers_the_terminal_is_refused_in_every_data_set(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for name in [f"data_batch_{index}" for index in range(1, 6)] + ["test_batch"]:
        (folder / f"{name}.bin").write_bytes(bytes(3073))
    for listing in (b"a\x1b[31m\nb\n", b"caf\xe9\nb\n"):
        (folder / "batches.meta.txt").write_bytes(listing)
        with pytest.raises(UserError, match="data .cifar10.: the class name"):
            load("cifar10", root=tmp_path)
