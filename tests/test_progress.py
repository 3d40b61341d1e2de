"""What a terminal and a log show while a run trains."""

import io
import re
import sys

import pytest

import coterie
from coterie.console.progress import Reporter, StageState, bar_line, epoch_line

ROWS = [
    {"stage": "teacher", "epoch": 1, "loss": 1.0, "images_per_second": 900.0, "test_error_target": 1.25},
    {"stage": "train", "epoch": 1, "loss": 2.5, "images_per_second": 1000.0, "test_error_target": 30.0},
    {"stage": "train", "epoch": 2, "loss": 1.5, "images_per_second": 1100.0, "test_error_target": 27.5},
    {
        "stage": "train",
        "epoch": 3,
        "loss": 1.25,
        "images_per_second": 1234.5,
        "test_error_target": 28.5,
        "test_error_branch1": 29.5,
    },
]
FIGURES = {
    "images_per_second": 1234.5,
    "loss": 1.234,
    "loss_labels": 1.0,
    "train_error_target": 38.4,
    "train_error_branch1": 39.5,
}


def line(width, name="train", **options):
    state = StageState(name, 30, FIGURES, ROWS)
    return bar_line(state, 3.5 / 30, 250.0, width, **options)


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("name", ["train", "distillation (stage 4 of 4)"])
def test_bar_epoch_and_time_left_are_there_at_every_width(width, name):
    text = line(width, name)
    assert len(text) <= width
    assert re.search("━+─{5,}", text)
    assert "epoch 4/30" in text
    assert "0:04:10 left" in text
    assert text.startswith(name[:5])


def test_more_columns_show_more_figures_and_each_has_its_label():
    parts = ["test error 28.50 %", "best 27.50", "1,234 images/s", "target training error 38.4 %", "loss 1.234"]
    shown = {width: [part for part in parts if part in line(width)] for width in (60, 80, 120, 200)}
    assert shown == {60: [], 80: parts[:2], 120: parts[:3], 200: parts}
    assert "branch1 training error 39.5 %" in line(250)


def test_a_terminal_of_ascii_gets_a_bar_of_ascii():
    assert line(200, ascii_only=True).isascii()


def test_before_the_first_measurement_there_is_a_bar():
    assert bar_line(StageState("train", 3), 0.0, None, 80).endswith("epoch 1/3  -:--:-- left    0%")


def test_the_line_of_an_epoch_names_the_best_of_its_stage():
    text = epoch_line(ROWS, 30)
    assert text.startswith("train epoch 3/30  loss 1.2500  test error % target 28.50 branch1 29.50")
    assert "best of target 27.50 in epoch 2" in text
    chosen = [{**row, "validation_error_target": 10.0 - row["epoch"]} for row in ROWS]
    assert "best of target 7.00 in epoch 3" in epoch_line(chosen, 30)


def test_lines_of_a_log_are_whole(monkeypatch, digits, tmp_path):
    monkeypatch.delenv("COLUMNS", raising=False)
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    coterie.train(coterie.methods.One(network="resnet8"), digits, epochs=2, out=tmp_path / "r", tensorboard=False)
    lines = log.getvalue().splitlines()
    assert lines[0] == "method 'one', network 'resnet8'; 3 branches from 'layer3' on"  # tests/test_announce.py has more
    lines = [text for text in lines if " loss " in text]
    assert len(lines) == 2
    assert all(text.startswith(f"train epoch {number}/2 ") for number, text in enumerate(lines, 1))
    assert all(text.endswith(" images/s") for text in lines)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("width", [60, 80])
def test_the_bar_is_drawn_within_the_terminal(width, monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    reporter = Reporter(True)
    with reporter.stage("train", 6, 0, 3):
        for index in range(6):
            reporter.step(FIGURES)
            if index % 2:
                reporter.epoch(ROWS[: index // 2 + 2], 3)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    bars = [part for part in re.split(r"[\r\n]+", text) if " left" in part]
    assert any("━" in bar and "epoch 3/3" in bar for bar in bars)
    assert max(map(len, bars)) <= width
    assert not reporter.wants_detail
