"""`evaluate` and `measure`: figures that other libraries and tables agree with, of Runs and of exported files."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support, top_k_accuracy_score

import coterie
from coterie import UserError
from coterie.cli import main
from coterie.data import evaluation_batches
from coterie.evaluation import predict_batches, wilson
from coterie.evaluation.figures import class_figures, intervals_of, with_accuracy
from coterie.evaluation.predictions import measures

ROOT = Path(__file__).parents[1]


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", *map(str, arguments)])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


# R. G. Newcombe, Statistics in Medicine 17, 1998, table I, method 3: the score interval without continuity correction.
@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_intervals_are_those_of_a_known_table(count, total, low, high):
    assert wilson(count, total) == pytest.approx((low, high), abs=5e-5)
    mirrored = wilson(total - count, total)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_an_interval_of_nothing_is_everything_and_a_higher_level_is_wider():
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(5, 10, 0.99)[0] < wilson(5, 10)[0] < 0.5 < wilson(5, 10)[1] < wilson(5, 10, 0.99)[1]


def test_figures_of_classes_are_those_of_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 6, (300,), generator=generator)  # of eight classes: two have no images
    logits = torch.randn(300, 8, generator=generator) + 1.5 * torch.nn.functional.one_hot(labels, 8)
    logits[:, 7] = -9  # and one of these is never named
    said = logits.argmax(1)
    figures = class_figures(logits, labels, [f"c{index}" for index in range(8)])
    expected = precision_recall_fscore_support(labels, said, labels=range(8), zero_division=np.nan)
    for name, values in zip(("precision", "recall", "f1", "images"), expected, strict=True):
        ours = [getattr(each, name) for each in figures]
        scale = 1 if name == "images" else 0.01
        np.testing.assert_allclose([np.nan if value is None else scale * value for value in ours], values)
    assert (figures[7].precision, figures[7].recall, figures[7].f1) == (None, None, None)
    values = with_accuracy(measures(logits, labels), figures)
    assert values["accuracy"] == pytest.approx(100 * accuracy_score(labels, said))
    assert values["macro_f1"] == pytest.approx(100 * f1_score(labels, said, average="macro"))
    top5 = top_k_accuracy_score(labels, logits.numpy(), k=5, labels=range(8))
    assert values["top5_error"] == pytest.approx(100 * (1 - top5))
    right = int((said == labels).sum())
    low, high = wilson(right, 300)
    intervals = intervals_of(values, 300)
    assert set(intervals) == {"accuracy", "error", "top5_error"}
    assert intervals["accuracy"] == pytest.approx((100 * low, 100 * high))
    assert intervals["error"] == pytest.approx((100 - 100 * high, 100 - 100 * low))


def test_measure_adds_to_what_evaluate_gives(finished, digits):
    measured = coterie.measure(finished, student="ensemble")
    plain = coterie.evaluate(finished, student="ensemble")
    assert plain.items() <= measured.measures.items()
    assert set(measured.measures) - set(plain) == {"accuracy", "macro_f1"}
    assert set(measured.intervals) == {name for name in measured.measures if "error" in name or name == "accuracy"}
    assert (measured.images, measured.data, measured.split, measured.student) == (100, "digits", "test", "ensemble")
    counts = np.bincount(digits.test.labels, minlength=10).tolist()
    assert [figures.images for figures in measured.classes] == counts
    assert sum(figures.correct for figures in measured.classes) == round(measured.measures["accuracy"])
    recalls = [figures.recall for figures in measured.worst()]
    assert recalls == sorted(recalls)
    assert measured.worst(3) == measured.worst()[:3]


@pytest.mark.parametrize("form", ["onnx", "safetensors"])
def test_an_exported_file_is_measured_as_its_run(finished, form, tmp_path, capsys):
    file = coterie.export(finished, form, tmp_path / f"m.{form}").path
    options = {"name": "digits", "train_samples": 160, "test_samples": 100}
    ours, theirs = coterie.measure(file, **options), coterie.measure(finished)
    assert ours.classes == theirs.classes
    shared = {name: theirs.measures[name] for name in ours.measures}
    assert ours.measures == pytest.approx(shared, abs=1e-4)
    line = refused(capsys, file)
    assert line.endswith("an exported file does not hold its data; name them, with --data.name digits")
    assert "choose it when you export" in refused(capsys, file, "--student", "target", "--data", "digits")
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "pets" / name / "a.png")
    assert "cat: no class of the run" in refused(capsys, file, "--data", "folder", "--data.root", tmp_path / "pets")


def test_a_files_folder_is_prepared_as_its_card_says(moved, tmp_path, caplog):
    run, folder = moved
    file = coterie.export(run, "safetensors", tmp_path / "m.safetensors", root=folder).path
    with pytest.raises(UserError, match=r"name='folder' and root$"):
        coterie.measure(file)
    whole = coterie.measure(file, root=folder)
    assert whole.images == 20
    assert "all 20 images are test images" in caplog.text
    data = coterie.data.load("folder", root=folder, channels=1)
    correct = 0
    for images in (data.train, data.test):
        for batch in evaluation_batches(data, images):
            with torch.inference_mode():
                correct += int((run.model(batch.images).argmax(1) == batch.labels).sum())
    assert sum(figures.correct for figures in whole.classes) == correct
    for index, (name, shade) in enumerate((("$100^$", 40), ("你好", 200))):  # larger, in colour
        (tmp_path / "large" / name).mkdir(parents=True)
        Image.new("RGB", (30, 20), (shade,) * 3).save(tmp_path / "large" / name / f"{index}.png")
    assert coterie.measure(file, name="folder", root=tmp_path / "large").images == 2


def test_other_test_images_than_the_runs_are_noticed(finished, tmp_path, caplog):
    file = coterie.export(finished, "safetensors", tmp_path / "m.safetensors").path
    recorded = finished.card["test"]["target"]["error"]
    coterie.measure(file, name="digits", train_samples=160, test_samples=100)
    assert "other images" not in caplog.text
    for rest in (30, 60, 90, 120):  # other images each: by chance one of them may be as hard
        measured = coterie.measure(file, name="digits", test_samples=rest, seed=rest)
        if abs(measured.measures["error"] - recorded) > 5:
            assert f"{measured.measures['error']:.2f} % error here, and {recorded:.2f} % on its run's" in caplog.text
            return
    raise AssertionError("all are as hard")


def test_the_command_prints_tables_json_and_csv(finished, tmp_path, capsys):
    measured = coterie.measure(finished)
    main(["evaluate", str(finished.path)])
    text = capsys.readouterr().out
    low, high = measured.intervals["error"]
    assert f"{measured.measures['error']:.4f}" in text
    assert f"[{low:.2f}, {high:.2f}]" in text
    assert "the 5 of 10 classes with the lowest recall" in text
    rows = [line for line in text.splitlines() if line.startswith("│")]
    assert len(rows) == len(measured.measures) + 5
    main(["evaluate", str(finished.path), "--classes", "all"])
    text = capsys.readouterr().out
    assert len([line for line in text.splitlines() if line.startswith("│")]) == len(measured.measures) + 10
    main(["evaluate", str(finished.path), "--format", "json", "--classes", "2"])
    content = json.loads(capsys.readouterr().out)
    assert content["measures"] == pytest.approx(measured.measures)
    assert [each["name"] for each in content["classes"]] == [figures.name for figures in measured.worst(2)]
    main(["evaluate", str(finished.path), "--format", "csv"])
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(table) == len(measured.measures) + 30
    recall = next(row for row in table if (row["class"], row["measure"]) == ("3", "recall"))
    assert float(recall["value"]) == pytest.approx(measured.classes[3].recall)
    assert float(recall["low"]) == pytest.approx(measured.classes[3].recall_interval[0], abs=1e-3)
    for name in ("e.json", "e.csv", "e.txt"):
        main(["evaluate", str(finished.path), "--out", str(tmp_path / name)])
        assert "macro_f1" in capsys.readouterr().out
        assert "macro_f1" in (tmp_path / name).read_text()
    assert json.loads((tmp_path / "e.json").read_text())["classes"][9]["name"] == "9"


def test_what_cannot_be_written_is_said_before_anything_is_measured(finished, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("coterie.cli.measuring.measure", None)
    assert "named as csv" in refused(capsys, finished.path, "--format", "json", "--out", tmp_path / "e.csv")
    assert "its name says no format" in refused(capsys, finished.path, "--out", tmp_path / "e.dat")
    assert "is a folder" in refused(capsys, finished.path, "--out", tmp_path)
    assert "classes is 0; use 1 or more" in refused(capsys, finished.path, "--classes", "0")


@pytest.mark.parametrize(
    ("side", "device", "count"), [(8, "cpu", 32), (96, "cpu", 32), (97, "cpu", 16), (97, "cuda", 256)]
)
def test_few_images_are_measured_at_once_on_a_cpu(side, device, count):
    pixels, labels = np.zeros((300, 8, side, 1), np.uint8), np.arange(300) % 2
    data = coterie.data.from_arrays(pixels, labels, pixels, labels)
    assert len(next(evaluation_batches(data, data.test, device=device)).labels) == count


def test_the_answers_do_not_depend_on_how_many_are_asked_at_once(digits):
    network = coterie.networks.build("resnet8", num_classes=10, in_channels=1)
    few, many = (
        predict_batches(network, evaluation_batches(digits, digits.test, batch_size=count)).logits for count in (7, 256)
    )
    torch.testing.assert_close(few, many, rtol=1e-4, atol=1e-5)


def test_the_guide_says_what_small_batches_bring():
    rows = json.loads((ROOT / "benchmarks" / "evaluation_batches.json").read_text())["rows"]
    gains = []
    for row in rows:
        count = 32 if row["side"] <= 96 else 16
        gains.append(row["images a second"][str(count)] / row["images a second"]["256"])
    assert len(rows) == 5
    guide = " ".join((ROOT / "docs" / "guides" / "measuring.md").read_text().split())
    assert f"Of five networks that was {min(gains):.1f} to {max(gains):.1f} times as fast as 256 at once" in guide
