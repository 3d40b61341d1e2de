"""Images that a CSV file lists."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import coterie
import resuming
from coterie import UserError
from coterie.cli import main
from coterie.data import Resident, Streaming, load, training_batches
from coterie.methods import Vanilla
from coterie.training import Interrupted
from toys import go, same

CLASSES = ("cat", "dog", "owl")


def write_list(folder, lines=None, header="image,label", count=8):
    """24 images in photos/, and labels.csv beside it."""
    (folder / "photos").mkdir(parents=True)
    rows = []
    for number in range(len(CLASSES) * count):
        label = number % len(CLASSES)
        pixels = np.random.default_rng(number).integers(0, 90, (12, 12, 3)) + 60 * label
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "photos" / f"{number}.png")
        rows.append(f"photos/{number}.png,{CLASSES[label]}")
    return write(folder, [header, *(lines(rows) if lines else rows)])


def write(folder, lines):
    file = folder / "labels.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


def with_split(rows):
    """Of each class: 5 to train on, 1 to choose by, 2 to test on."""
    return [f"{row},{'train' if n < 15 else 'Val' if n < 18 else 'test'}" for n, row in enumerate(rows)]


def test_a_fifth_is_held_out_and_its_labels_are_those_of_the_file(tmp_path):
    data = load("csv", file=write_list(tmp_path))
    assert (data.classes, data.image_size, data.channels) == (CLASSES, (12, 12), 3)
    assert (len(data.train), len(data.test), data.validation) == (19, 5, None)
    for images in (data.train, data.test):
        for name, label, pixels in zip(images.names, images.labels, images.pixels(np.arange(len(images))), strict=True):
            number = int(name.rpartition("/")[2].removesuffix(".png"))
            assert label == number % 3
            assert torch.equal(pixels, torch.from_numpy(np.asarray(Image.open(name)).copy()))
    assert not set(data.train.names) & set(data.test.names)
    again = load(**data.options)
    assert again.test.names == data.test.names
    assert load("csv", file=tmp_path / "labels.csv", test_fraction=0.5, seed=1).test.names != data.test.names
    assert len(load("csv", file=tmp_path / "labels.csv", test_fraction=0.5).test) == 12


def test_streaming_gives_the_same_batches_as_resident(tmp_path):
    file = write_list(tmp_path)
    resident, streaming = load("csv", file=file), load("csv", file=file, memory_gb=0, cache_gb=0, workers=0)
    assert isinstance(resident.train, Resident)
    assert isinstance(streaming.train, Streaming)
    options = {"batch_size": 5, "seed": 0, "stage": 0, "epoch": 0}
    for ours, theirs in zip(training_batches(resident, **options), training_batches(streaming, **options), strict=True):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.labels, theirs.labels)


def test_a_column_says_the_split(tmp_path, caplog):
    file = write_list(tmp_path, with_split, "image,label,split")
    data = load("csv", file=file, split_column="split")
    assert (len(data.train), len(data.validation), len(data.test), data.drawn) == (15, 3, 6, None)
    two = write(tmp_path, [line for line in file.read_text().splitlines() if not line.endswith("test")])
    data = load("csv", file=two, split_column="split")  # one set of held-out images is the test set
    assert (len(data.train), data.validation, len(data.test)) == (15, None, 3)
    assert len(load("csv", file=two, split_column="split", validation=0.2).validation) == 3
    load("csv", file=two)
    assert "its column 'split' is not used" in caplog.text
    with pytest.raises(UserError, match="test_fraction: .* says which images are held out"):
        load("csv", file=two, split_column="split", test_fraction=0.5)


def test_columns_separators_and_places_are_free(tmp_path):
    file = write_list(tmp_path)
    expected = load("csv", file=file)
    rows = [line.split(",") for line in file.read_text().splitlines()[1:]]
    moved = [f"{label};{name.removeprefix('photos/')}" for name, label in rows]
    other = tmp_path / "elsewhere.csv"
    other.write_text("\ufeffspecies;file name\n\n" + "\n".join(moved), encoding="utf-8")
    options = {"root": tmp_path / "photos", "image_column": "file name", "label_column": "species"}
    data = load("csv", file=other, **options)
    assert len(data.train) == len(expected.train)
    assert data.classes == CLASSES
    whole = write(tmp_path, ["image,label", *(f"{tmp_path / name},{label}" for name, label in rows)])
    assert set(load("csv", file=whole).train.names + load("csv", file=whole).test.names) == {
        str(tmp_path / name) for name, _ in rows
    }
    numbered = write(tmp_path, ["image,label", *(f"{name},{int(n > 11) * 9 + 1}" for n, (name, _) in enumerate(rows))])
    assert load("csv", file=numbered).classes == ("1", "10")
    mixed = write(tmp_path, ["image,label", *(f"{name},{(2, 10, 9)[n % 3]}" for n, (name, _) in enumerate(rows))])
    assert load("csv", file=mixed).classes == ("2", "9", "10")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            lambda rows: ["file,label", *rows],
            "has no column 'image'; its columns are file, label; say which with image_c",
        ),
        (lambda rows: ["image,class", *rows], "has no column 'label'.*label_column"),
        (lambda rows: ["image,label"], "lists no image"),
        (lambda rows: [], "has no column 'image'"),
        (lambda rows: ["image,label", *rows[:3], "photos/4.png,"], "row 5: nothing stands in column 'label'"),
        (lambda rows: ["image,label", rows[0], ",cat"], "row 3: nothing stands in column 'image'"),
        (
            lambda rows: ["image,label", rows[0], "", "photos/x.png,cat"],
            r"row 4: no file \S+photos/x\.png; put it there",
        ),
        (lambda rows: ["image,label", *rows, "a,cat", "b,cat"], r"row 26 \(and 1 other row\): no file"),
        (lambda rows: ["image,label", *rows, "photos/1.png,cat"], r"row 26: \S+1\.png stands in row 3 too"),
        (lambda rows: ["image,label", "photos/1.png,a,b"], "row 2: has 3 fields, and the row of column names 2"),
        (lambda rows: ["image,label", *(f"photos/{n}.png,cat" for n in range(4))], "all 4 rows are of class 'cat'"),
        (lambda rows: ["image,label", *rows[:2], '"photos/2.png,owl'], "row 4: is no CSV"),
    ],
)
def test_what_is_wrong_with_the_list_is_one_line_that_names_the_row(tmp_path, change, line):
    file = write_list(tmp_path)
    write(tmp_path, change(file.read_text().splitlines()[1:]))
    with pytest.raises(UserError, match=line) as caught:
        load("csv", file=file)
    assert "labels.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_wrong_with_files_splits_and_images_is_named(tmp_path):
    with pytest.raises(UserError, match="data 'csv' needs file"):
        load("csv")
    with pytest.raises(UserError, match=r"none\.csv: no such file"):
        load("csv", file=tmp_path / "none.csv")
    file = write_list(tmp_path, with_split, "image,label,split")
    rows = file.read_text().splitlines()
    for change, line in (
        (lambda row: row.replace("Val", "later"), "row 17: 'later' is no split"),
        (lambda row: row.replace("Val", ""), "row 17: nothing stands in column 'split'"),
        (lambda row: row.replace("train", "test"), "no row is marked train"),
        (lambda row: row.replace("Val", "train").replace("test", "train"), "all rows are marked train"),
        (lambda row: row.replace("owl,test", "auk,test"), "row 22: 'auk' is no class of the rows marked train"),
    ):
        write(tmp_path, [rows[0], *map(change, rows[1:])])
        with pytest.raises(UserError, match=line):
            load("csv", file=file, split_column="split")
    write(tmp_path, rows)
    for memory in (2, 0):
        (tmp_path / "photos/3.png").write_bytes(b"no image")
        with pytest.raises(UserError, match=r"labels.csv, row 5: \S+3\.png: cannot be decoded"):
            load("csv", file=file, memory_gb=memory)
        (tmp_path / "photos/4.png").write_bytes((tmp_path / "photos/5.png").read_bytes()[:-30])
        with pytest.raises(UserError, match=r"labels.csv, rows 5, 6: .* 2 of 24 images cannot be used"):
            load("csv", file=file, memory_gb=memory)
        shutil.copy(tmp_path / "photos/1.png", tmp_path / "photos/4.png")
    file.write_bytes("image,label\né.png,cat".encode("latin-1"))
    with pytest.raises(UserError, match="is no UTF-8 text"):
        load("csv", file=file)


def test_a_run_keeps_its_images_wherever_they_are_and_measures_other_lists(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = write_list(tmp_path / "mine")
    given = ["--network", "resnet8", "--batch_size", "8", "--threads", "1", "--method", "vanilla", "--out", "run"]
    given += ["--recipe", "short"]  # of which the target is delivered
    data = ["--data", "csv", "--data.file", "mine/labels.csv", "--data.validation", "0.2", "--epochs", "1"]
    main(["train", *data, *given])
    run = coterie.Run("run")
    before = run.data()
    assert (len(before.train), len(before.validation), len(before.test)) == (15, 4, 5)
    # One image more changes nothing, and is said.
    shutil.copy("mine/photos/1.png", "mine/photos/new.png")
    file.write_text(file.read_text() + "photos/new.png,dog\n")
    assert run.data().test.names == before.test.names
    assert run.data().train.labels.tolist() == before.train.labels.tolist()
    # The folder may move, with the list in it.
    shutil.move("mine", "yours")
    error = run.card["test"]["target"]["error"]
    assert coterie.evaluate(run, root="yours")["error"] == pytest.approx(error)
    # Another list is all test images, of columns of its own.
    lines = (tmp_path / "yours/labels.csv").read_text().splitlines()
    (tmp_path / "yours/other.csv").write_text("\n".join(["image,kind", *lines[1:8]]))
    main(["evaluate", "run", "--data.file", "yours/other.csv", "--data.label_column", "kind"])
    assert "all 7 images are test images" in capsys.readouterr().err
    main(["export", "run", "--out", "net.safetensors", "--data.root", "yours"])
    main(["evaluate", "net.safetensors", "--data", "csv", "--data.file", "yours/labels.csv"])
    assert "all 25 images are test images" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["evaluate", "net.safetensors", "--data", "csv"])
    assert "data 'csv' needs --data.file" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["train", "--data", "yours/labels.csv"])
    assert "give --data csv --data.file yours/labels.csv" in capsys.readouterr().err


def test_a_training_resumes_where_the_list_and_its_images_have_moved(tmp_path):
    file = write_list(tmp_path / "here")
    options = {"epochs": 2, "batch_size": 6}
    make = lambda: Vanilla(network="resnet8")  # noqa: E731
    whole = go(make(), load("csv", file=file), tmp_path / "whole", **options)
    with pytest.raises(Interrupted):
        go(resuming.stopping(make(), "train", 2), load("csv", file=file), tmp_path / "cut", **options)
    shutil.move(tmp_path / "here", tmp_path / "there")
    moved = load("csv", file=tmp_path / "there" / "labels.csv")
    assert same(whole, go(make(), moved, tmp_path / "cut", resume=True, **options))
