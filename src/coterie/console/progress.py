"""What a person sees while a run trains."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from rich.console import Console
from rich.progress import Progress, ProgressColumn, Task, TaskID
from rich.text import Text

from coterie.console.terminal import printable, say

Row = Mapping[str, float | int | str]

_SHORTEST, _LONGEST = 10, 24  # columns of the bar itself
_SHORT_NAME = 12  # of a stage, where there is no room for more


class Reporter:
    """A progress bar on a terminal, one line an epoch everywhere; nothing on processes but the first."""

    def __init__(self, show: bool) -> None:
        self.show = show
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._state: StageState | None = None

    @contextmanager
    def stage(self, name: str, steps: int, done: int, epochs: int) -> Iterator[None]:
        """The bar of one stage of so many steps and epochs, some of them done by an earlier session."""
        if not (self.show and sys.stderr.isatty()):
            yield
            return
        console = Console(stderr=True, highlight=False)
        self._state = StageState(name, epochs)
        with Progress(_BarLine(self._state, console), console=console) as self._bar:
            self._task = self._bar.add_task(name, total=steps, completed=done)
            yield
        self._bar = self._state = None

    @property
    def wants_detail(self) -> bool:
        """Whether a bar is on the screen, so that figures are worth fetching from the device."""
        return self._bar is not None

    def step(self, figures: Row | None = None) -> None:
        """One batch is done; the figures are of the current epoch so far, where they were asked for."""
        if self._bar is not None and self._state is not None:
            self._bar.update(self._task, advance=1)
            if figures is not None:
                self._state.figures = figures

    def epoch(self, rows: Sequence[Row], epochs: int) -> None:
        """An epoch is done: the last of the run's rows, of a stage of so many epochs."""
        if self._state is not None:
            self._state.rows = rows
        self.say(epoch_line(rows, epochs))

    def say(self, line: str) -> None:
        """A line that stays."""
        if self.show:
            say(line, sys.stderr)


@dataclass
class StageState:
    """What is known of a stage while it trains.

    Attributes:
        name: Its title.
        epochs: Its length.
        figures: Of the current epoch so far.
        rows: The run's epochs.
    """

    name: str
    epochs: int
    figures: Row = field(default_factory=dict)
    rows: Sequence[Row] = ()


class _BarLine(ProgressColumn):
    """The whole line of the bar, made for the terminal's width at the moment."""

    def __init__(self, state: StageState, console: Console) -> None:
        super().__init__()
        self.state, self.console = state, console

    def render(self, task: Task) -> Text:
        share = task.completed / task.total if task.total else 0.0
        ascii_only = self.console.options.ascii_only
        line = bar_line(self.state, share, task.time_remaining, self.console.width - 1, ascii_only)
        return Text(line, no_wrap=True, overflow="crop")


def bar_line(state: StageState, share: float, seconds: float | None, width: int, ascii_only: bool = False) -> str:
    """The bar of a stage in one line of no more than ``width`` columns: what is least important is left out first.

    Stage, bar, epoch and time left stay at any width from 60 columns on; then come the last measured error, the lowest
    so far, the speed, and the figures of the current epoch.

    Args:
        state: Of the stage.
        share: Of its steps that are done, in [0, 1].
        seconds: Until its end; None where that cannot be told yet.
        width: Of the terminal, in columns.
        ascii_only: Whether the terminal shows nothing else.
    """
    epoch = min(int(share * state.epochs + 1e-9) + 1, state.epochs)
    left = "-:--:--" if seconds is None else str(timedelta(seconds=round(seconds)))
    name = printable(state.name)
    needed = [f"epoch {epoch}/{state.epochs}", f"{left} left"]
    used = sum(map(len, needed)) + 2 * (len(needed) + 1)
    if (room := max(width - used - _SHORTEST, _SHORT_NAME)) < len(name):
        name = name[: room - 2] + ".."
    for group in (_measured(state), [f"{share:4.0%}"], _trained(state)):
        for part in group:  # of a group, one that stands further back says nothing without those before it
            if used + len(name) + _SHORTEST + 2 + len(part) > width:
                break
            needed.append(part)
            used += 2 + len(part)
    length = min(_LONGEST, width - used - len(name))
    if length < _SHORTEST:
        return "  ".join([name, *needed])[:width]
    return "  ".join([name, _bar(share, length, ascii_only), *needed])


def _bar(share: float, length: int, ascii_only: bool) -> str:
    done, rest = ("#", "-") if ascii_only else ("━", "─")
    filled = int(share * length)
    return done * filled + rest * (length - filled)


def _measured(state: StageState) -> list[str]:
    """The last measured error, and the lowest so far."""
    rows = [row for row in state.rows if row["stage"] == state.rows[-1]["stage"]]
    key = next((key for row in reversed(rows) if (key := _key(row)) is not None), None)
    if key is None:
        return []
    errors = [float(row[key]) for row in rows if key in row]
    return [f"{key.partition('_')[0]} error {errors[-1]:.2f} %", f"best {min(errors):.2f}"]


def _trained(state: StageState) -> list[str]:
    """The figures of the current epoch, the most important first."""
    row, parts = state.figures, []
    if "images_per_second" in row:
        parts.append(f"{row['images_per_second']:,.0f} images/s")
    peers = [
        f"{name.removeprefix('train_error_')} training error {value:.1f} %"
        for name, value in row.items()
        if name.startswith("train_error_")
    ]
    loss = [f"loss {row['loss']:.3f}"] if "loss" in row else []
    return parts + peers[:1] + loss + peers[1:]


def _key(row: Row) -> str | None:
    """The error that tells epochs apart: of the first peer, on the images that choose the epoch where there are any."""
    errors = [key for split in ("validation", "test") for key in row if key.startswith(f"{split}_error_")]
    return errors[0] if errors else None


def epoch_line(rows: Sequence[Row], epochs: int) -> str:
    """The last of a run's epochs in a line: loss, each peer's errors, the first one's lowest so far, speed.

    Args:
        rows: Of the run.
        epochs: The length of the stage.
    """
    row = rows[-1]
    parts = [f"{row['stage']} epoch {row['epoch']}/{epochs}", f"loss {row['loss']:.4f}"]
    for split in ("validation", "test"):
        errors = {key.removeprefix(f"{split}_error_"): value for key, value in row.items() if f"{split}_error_" in key}
        if errors:
            parts.append(f"{split} error % " + " ".join(f"{name} {value:.2f}" for name, value in errors.items()))
    if (key := _key(row)) is not None:
        measured = [each for each in rows if each["stage"] == row["stage"] and key in each]
        best = min(measured, key=lambda each: float(each[key]))
        parts.append(f"best of {key.split('_', 2)[2]} {best[key]:.2f} in epoch {best['epoch']}")
    return "  ".join([*parts, f"{row['images_per_second']:,.0f} images/s"])
