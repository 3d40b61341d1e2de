"""What the command line says to slips, and what it prints to terminals that cannot show everything."""

import io
import shutil
import sys

import onnx
import pytest
from rich.table import Table

import coterie
from coterie.cli import main
from coterie.cli.arguments import expanded
from coterie.console.tables import table_console
from coterie.console.terminal import printable
from test_cli import refused

DIGITS = ["train", "--data", "digits", "--out", "never"]


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("--lr", "--recipe.learning_rate?"),
        ("--output-dir", "--out?"),
        ("--modle", "--network?"),
        ("--temperature", "--method.temperature?"),
        ("--hlep", "--help?"),
    ],
)
def test_an_option_of_another_package_names_ours(option, meant, capsys):
    assert f"did you mean {meant}" in refused(capsys, *DIGITS, option, "1")


def test_what_resembles_nothing_is_not_taken_for_help(capsys):
    assert "unknown option --zzz; see --help" in refused(capsys, *DIGITS, "--zzz", "1")


def test_capital_letters_are_no_other_name(capsys):
    assert refused(capsys, *DIGITS, "--method", "ONE") == "coterie: unknown method 'ONE'; did you mean 'one'?\n"
    assert "did you mean 'digits'?" in refused(capsys, "train", "--data", "Digits", "--out", "never")


def test_a_folder_in_place_of_a_data_set_is_told_where_it_belongs(capsys, finished):
    for command in (["train", "--out", "never"], ["evaluate", finished.path]):
        assert "give --data folder --data.root 'my/own folder'" in refused(capsys, *command, "--data", "my/own folder")


def test_what_is_missing_is_named(capsys, finished):
    assert refused(capsys, "export", finished.path) == "coterie: --out is missing; see --help\n"
    said = "IMAGES (image files, folders, patterns in quotes, or - for a list on standard input) is missing; see --help"
    assert refused(capsys, "predict", finished.path) == f"coterie: {said}\n"


def test_choices_are_in_the_help_and_in_the_refusal(capsys, finished):
    for command, options in (("export", "{safetensors,onnx,"), ("evaluate", "{test,validation,train}")):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert options in capsys.readouterr().out
    said = refused(capsys, "evaluate", finished.path, "--split", "tset")
    assert said == "coterie: --split tset: unknown; use test, validation or train\n"


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--data.pixel_range", "0", "--data.pixel_range is 0; write a list"),
        ("--data.mean", "x", "--data.mean is 'x'; write a list"),
        ("--method.epochs", "5", "--method.epochs is 5; write a mapping of names to values"),
        ("--method.epochs", "{train:0}", "--method.epochs, train:0 is empty; write a whole number"),
        ("--epochs", "many", "--epochs is 'many'; write a whole number"),
        ("--batch_size", "[]", "--batch_size is []; write a whole number"),
        ("--data.image_size", "[8]", "--data.image_size"),
        ("--data.image_size", "[8, x]", "--data.image_size, item 2 is 'x'; write a whole number"),
        ("--accumulate", "true", "--accumulate is True; write a whole number from 1 to 1024 or 'auto'"),
        ("--recipe.layer_rates", "{fc.*: much}", "--recipe.layer_rates, fc.* is 'much'; write a number"),
    ],
)
def test_a_value_of_another_kind_is_refused_in_words(option, value, said, capsys):
    line = refused(capsys, *DIGITS, option, value)
    assert line.startswith(f"coterie: {said}")
    assert "class" not in line


@pytest.mark.parametrize("option", ["--method", "--data.root", "--epochs"])
def test_an_option_without_its_value_is_named(option, capsys):
    assert refused(capsys, "train", option) == f"coterie: {option} has no value; write one behind it\n"


@pytest.mark.parametrize("out", ["a" * 300, "/proc/x"])
def test_a_place_that_takes_no_run_is_named(out, capsys):
    if out.startswith("/proc") and not sys.platform.startswith("linux"):
        pytest.skip("Linux alone has /proc")
    line = refused(capsys, "train", "--data", "digits", "--network", "resnet8", "--out", out)
    assert line.startswith(f"coterie: {out}: cannot be written")


def test_dashes_are_underscores_in_every_option(tmp_path):
    assert expanded(["--batch-size", "8", "--data.image-size=3", "--method", "self-distillation"]) == [
        "--batch_size",
        "8",
        "--data.image_size=3",
        "--method.name",
        "self-distillation",
    ]
    assert expanded(["--method.epochs.a-stage", "2", "--", "--a-file.png"])[::3] == [
        "--method.epochs.a-stage",
        "--a-file.png",
    ]
    out = tmp_path / "run"
    small = ["--network", "resnet8", "--method", "vanilla", "--epochs", "1", "--data.train-samples", "40"]
    main(["train", "--data", "digits", *small, "--batch-size", "20", "--out", str(out)])
    assert coterie.Run(out).config["batch_size"] == 20


def test_an_export_is_named_as_its_format(capsys, finished, tmp_path):
    for given, wanted in (("x.pt", "x.onnx"), ("x", "x.onnx"), ("x.safetensors", "--format safetensors, or --out")):
        said = refused(capsys, "export", finished.path, "--format", "onnx", "--out", tmp_path / given)
        assert wanted in said
    assert "give --format onnx, or" in refused(capsys, "export", finished.path, "--out", tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


def test_the_batch_axis_is_called_batch(finished, tmp_path):
    path = coterie.export(finished, "onnx", tmp_path / "m.onnx", "ensemble").path
    graph = onnx.load(path).graph
    for value in (*graph.input, *graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_the_list_of_splits_is_of_stages_and_blocks(capsys):
    main(["list", "splits", "--network", "resnet32"])
    useful = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in useful[:3]] == ["layer1.4", "layer2", "layer2.1"]
    assert sum(line.endswith("(default)") for line in useful) == 1
    assert len(useful) <= 21
    main(["list", "splits", "--network", "resnet32", "--all"])
    every = capsys.readouterr().out.splitlines()
    assert useful[-1].split()[1] == str(len(every) - len(useful) + 1)
    assert any(line.startswith("layer3.0.relu") for line in every)


def test_data_that_have_moved_are_found_by_export(capsys, moved, tmp_path):
    run, place = moved
    assert "root" in refused(capsys, "export", run.path, "--out", tmp_path / "m.safetensors")
    main(["export", str(run.path), "--out", str(tmp_path / "m.safetensors"), "--data.root", str(place)])
    assert "largest difference" in capsys.readouterr().out
    main(["evaluate", str(run.path), "--data.root", str(place)])
    assert "error" in capsys.readouterr().out


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_any_name_can_be_printed_in_any_encoding(encoding, moved, monkeypatch):
    run, place = moved
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    picture = place.parent / "a\x1b[31m\udcff.png"  # as Python reads a byte that is no UTF-8
    shutil.copy(place / "你好" / "0.png", picture)
    main(["predict", str(run.path), str(picture)])
    sys.stdout.flush()
    text = written.getvalue().decode(encoding)
    assert text.count("\n") == 1
    assert "\x1b" not in text
    assert r"a\x1b[31m\udcff.png" in text
    assert ("你好" if encoding == "utf-8" else r"\u4f60\u597d") in text


def test_control_characters_are_escaped_and_letters_are_not():
    assert printable("a\x1b[2J\nb\u202e\udcff") == r"a\x1b[2J\nb\u202e\udcff"
    for text in ("naïve 你好 عربي 👩\u200d🔬", "100 %"):
        assert printable(text) == text


def test_a_table_in_a_pipe_is_as_wide_as_it_is(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    table = Table("network")
    table.add_row("a long name, " * 20)
    table_console().print(table)
    assert "a long name, " * 20 in capsys.readouterr().out


def test_what_is_missing_is_named_with_all_that_it_may_be(capsys):
    assert "WHAT (methods, networks, datasets, recipes or splits) is missing" in refused(capsys, "list")
    assert "oem, one, online" in refused(capsys, "study")


def test_an_empty_group_in_a_configuration_is_refused(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("method: one\ndata: digits\nout: {}\n")
    assert "config: out is empty" in refused(capsys, "train", "--config", tmp_path / "c.yaml")


def test_results_without_a_page_are_said_so(tmp_path, capsys):
    (tmp_path / "backbones.json").write_text('{"rows": []}')
    assert "which have no page" in refused(capsys, "report", tmp_path / "backbones.json", "--out", tmp_path / "p.html")
