"""`predict` takes images in every form, in the memory of a few batches, and writes whole files or none."""

import csv
import gc
import io
import json
import os
import sys
import weakref

import numpy as np
import pytest
from PIL import Image

import coterie
from coterie import UserError
from coterie.cli import main
from coterie.console import counting
from coterie.evaluation import wilson


@pytest.fixture(scope="module")
def pictures(digits, tmp_path_factory):
    """Twenty digits in folders of their classes' names, one of them a folder deeper."""
    root = tmp_path_factory.mktemp("pictures")
    for index in range(20):
        folder = root / str(digits.test.labels[index]) / ("deep" if index == 7 else "")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.test.data[index, :, :, 0].numpy()).save(folder / f"{index:02}.png")
    return root


@pytest.fixture
def files(pictures):
    return sorted(pictures.rglob("*.png"))


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main(["predict", *map(str, arguments)])
    assert stopped.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_batches_say_what_single_images_say(finished, files, tmp_path):
    for source in (finished, coterie.export(finished, "onnx", tmp_path / "m.onnx").path):
        alone = [coterie.predict(source, file, top=10)[0] for file in files]
        for size in (1, 7, 64):
            together = list(coterie.predictions(source, files, top=10, batch_size=size))
            assert [said.path for said in together] == files
            assert [said.index for said in together] == list(range(20))
            for one, other in zip(alone, together, strict=True):
                first = dict(zip(one.classes, one.probabilities, strict=True))
                assert first == pytest.approx(dict(zip(other.classes, other.probabilities, strict=True)), abs=1e-5)


def test_files_folders_patterns_images_and_arrays_say_the_same(finished, pictures, files):
    arrays = [np.asarray(Image.open(file)) for file in files]
    expected = [said.probabilities for said in coterie.predict(finished, files)]
    for images in (
        pictures,
        f"{pictures}/**/*.png",
        [pictures / file.parent.relative_to(pictures) / file.name for file in files],
        (Image.open(file) for file in files),
        arrays,
        (array[:, :, None] for array in arrays),
        [np.stack([array] * 3, 2) for array in arrays],
    ):
        said = coterie.predict(finished, images)
        assert [each.probabilities for each in said] == [pytest.approx(values, abs=1e-5) for values in expected]
    assert coterie.predict(finished, arrays[0])[0].path is None
    assert len(coterie.predict(finished, [pictures, files[0], Image.open(files[1]), arrays[2]])) == 23
    (said,) = coterie.predict(finished, Image.open(files[1]))
    assert (said.path, said.label) == (files[1], files[1].parent.name)


def test_an_iterator_of_thousands_is_read_lazily_and_never_held(finished):
    alive, most, given = set(), 0, 0

    class Tracked(np.ndarray):
        pass

    def images():
        nonlocal most, given
        for index in range(2000):
            array = np.full((8, 8), index % 256, np.uint8).view(Tracked)
            alive.add(index)
            weakref.finalize(array, alive.discard, index)
            most, given = max(most, len(alive)), index + 1
            yield array

    gc.collect()
    said = coterie.predictions(finished, images(), batch_size=32)
    assert given == 0
    assert next(said).index == 0
    assert given <= 100
    assert 1 + sum(1 for _ in said) == given == 2000
    assert most < 10  # of arrays; their pixels, as the network takes them, are held for two batches


def test_a_buffer_that_is_written_over_and_an_image_that_is_closed_are_read_in_time(finished, files):
    expected = [said.probabilities for said in coterie.predict(finished, files)]

    def buffers():
        buffer = np.zeros((8, 8), np.uint8)
        for file in files:
            buffer[:] = np.asarray(Image.open(file))
            yield buffer

    def closed():
        for file in files:
            with Image.open(file) as image:
                yield image

    for images in (buffers(), closed()):
        said = [each.probabilities for each in coterie.predict(finished, images)]
        assert said == [pytest.approx(values, abs=1e-6) for values in expected]


@pytest.mark.parametrize(
    ("images", "line"),
    [
        ([np.zeros((8, 8), np.float32)], "image 0: an array of float32, 8x8; give uint8"),
        ([np.zeros((8, 8), np.uint8), np.zeros((2, 3, 8, 8), np.uint8)], "image 1: an array of uint8, 2x3x8x8"),
        (np.zeros((8, 8, 5), np.uint8), "1, 3 or 4 channels"),
        ([3], "images is 3; give files, folders"),
        (3, "images is 3; give files, folders"),
    ],
)
def test_what_is_no_image_is_one_line(finished, images, line):
    with pytest.raises(UserError, match=line):
        coterie.predict(finished, images)


def test_names_come_from_standard_input_and_patterns_that_no_shell_expanded(
    finished, pictures, files, capsys, monkeypatch
):
    main(["predict", str(finished.path), *map(str, files)])
    expected = capsys.readouterr()
    assert len(expected.out.splitlines()) == 20
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{file}\n" for file in files[1:]) + "\n"))
    main(["predict", str(finished.path), str(files[0]), "-"])
    assert capsys.readouterr().out == expected.out
    main(["predict", str(finished.path), f"{pictures}/*/**/*.png"])
    assert len(capsys.readouterr().out.splitlines()) == 20
    assert "none that it matches" in refused(capsys, finished.path, f"{pictures}/*.jpg")
    raw = io.BytesIO(b"caf\xe9.png\n")  # no UTF-8
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(raw, encoding="utf-8"))
    assert r"caf\xe9.png: no such file" in refused(capsys, finished.path, "-")
    (pictures.parent / "empty").mkdir(exist_ok=True)
    assert "a folder without images" in refused(capsys, finished.path, pictures.parent / "empty")
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    assert "the list of images is empty" in refused(capsys, finished.path, "-")
    main(["predict", str(finished.path), str(pictures / "0")])
    paths = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()]
    assert paths == [str(file) for file in sorted((pictures / "0").rglob("*.png"))]


def test_folders_named_as_classes_are_measured(finished, pictures, files, tmp_path, capsys):
    said = coterie.predict(finished, pictures)
    assert [each.label for each in said] == [file.relative_to(pictures).parts[0] for file in files]
    wrong = sum(each.label != each.classes[0] for each in said)
    low, high = (100 * end for end in wilson(wrong, 20))
    Image.open(files[0]).save(tmp_path / "other.png")
    main(["predict", str(finished.path), str(pictures), str(tmp_path / "other.png")])
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 21
    assert captured.err == (
        f"coterie: {wrong} of 20 images in folders named as classes are wrong: error {5 * wrong:.2f} % "
        f"[{low:.2f}, {high:.2f}]; 1 other image in no class's folder\n"
    )
    main(["predict", str(finished.path), str(tmp_path / "other.png")])
    assert capsys.readouterr().err == ""


def test_csv_and_json_lines_hold_what_python_is_told(finished, files, tmp_path, capsys):
    odd = tmp_path / 'a,"b"\x1b[31m\n.png'
    Image.open(files[0]).save(odd)
    given = [odd, *files]
    said = coterie.predict(finished, given, top=2)
    for name in ("r.csv", "r.jsonl"):
        main(["predict", str(finished.path), *map(str, given), "--top", "2", "--out", str(tmp_path / name)])
        assert capsys.readouterr().out == f"{tmp_path / name}: 21 images\n"
        assert "\x1b" not in (tmp_path / name).read_text()
    rows = list(csv.DictReader((tmp_path / "r.csv").open(newline="")))
    assert list(rows[0]) == ["path", "class1", "probability1", "class2", "probability2"]
    assert rows[0]["path"] == str(tmp_path / 'a,"b"') + r"\x1b[31m\x0a.png"
    objects = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert [each["path"] for each in objects] == list(map(str, given))
    for row, content, each in zip(rows, objects, said, strict=True):
        assert (row["class1"], row["class2"]) == tuple(content["classes"]) == each.classes
        values = [float(row["probability1"]), float(row["probability2"])]
        assert values == pytest.approx(each.probabilities, abs=1e-5)
        assert content["probabilities"] == pytest.approx(each.probabilities, abs=1e-5)
    assert "ends in .csv or .jsonl" in refused(capsys, finished.path, files[0], "--out", tmp_path / "r.txt")
    assert sorted(os.listdir(tmp_path)) == sorted([odd.name, "r.csv", "r.jsonl"])


def test_a_damaged_image_ends_it_with_nothing_written_or_is_counted(finished, files, tmp_path, capsys):
    bad, out = tmp_path / "bad.png", tmp_path / "r.csv"
    bad.write_bytes(files[0].read_bytes()[:60])
    out.write_text("before")
    given = [finished.path, *files[:3], bad, *files[3:], "--out", out, "--batch_size", "2"]
    line = refused(capsys, *given)
    assert "bad.png: cannot be decoded" in line
    assert line.endswith("or give --skip_damaged to go on without such images")
    assert out.read_text() == "before"
    assert sorted(os.listdir(tmp_path)) == ["bad.png", "r.csv"]
    main(["predict", *map(str, given), "--skip_damaged"])
    error = capsys.readouterr().err.splitlines()
    assert error[0].startswith("coterie: skipped ")
    assert error[1] == "coterie: skipped 1 of 21 images, which could not be read"
    assert len(out.read_text().splitlines()) == 21
    assert "none of 2 images could be read" in refused(
        capsys, finished.path, bad, tmp_path / "none.png", "--skip_damaged"
    )
    said = coterie.predict(finished, [bad, files[0]], skip_damaged=True)
    assert [each.index for each in said] == [1]
    with pytest.raises(UserError, match="batch_size is 0; use 1 or more"):
        coterie.predictions(finished, files, batch_size=0)


def test_a_bar_is_drawn_on_a_terminal_after_two_seconds_alone(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for terminal, patience, shown in ((Terminal, -1, True), (Terminal, 60, False), (io.StringIO, -1, False)):
        monkeypatch.setattr(counting, "_PATIENCE", patience)
        monkeypatch.setattr(sys, "stderr", terminal())
        monkeypatch.setattr(sys, "stdout", io.StringIO())
        with counting.Counter("images", 3) as counter:
            for _ in range(3):
                counter.advance()
                print("line")
        assert sys.stdout.getvalue() == "line\n" * 3
        assert ("3/3" in sys.stderr.getvalue()) == shown
