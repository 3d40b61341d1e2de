"""What a terminal and a log show while a run trains."""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest
import torch

import coterie
import coterie.deploy.speed
from coterie.cli import main
from coterie.console import counting, time_left
from coterie.console.progress import Reporter, StageState, bar_line, epoch_line
from coterie.console.time_left import Watch, clock
from coterie.methods import Vanilla
from coterie.recipes import Recipe
from coterie.training import session
from resuming import resumes_exactly, stopping
from toys import go

ROWS = [
    {
        "stage": "teacher",
        "epoch": 1,
        "learning_rate": 0.1,
        "loss": 1.0,
        "images_per_second": 900.0,
        "test_error_target": 1.25,
    },
    {
        "stage": "train",
        "epoch": 1,
        "learning_rate": 0.1,
        "loss": 2.5,
        "images_per_second": 1000.0,
        "test_error_target": 30.0,
    },
    {
        "stage": "train",
        "epoch": 2,
        "learning_rate": 0.1,
        "loss": 1.5,
        "images_per_second": 1100.0,
        "test_error_target": 27.5,
    },
    {
        "stage": "train",
        "epoch": 3,
        "learning_rate": 0.043,
        "loss": 1.25,
        "images_per_second": 1234.5,
        "train_error_target": 38.4,
        "train_error_branch1": 39.5,
        "test_error_target": 28.5,
        "test_error_branch1": 29.5,
        "test_error_branch2": 29.75,
        "test_error_branch3": 29.0,
        "test_error_ensemble": 26.0,
    },
]
FIGURES = {
    "learning_rate": 0.0425,
    "images_per_second": 1234.5,
    "loss": 1.234,
    "loss_labels": 1.0,
    "train_error_target": 38.4,
    "train_error_branch1": 39.5,
}


class Fixed(Watch):
    """In the fourth of thirty epochs, of a minute each."""

    def __init__(self, later=0, left=250.0):
        super().__init__(300, 35, later)
        self.seconds = left

    def left(self):
        return self.seconds


def state(name="train", place="", later=0, left=250.0, rows=ROWS):
    named = [{**row, "stage": name if row["stage"] == "train" else row["stage"]} for row in rows]
    return StageState(name, 30, Fixed(later, left), place, FIGURES, named)


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("name", ["train", "distillation"])
@pytest.mark.parametrize(("place", "later"), [("", 0), ("stage 3 of 4", None), ("stage 4 of 4", 0)])
def test_bar_epoch_and_time_left_are_there_at_every_width(width, name, place, later):
    text = bar_line(state(name, place, later), width)
    assert len(text) <= width
    assert re.search("━*─{5,}", text)
    assert "epoch 4/30" in text
    assert ("0:04:10 left of " in text) == (later is None)
    assert "0:04:10 left" in text
    assert text.startswith(name[:5])
    assert width < 120 or f"({place})" in text or not place
    assert width < 80 or "best test error" in text or f"({place})" in text


def test_more_columns_show_more_figures_and_each_has_its_label():
    parts = ["best test error 27.50 %", "rate 0.043", "1,234 images/s", "target training error 38.40 %", "loss 1.234"]
    shown = {width: [part for part in parts if part in bar_line(state(), width)] for width in (60, 80, 120, 200)}
    assert shown == {60: [], 80: parts[:2], 120: parts[:3], 200: parts}
    assert "branch1 training error 39.50 %" in bar_line(state(), 250)


def test_a_terminal_of_ascii_gets_a_bar_of_ascii():
    assert bar_line(state(), 200, ascii_only=True).isascii()


def test_before_the_first_measurement_there_is_a_bar():
    assert bar_line(StageState("train", 3, Watch(30)), 80).endswith("epoch 1/3  -:--:-- left    0%")


def test_the_line_of_an_epoch_has_all_in_a_log_and_names_the_best_of_its_stage():
    assert epoch_line(state()) == (
        "train epoch 3/30  0:04:10 left  test error 28.50 %  best 27.50 in epoch 2  loss 1.2500  rate 0.043  "
        "training error 38.40 %  1,234 images/s  "
        "test error of branch1 29.50 %, branch2 29.75 %, branch3 29.00 %, ensemble 26.00 %"
    )
    assert "0:04:10 left of this stage" in epoch_line(state(later=None))
    assert " left" not in epoch_line(state(left=None))
    chosen = [{**row, "validation_error_target": 10.0 - row["epoch"]} for row in ROWS]
    text = epoch_line(state(rows=chosen))
    assert "validation error 7.00 %  best 7.00 in epoch 3  test error 28.50 %  loss" in text
    unmeasured = [*ROWS, {"stage": "train", "epoch": 4, "loss": 1.0, "learning_rate": 0.1, "images_per_second": 9.0}]
    assert epoch_line(state(rows=unmeasured)).endswith("left  loss 1.0000  rate 0.1  9 images/s")


@pytest.mark.parametrize(("width", "last"), [(59, "28.50 %"), (79, "loss 1.2500"), (119, "loss 1.2500  rate 0.043")])
def test_on_a_terminal_the_line_of_an_epoch_ends_where_the_terminal_does(width, last):
    text = epoch_line(state(), width)
    assert len(text) <= width
    assert text.endswith(last)


def test_the_time_left_is_that_of_all_stages_at_the_mean_speed_without_the_first_step(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time_left, "perf_counter", lambda: now[0])
    watches = [Watch(100, 10, later) for later in (0, 2, None)]
    for step in (30.0, 2.0, 2.0):  # the first compiles
        now[0] += step
        assert [watch.left() for watch in watches if watch.done == 11] in ([], [None] * 3)
        for watch in watches:
            watch.step()
    assert [watch.left() for watch in watches] == [87 * 2.0, 287 * 2.0, 87 * 2.0]
    now[0] += 6.0  # in which images are measured
    assert watches[0].left() == 87 * 2.0
    watches[0].look()
    assert watches[0].left() == 87 * 5.0


def test_what_is_measured_after_an_epoch_counts_in_the_time_left(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time_left, "perf_counter", lambda: now[0])
    watch, reporter = Watch(10), Reporter(True)
    with reporter.stage(StageState("train", 2, watch)):
        for _ in range(5):
            now[0] += 1.0
            reporter.step()
        now[0] += 4.0
        reporter.epoch([{**ROWS[-1], "stage": "train"}])
    assert watch.left() == 5 * 2.0


def test_a_resumed_stage_goes_on_where_it_was_stopped(digits, tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr(session, "Watch", lambda *given: begun.append(given) or Watch(*given))
    with pytest.raises(coterie.Interrupted):
        go(stopping(Vanilla(network="resnet8"), "train", 3), digits, tmp_path / "run", epochs=2)
    go(Vanilla(network="resnet8"), digits, tmp_path / "run", epochs=2, resume=True)
    (total, *first), (same, *then) = begun
    assert (first, then, same) == ([0, 0], [3, 0], total)


def test_a_time_of_days_is_written_in_hours():
    assert [clock(each) for each in (None, 0.4, 3661, 270000)] == ["-:--:--", "0:00:00", "1:01:01", "75:00:00"]


def test_lines_of_a_log_are_whole(monkeypatch, digits, tmp_path):
    monkeypatch.delenv("COLUMNS", raising=False)
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    coterie.train(coterie.methods.One(network="resnet8"), digits, recipe=Recipe(), epochs=2, out=tmp_path / "r")
    assert not set("\r\x1b") & set(log.getvalue())
    lines = log.getvalue().splitlines()
    assert lines[0] == "method 'one', network 'resnet8'; 3 branches from 'layer3' on"  # tests/test_announce.py has more
    lines = [text for text in lines if " loss " in text]
    assert len(lines) == 2
    for number, text in enumerate(lines, 1):
        assert re.match(rf"train epoch {number}/2  0:\d\d:\d\d left  test error \d+\.\d\d %  best ", text)
        assert re.search(r" images/s  test error of branch1 .* ensemble \d+\.\d\d %$", text)


@pytest.mark.parametrize(
    ("method", "said"),
    [("ensemble", {"member1": "left ", "member2": "left "}), ("kd", {"teacher": "left of this stage"})],
)
def test_a_log_says_what_the_time_left_is_of(method, said, digits, tmp_path, capfd):
    made = coterie.methods.METHODS[method](network="resnet8", **({"members": 2} if method == "ensemble" else {}))
    coterie.train(made, digits, epochs=1, batch_size=32, out=tmp_path / "r")
    lines = [text for text in capfd.readouterr().err.splitlines() if " epoch 1/1 " in text]
    assert len(lines) == 2
    for text in lines:
        assert said.get(text.split()[0], "left ") in text
        assert ("of this stage" in text) == (text.startswith("teacher"))


def on_a_terminal(command, columns):
    """What a command prints on a terminal of so many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    surroundings = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env={**surroundings, "TERM": "xterm"}, close_fds=True
    )
    os.close(theirs)
    printed = b""
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # how Linux says that the other side has ended
            break
        if not part:
            break
        printed += part
    os.close(ours)
    assert process.wait(timeout=60) == 0, printed.decode()
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", printed.decode())


@pytest.mark.libraries
def test_a_training_at_80_columns_fits_them(tmp_path):
    command = f"{sys.executable} -m coterie train --method one --method.num_branches 4 --network resnet8 --data digits"
    command += f" --data.train_samples 160 --epochs 2 --batch_size 32 --threads 1 --out {tmp_path / 'run'}"
    lines = [text for text in re.split(r"[\r\n]+", on_a_terminal(command.split(), 80)) if " epoch " in text]
    bars = [text for text in lines if re.search("[━─]{8}", text)]
    epochs = [text for text in lines if text not in bars]
    assert max(map(len, bars)) <= 80
    assert any(re.search(r"epoch 2/2  0:\d\d:\d\d left  best test error \d+.\d\d %", text) for text in bars)
    pattern = r"train epoch {}/2  0:\d\d:\d\d left  test error \d+\.\d\d %  best \d+\.\d\d  loss \d+\.\d+"
    assert len(epochs) == 2
    for number, text in enumerate(epochs, 1):
        assert re.fullmatch(pattern.format(number), text)
        assert len(text) < 80


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.libraries
@pytest.mark.parametrize("width", [60, 80])
def test_the_bar_is_drawn_within_the_terminal(width, monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    reporter = Reporter(True)
    with reporter.stage(StageState("train", 3, Watch(6))):
        for index in range(6):
            reporter.step(FIGURES)
            if index % 2:
                reporter.epoch(ROWS[2 : index // 2 + 4])
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    bars = [part for part in re.split(r"[\r\n]+", text) if " left" in part]
    assert any("━" in bar and "epoch 3/3" in bar for bar in bars)
    assert max(map(len, bars)) <= width
    assert not reporter.wants_detail


def test_an_average_that_is_delivered_stands_first_once_there_is_one():
    first = {**ROWS[-1], "epoch": 1}
    second = {**ROWS[-1], "epoch": 2, "test_error_target-average": 25.0, "test_error_ensemble-average": 24.0}
    shown = StageState("train", 30, Fixed(), rows=[first, second], delivered="target-average")
    line = epoch_line(shown)
    assert "left  test error of target-average 25.00 %  best 25.00 in epoch 2  loss" in line
    assert "test error of target 28.50 %, branch1 29.50 %, branch2 29.75 %" in line
    assert line.endswith(", ensemble 26.00 %, ensemble-average 24.00 %")
    assert "best test error of target-average 25.00 %" in bar_line(shown, 200)
    assert "left  test error 25.00 %  best 25.00  loss" in epoch_line(shown, 79)  # a narrow one has no room for whose
    assert "best test error 25.00 %" in bar_line(shown, 79)
    shown.rows = [first]
    assert "left  test error 28.50 %" in epoch_line(shown)


@pytest.mark.parametrize(("deliver", "first"), [("average", "test error of target-average "), ("last", "test error ")])
def test_the_line_of_an_epoch_begins_with_the_error_of_what_is_delivered(deliver, first, digits, tmp_path, capsys):
    recipe = Recipe(average="ema", deliver=deliver)
    run = go(Vanilla(network="resnet8"), digits, tmp_path / "run", epochs=1, recipe=recipe, progress=True)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("train epoch 1/1")]
    error = run.card["test"][run.card["deliverables"][0]]["error"]
    assert f"  {first}{error:.2f} %  best" in line


def test_the_rate_of_an_epoch_is_that_of_its_last_step(digits, tmp_path):
    assert resumes_exactly(lambda: Vanilla(network="resnet8"), digits, tmp_path, "train", 5)  # the end of an epoch
    rates = [row["learning_rate"] for row in coterie.Run(tmp_path / "whole").metrics]
    steps = 10
    recipe = Recipe()
    optimiser = recipe.make_optimiser([torch.nn.Parameter(torch.zeros(2, 2))])
    schedule = recipe.make_schedule(optimiser, steps)
    of_steps = []
    for _ in range(steps):
        of_steps.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    assert rates == pytest.approx([of_steps[4], of_steps[9]])
    assert rates[-1] > 0


def test_evaluate_counts_its_images_on_a_terminal_and_a_function_does_not(finished, monkeypatch):
    monkeypatch.setattr(counting, "_PATIENCE", -1.0)
    monkeypatch.setenv("TERM", "xterm")
    for act, shown in (
        (lambda: main(["evaluate", str(finished.path)]), True),
        (lambda: coterie.evaluate(finished), False),
    ):
        screen = Terminal()
        monkeypatch.setattr(sys, "stderr", screen)
        act()
        assert ("100/100" in screen.getvalue()) == shown


@pytest.mark.parametrize(
    ("line", "counts"),
    [
        (["export", "--format", "safetensors", "--out", "net.safetensors"], ["100/100"]),
        (["export", "--format", "onnx-int8", "--out", "net.onnx", "--tolerance", "100"], ["160/160", "100/100"]),
        (["bench", "--batch_sizes", "1", "--seconds", "0.01"], ["100/100"]),
    ],
)
def test_export_and_bench_count_their_images_on_a_terminal(line, counts, finished, tmp_path, monkeypatch):
    monkeypatch.setattr(counting, "_PATIENCE", -1.0)
    monkeypatch.setattr(coterie.deploy.speed, "as_onnx", lambda *_: [])  # an ONNX file takes seconds, and no count
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.chdir(tmp_path)
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    main([line[0], str(finished.path), *line[1:]])
    assert all(count in screen.getvalue() for count in counts)
