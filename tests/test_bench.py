"""``coterie bench``: every form of a network, timed in turn, beside its error."""

import json
import re
import shutil
import time

import pytest
import torch

import coterie
from coterie import UserError
from coterie.cli import main
from coterie.deploy import forms as forms_room
from coterie.deploy import speed
from coterie.deploy.speed import Form, Timing, bench, take_turns
from coterie.methods import Vanilla
from toys import go, plain

QUICK = {"seconds": 0.02, "batch_sizes": (1, 4)}


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    for student, format in (("ensemble", "onnx"), ("target", "safetensors")):
        coterie.export(finished, format, folder / f"{student}.{format}", student)
    return folder


@pytest.fixture(scope="module")
def forms(finished, exported):
    """All forms of a Run of ONE and two files of it, at one and two threads."""
    sources = [finished.path, exported / "ensemble.onnx", exported / "target.safetensors"]
    return bench(sources, threads=(1, 2), **QUICK)


def test_a_run_gives_its_forms_and_files_give_theirs(forms, finished, exported):
    assert [(form.name, form.runtime) for form in forms] == [
        (f"{finished.path}: target", "ONNX Runtime"),
        (f"{finished.path}: target", "PyTorch"),
        (f"{finished.path}: ensemble", "PyTorch"),
        (str(exported / "ensemble.onnx"), "ONNX Runtime"),
        (str(exported / "target.safetensors"), "PyTorch"),
    ]
    test = finished.card["test"]
    expected = [test[name]["error"] for name in ("target", "target", "ensemble", "ensemble", "target")]
    assert [form.error for form in forms] == pytest.approx(expected, abs=1.0)  # an image of a hundred, by rounding
    assert all(form.measured for form in forms)
    assert forms[4].megabytes == (exported / "target.safetensors").stat().st_size / 1e6
    for form in forms:
        assert [(timing.threads, timing.batch_size) for timing in form.timings] == [(1, 1), (1, 4), (2, 1), (2, 4)]
        for timing in form.timings:
            assert 0 < timing.median_ms <= timing.p95_ms
            assert timing.images_per_second == pytest.approx(1000 * timing.batch_size / timing.median_ms)


def test_memory_is_a_fresh_processs_own(forms):
    onnx, torch_target, torch_ensemble, *_ = (form.memory_mb for form in forms)
    assert 20 < onnx < torch_target / 2  # no torch is loaded for it
    assert torch_target < 2000
    assert torch_ensemble > 0


def test_threads_are_as_before(forms, finished):
    before = torch.get_num_threads()
    bench(finished, threads=(2,), batch_sizes=(1,), seconds=0.01)
    assert torch.get_num_threads() == before


def test_files_alone_have_the_errors_of_their_cards(exported, finished, tmp_path):
    (form,) = bench(exported / "target.safetensors", **QUICK)
    assert (form.error, form.measured) == (finished.card["test"]["target"]["error"], False)


def test_a_form_of_other_images_is_not_measured_on_the_runs(finished, alone, digits, tmp_path):
    large = coterie.data.load("digits", train_samples=160, test_samples=100, image_size=16)
    other = go(Vanilla(network="resnet8"), large, tmp_path / "large", epochs=1)
    form = bench([alone, other], **QUICK)[-1]
    assert (form.error, form.measured) == (other.card["test"]["target"]["error"], False)


def test_a_module_of_ones_own_is_timed_too(digits, tmp_path):
    run = go(Vanilla(network=plain()), digits, tmp_path / "own", epochs=1)
    forms = bench(coterie.Run(run.path, plain()), **QUICK)
    assert [form.runtime for form in forms] == ["ONNX Runtime", "PyTorch"]
    assert forms[1].memory_mb is None  # no other process could build it


def test_without_onnx_runtime_the_first_form_is_pytorchs(finished, monkeypatch):
    monkeypatch.setattr(forms_room, "is_installed", lambda name: False)
    assert {form.runtime for form in bench(finished, **QUICK)} == {"PyTorch"}


def test_functions_take_turns():
    calls = []
    taken = take_turns([lambda: calls.append(0), lambda: (calls.append(1), time.sleep(0.01))], 0.05)
    assert calls == [0, 1] * (len(calls) // 2)
    assert len(taken[0]) == len(taken[1]) == len(calls) // 2 - 1 >= 5  # the first does not count
    assert min(taken[1]) >= 0.01 > sorted(taken[0])[len(taken[0]) // 2]
    assert len(take_turns([lambda: time.sleep(0.02)], 0.0)[0]) == 5


def test_the_command_prints_writes_and_draws(finished, exported, tmp_path, capsys):
    out, plot = tmp_path / "bench.json", tmp_path / "bench.svg"
    line = [
        "bench",
        str(finished.path),
        str(exported / "ensemble.onnx"),
        "--seconds",
        "0.02",
        "--batch_sizes",
        "1",
        "8",
    ]
    main([*line, "--out", str(out), "--plot", str(plot)])
    said = capsys.readouterr().out
    assert "images/s, 1 thread" in said
    assert said.count("ONNX Runtime") == 2
    rows = json.loads(out.read_text())
    again = [Form(**{**row, "timings": tuple(Timing(**timing) for timing in row["timings"])}) for row in rows]
    assert [form.name for form in again][-1] == str(exported / "ensemble.onnx")
    assert f"{again[0].timings[1].images_per_second:,.0f}" in said
    svg = plot.read_text()
    assert svg.startswith("<svg")
    assert "test error %" in svg
    assert len(re.findall("ONNX Runtime|PyTorch", svg)) == 4
    with pytest.raises(SystemExit):
        main([*line, "--out", str(out)])
    assert "exists already" in capsys.readouterr().err


def test_a_mistake_is_one_line_before_anything_is_measured(finished, exported, tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "_time", None)
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"no")
    unfinished = tmp_path / "unfinished"
    shutil.copytree(finished.path, unfinished)
    (unfinished / "model.json").unlink()
    for sources, options, expected in (
        ([], {}, "nothing to measure"),
        ([tmp_path / "no.onnx"], {}, "no such file"),
        ([tmp_path], {}, "not a Run folder"),
        ([damaged], {}, "no ONNX file"),
        ([unfinished], {}, "has not finished"),
        ([finished], {"batch_sizes": (0,)}, "batch_sizes is 0"),
        ([finished], {"threads": (-1,)}, "threads is -1"),
        ([finished], {"seconds": 0}, "seconds is 0"),
    ):
        with pytest.raises(UserError, match=re.escape(expected)) as caught:
            bench(sources, **options)
        assert "\n" not in str(caught.value)


def test_plots_and_files_are_refused_by_their_names_before_anything_is_measured(
    exported, tmp_path, capsys, monkeypatch
):
    source = str(exported / "target.safetensors")
    monkeypatch.setattr(speed, "_time", None)
    for option, name, expected in (("--out", "a.csv", "ends in .json"), ("--plot", "a.png", "ends in .svg")):
        with pytest.raises(SystemExit) as ended:
            main(["bench", source, option, str(tmp_path / name)])
        assert ended.value.code == 2
        assert expected in capsys.readouterr().err
