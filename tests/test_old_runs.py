"""Runs that version 0.1.0 wrote: they open, and are measured, compared, exported, repeated and taken up again."""

import shutil
from pathlib import Path

import pytest
import yaml

import coterie
from coterie.cli import main
from coterie.cli.arguments import expanded, with_config
from coterie.cli.train import train_parser
from coterie.run import Run
from coterie.training import Interrupted
from resuming import stopping

OLD = Path(__file__).parent / "runs_of_0_1_0"
FINISHED = ("one", "pcl", "compact")
DELIVERABLES = [(name, student) for name in FINISHED for student in Run(OLD / name).card["deliverables"]]


def test_the_runs_hold_what_they_were_made_for():
    assert DELIVERABLES == [
        ("one", "target"),
        ("one", "ensemble"),
        ("pcl", "target"),
        ("pcl", "ensemble"),
        ("pcl", "average"),
        ("compact", "target"),
    ]


@pytest.mark.parametrize(("name", "student"), DELIVERABLES)
def test_every_deliverable_has_the_test_error_that_was_recorded(name, student):
    run = Run(OLD / name)
    measured, recorded = coterie.evaluate(run, student=student), run.card["test"][student]
    assert measured["error"] == pytest.approx(recorded["error"], abs=0.1)  # one of 1,617 images is 0.06 %
    assert measured["nll"] == pytest.approx(recorded["nll"], rel=1e-3)


@pytest.mark.parametrize("name", FINISHED)
def test_the_default_deliverable_is_the_model(name):
    run = Run(OLD / name)
    assert run.model is run.model
    parameters = sum(parameter.numel() for parameter in run.model.parameters())
    assert parameters == run.card["cost"]["target"]["parameters"]


@pytest.mark.parametrize("name", [*FINISHED, "interrupted"])
def test_the_method_has_the_options_of_the_run(name):
    run = Run(OLD / name)
    assert run.method().name == run.config["method"]["name"]
    assert len(run.data().test) == 1617
    assert run.metrics[-1]["epoch"] == {"interrupted": 44}.get(name, 2)


def test_options_that_have_other_names_now_keep_their_values():
    pcl, compact = Run(OLD / "pcl").method(), Run(OLD / "compact").method()
    assert (pcl.ema_decay, pcl.ema_steps, pcl.view_per_peer) == (0.999, 117300, True)
    assert compact.importance == "learned"


def test_one_page_draws_them_together(tmp_path, capsys):
    page = tmp_path / "old.html"
    main(["report", *(str(OLD / name) for name in FINISHED), "--out", str(page)])
    texts = page.read_text(), capsys.readouterr().out
    for name in FINISHED:
        assert all(f"{Run(OLD / name).card['test']['target']['error']:.2f}" in text for text in texts)


@pytest.mark.parametrize(("format", "student"), [("safetensors", "target"), ("onnx", "ensemble")])
def test_an_old_run_is_exported(format, student, tmp_path):
    exported = coterie.export(Run(OLD / "one"), format, tmp_path / f"net.{format}", student)
    assert exported.difference < 1e-3


@pytest.mark.parametrize("name", [*FINISHED, "interrupted"])
def test_the_command_line_repeats_an_old_run(name):
    file = OLD / name / "config.yaml"
    given = expanded(with_config(["--config", str(file)]))
    parsed = train_parser(given).parse_args(given)
    assert parsed.method.name == yaml.safe_load(file.read_text())["method"]["name"]
    assert (parsed.batch_size, parsed.precision, parsed.data.test_fraction) == (32, "fp32", 0.9)
    assert parsed.recipe.name == "short"  # the default of its time


def test_an_old_training_goes_on(tmp_path):
    out = tmp_path / "interrupted"
    shutil.copytree(OLD / "interrupted", out)
    before = Run(out)
    before_rows = before.metrics
    options = {name: before.config[name] for name in ("epochs", "batch_size", "precision", "threads")}
    method = stopping(before.method(), "train", 12)  # six steps are an epoch
    with pytest.raises(Interrupted, match="epoch 4[67], step"):
        coterie.train(method, before.data(), out=out, resume=True, progress=False, **options)
    rows = Run(out).metrics
    assert [row["epoch"] for row in rows] == list(range(1, len(rows) + 1))
    assert len(rows) > len(before_rows)
    assert rows[-1]["test_error_target"] < 20  # from the first epoch on it would be 80
