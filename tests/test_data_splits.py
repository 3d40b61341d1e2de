"""A split that coterie draws from a folder: by the images' names, written into the Run, and kept."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import coterie
from coterie import UserError
from coterie.cli import main
from coterie.data import keep_split, load
from coterie.data.splits import most_held_out, stratified
from coterie.methods import Vanilla
from coterie.training import Interrupted
from toys import Mutual, go, resumed, same


def write_images(root, classes=("cat", "dog", "owl"), start=0, count=12):
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(start, start + count):
            generator = np.random.default_rng([label, index])
            pixels = generator.integers(0, 90, (12, 12, 3)) + 60 * label
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{index}.png")


def names(images):
    return set(images.names)


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path / "all")
    return tmp_path / "all"


# Drawing ------------------------------------------------------------------------------------------------------------


def test_one_more_image_moves_one_at_most_in_its_class(folder):
    before = load("folder", root=folder, test_fraction=0.25)
    for number in range(20):
        write_images(folder, ("cat",), start=100 + number, count=1)
        after = load("folder", root=folder, test_fraction=0.25)
        assert len(names(before.test) - names(after.test)) <= 1
        assert len(names(after.test) - names(before.test)) <= 1
        before = after


def test_other_seeds_draw_other_images_and_proportions_stay(folder):
    one, two = (load("folder", root=folder, test_fraction=0.25, seed=seed).test for seed in (0, 1))
    assert names(one) != names(two)
    assert np.bincount(one.labels).tolist() == np.bincount(two.labels).tolist() == [3, 3, 3]


def test_data_sets_without_files_keep_the_subsets_of_0_1_0():
    labels = np.repeat(np.arange(3), 4)
    assert stratified(labels, 5, seed=7)[0].tolist() == [0, 2, 5, 7, 8]
    every = load("digits", train_samples=20, validation=0.5)
    assert every.train.labels.tolist() == [7, 3, 9, 2, 4, 8, 6, 5, 1, 0]


def test_a_class_keeps_its_only_image_for_training(folder, caplog):
    write_images(folder, ("rare",), count=1)
    for options in ({}, {"validation": 0.5}, {"train_samples": 4}):
        data = load("folder", root=folder, **options)
        rare = data.classes.index("rare")
        assert (data.train.labels == rare).sum() == 1
    assert "no test image of 1 class: rare" in caplog.text
    load("folder", root=folder, train_samples=2)
    assert "no training image of 2 classes" in caplog.text


def test_classes_that_would_have_nothing_to_train_on_are_one_line(tmp_path, folder):
    write_images(tmp_path / "ten", tuple("abcdefghij"), count=1)
    with pytest.raises(UserError, match=r"10 images of 10 classes.*none to train on; add images"):
        load("folder", root=tmp_path / "ten")
    with pytest.raises(UserError, match="validation=0.9 .*leaves classes without any to train on"):
        load("folder", root=folder, train_samples=9, validation=0.9)
    with pytest.raises(UserError, match=r"test_fraction=0.999 leaves classes without training images"):
        load("digits", test_fraction=0.999)


def test_the_rest_keeps_every_class():
    labels = np.array([0, 1, 1, 2, 2, 2])
    for count in range(most_held_out(labels) + 1):
        for by_name in (None, list("abcdef")):
            _, rest = stratified(labels, count, 0, by_name, "rest")
            assert set(labels[rest]) == {0, 1, 2}
    assert set(labels[stratified(labels, 3, 0, list("abcdef"), "first")[0]]) == {0, 1, 2}


# The Run's ----------------------------------------------------------------------------------------------------------


def train(folder, out, **options):
    data = {key: options.pop(key) for key in ("validation", "train_samples") if key in options}
    loaded = load("folder", root=folder, **data)
    return go(Vanilla(network="resnet8"), loaded, out, **({"epochs": 1, "batch_size": 8} | options))


@pytest.mark.parametrize("options", [{}, {"validation": 0.2}, {"train_samples": 12}])
def test_a_run_keeps_its_images_when_others_come(folder, tmp_path, caplog, options):
    run = train(folder, tmp_path / "run", **options)
    first, measured = run.data(), coterie.evaluate(run)
    written = json.loads((run.path / "split.json").read_text())
    assert written["test"] == [name.removeprefix(f"{folder}/") for name in first.test.names]
    write_images(folder, start=100, count=3)
    write_images(folder, ("new class",), count=4)
    again = coterie.Run(run.path)
    for part in ("train", "validation", "test"):
        ours, theirs = getattr(again.data(), part), getattr(first, part)
        assert (ours and ours.names) == (theirs and theirs.names)
        assert ours is None or torch.equal(ours.data, theirs.data)
    assert coterie.evaluate(again) == measured
    assert "13 images more than when the run drew its split; they are not used" in caplog.text


def test_folders_that_say_it_themselves_write_no_split(folder, tmp_path):
    for part in ("train", "val"):
        write_images(tmp_path / "parts" / part, count=8)
    assert not (train(tmp_path / "parts", tmp_path / "run").path / "split.json").exists()
    cut = train(tmp_path / "parts", tmp_path / "cut", validation=0.5)
    assert len(json.loads((cut.path / "split.json").read_text())["validation"]) == 12
    assert len(cut.data().validation) == 12


def test_resuming_after_images_came_gives_the_weights_of_the_uninterrupted_run(folder, tmp_path, caplog):
    def data():
        return load("folder", root=folder, validation=0.2)

    whole = go(Mutual(network="resnet8"), data(), tmp_path / "whole", batch_size=8)
    with pytest.raises(Interrupted):
        go(Mutual(network="resnet8", stop=4), data(), tmp_path / "cut", batch_size=8)
    write_images(folder, start=100, count=5)
    done = resumed(Mutual, data(), tmp_path, batch_size=8)
    assert same(done, whole)
    assert "15 images more than when the run drew its split" in caplog.text
    (folder / "cat" / "1.png").unlink()
    with pytest.raises(UserError, match=r"1 image of the run is gone: cat/1\.png; put back"):
        resumed(Mutual, data(), tmp_path, batch_size=8)


def test_images_that_are_gone_are_named_and_the_rest_is_measured(folder, tmp_path, caplog):
    run = train(folder, tmp_path / "run")
    tested = run.data().test.names
    (folder / tested[0].removeprefix(f"{folder}/")).unlink()
    assert len(run.data().test) == len(tested) - 1
    assert f"1 image of the run is gone: {tested[0].removeprefix(f'{folder}/')}" in caplog.text
    for name in tested[1:]:
        (folder / name.removeprefix(f"{folder}/")).unlink()
    with pytest.raises(UserError, match="no test image of the run is there"):
        run.data()


def test_another_folder_is_all_test_images_and_the_same_one_elsewhere_is_not(folder, tmp_path, caplog, capsys):
    run = train(folder, tmp_path / "run")
    shutil.copytree(folder, tmp_path / "moved")
    assert coterie.evaluate(run, root=tmp_path / "moved") == coterie.evaluate(run)
    assert "holds the run's own images" in caplog.text
    write_images(tmp_path / "other", ("dog", "cat"), start=0, count=30)  # the same names, other images
    other = run.data(root=tmp_path / "other")
    assert (len(other.train), len(other.test), other.classes) == (0, 60, ("cat", "dog", "owl"))
    assert set(other.test.labels) == {0, 1}
    main(["evaluate", str(run.path), "--data.root", str(tmp_path / "other")])
    assert "error" in capsys.readouterr().out
    assert "all 60 images are test images" in caplog.text
    with pytest.raises(UserError, match="split='train': this data has none; use test"):
        coterie.evaluate(run, split="train", root=tmp_path / "other")
    write_images(tmp_path / "other", ("wolf",))
    with pytest.raises(UserError, match="wolf: no class of the run, which has cat, dog, owl"):
        run.data(root=tmp_path / "other")


def test_a_run_of_0_1_0_is_drawn_as_it_was(folder, tmp_path, caplog):
    run = train(folder, tmp_path / "run")
    (run.path / "split.json").unlink()
    files = sorted(folder.rglob("*.png"))
    labels = np.array([("cat", "dog", "owl").index(file.parent.name) for file in files])
    old, _ = stratified(labels, round(0.2 * len(files)), 0)
    assert run.data().test.names == [str(files[index]) for index in old]
    assert "has no split.json, as Runs of coterie 0.1.0" in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        lambda content: [],
        lambda content: content | {"format": 2},
        lambda content: content | {"test": [1]},
        lambda content: content | {"test": ["../cat/1.png"]},
        lambda content: content | {"test": ["wolf/1.png"]},
        lambda content: content | {"test": ["cat/../../1.png"]},
        lambda content: content | {"class_folder": 7},
        lambda content: content | {"others": None},
        lambda content: {key: value for key, value in content.items() if key != "digest"},
        lambda content: content | {"classes": ["a\x1b[31m", "dog", "owl"]},
    ],
)
def test_a_damaged_split_is_one_line(folder, tmp_path, change):
    run = train(folder, tmp_path / "run")
    file = run.path / "split.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(UserError, match=r"split\.json") as caught:
        run.data()
    assert str(caught.value).isprintable()
    file.write_bytes(b"\xff{")
    with pytest.raises(UserError, match=r"split\.json: .*train the run again"):
        run.data()


def test_going_on_with_a_run_of_0_1_0_takes_the_images_that_it_drew(folder, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("")
    data = load("folder", root=folder)
    kept = keep_split(data, tmp_path / "run", resume=True)
    old, _ = stratified(np.repeat(np.arange(3), 12), round(0.2 * 36), 0)
    assert kept.test.names == [str(sorted(folder.rglob("*.png"))[index]) for index in old]
    assert kept.test.names != data.test.names
    assert keep_split(data, tmp_path / "run", resume=False) is data
