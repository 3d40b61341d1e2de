"""What a person sees while a run trains."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.text import Text

from coterie.console.notebook import WIDTH, NotebookLine, in_notebook
from coterie.console.terminal import printable, say
from coterie.console.time_left import Watch, clock

Row = Mapping[str, float | int | str]

_SHORTEST, _LONGEST = 8, 24  # columns of the bar itself
_WIDE = 100  # columns of a terminal that has room for whole phrases


@dataclass
class StageState:
    """What is known of a stage while it trains.

    Attributes:
        name: Its name.
        epochs: Its length.
        watch: Counts its steps.
        place: Among the run's stages, such as ``stage 1 of 2``; empty where it is the only one.
        figures: Of the current epoch so far.
        rows: The run's epochs.
        delivered: The peer, or its average, whose errors stand first as soon as it has some; empty for the first peer.
    """

    name: str
    epochs: int
    watch: Watch
    place: str = ""
    figures: Row = field(default_factory=dict)
    rows: Sequence[Row] = ()
    delivered: str = ""

    def measured(self, row: Row, split: str) -> list[str]:
        """The errors of a row on a split's images, the most important first."""
        errors = _errors(row, split)
        return sorted(errors, key=lambda key: key != f"{split}_error_{self.delivered}")

    def left(self, short: bool = False) -> str:
        """The time until the end of the run, or that until the end of the stage where no more is known."""
        of = "" if self.watch.later is not None else " of stage" if short else " of this stage"
        return f"{clock(self.watch.left())} left{of}"


class Reporter:
    """A bar on a terminal and in a notebook, one line an epoch everywhere; nothing on processes but the first."""

    def __init__(self, show: bool) -> None:
        self.show = show
        self._state: StageState | None = None
        self._console: Console | None = None
        self._line: NotebookLine | None = None

    @contextmanager
    def stage(self, state: StageState) -> Iterator[None]:
        """Inside, a stage trains."""
        if not self.show:
            yield
            return
        self._state = state
        with self._picture(state):
            yield
        self._state = self._console = self._line = None

    def _picture(self, state: StageState) -> AbstractContextManager[object]:
        if in_notebook():
            self._line = NotebookLine(lambda: bar_line(state, WIDTH))
            return self._line
        if not sys.stderr.isatty():
            return nullcontext()
        self._console = console = Console(stderr=True, highlight=False)
        return Live(console=console, get_renderable=lambda: _draw(state, console), refresh_per_second=10)

    @property
    def wants_detail(self) -> bool:
        """Whether a bar is on the screen, so that figures are worth fetching from the device."""
        return self._console is not None or self._line is not None

    def step(self, figures: Row | None = None) -> None:
        """One batch is done; the figures are of the current epoch so far, where they were asked for."""
        if self._state is None:
            return
        self._state.watch.step()
        if figures is not None:
            self._state.figures = figures
        if self._line is not None:
            self._line.refresh()

    def epoch(self, rows: Sequence[Row]) -> None:
        """An epoch of the stage is done and measured: the last of the run's rows."""
        if self._state is None:
            return
        self._state.rows = rows
        self._state.watch.look()
        self.say(epoch_line(self._state, None if self._console is None else self._console.width - 1))

    def say(self, line: str) -> None:
        """A line that stays."""
        if self.show:
            say(line, sys.stdout if in_notebook() else sys.stderr)  # what a notebook gets on standard error is red


def _draw(state: StageState, console: Console) -> Text:
    """The bar, made for the terminal's width at the moment."""
    return Text(bar_line(state, console.width - 1, console.options.ascii_only), no_wrap=True, overflow="crop")


def bar_line(state: StageState, width: int, ascii_only: bool = False) -> str:
    """The bar of a stage in one line of no more than ``width`` columns: what is least important is left out first.

    Stage, bar, epoch and time left stay at any width from 60 columns on; then come the lowest measured error so far,
    the rate, the share of the steps that are done, the speed, and the other figures of the current epoch.

    Args:
        state: Of the stage.
        width: Of the terminal, in columns.
        ascii_only: Whether the terminal shows nothing else.
    """
    share, lowest = state.watch.share, _lowest(state, width < _WIDE)
    name, needed = _head(state, width - _SHORTEST, lowest)
    used = len("  ".join([name, "", *needed]))
    trained = _trained(state)
    for part in [*lowest, *trained[:1], f"{share:4.0%}", *trained[1:]]:
        if used + _SHORTEST + 2 + len(part) > width:
            break
        needed.append(part)
        used += 2 + len(part)
    length = min(_LONGEST, width - used)
    if length < _SHORTEST:
        return "  ".join([name, *needed])[:width]
    return "  ".join([name, _bar(share, length, ascii_only), *needed])


def _head(state: StageState, room: int, error: list[str]) -> tuple[str, list[str]]:
    """The stage; the epoch and the time left: in short where not all of it has room, or the error would have none."""
    epoch = f"epoch {min(int(state.watch.share * state.epochs + 1e-9) + 1, state.epochs)}/{state.epochs}"
    name = printable(state.name)
    forms = [
        (f"{name} ({state.place})" if state.place else name, [epoch, state.left()]),
        (name, [epoch, state.left(short=True)]),
    ]
    for more in (error, []):
        for title, needed in forms:
            if len("  ".join([title, "", *needed, *more])) <= room:
                return title, needed
    rest = room - len("  ".join(["", "", *needed]))
    return name[: max(rest - 2, 0)] + "..", needed


def _bar(share: float, length: int, ascii_only: bool) -> str:
    done, rest = ("#", "-") if ascii_only else ("━", "─")
    filled = int(share * length)
    return done * filled + rest * (length - filled)


def _lowest(state: StageState, short: bool) -> list[str]:
    """The lowest measured error of the stage so far; nothing before the first one."""
    rows = [row for row in state.rows if row["stage"] == state.name]
    key = next((key for row in reversed(rows) if (key := _key(state, row)) is not None), None)
    if key is None:
        return []
    best = min(float(row[key]) for row in rows if key in row)
    return [f"best {_measured(state, key, best, short)}"]


def _trained(state: StageState) -> list[str]:
    """The figures of the current epoch, the most important first."""
    row = state.figures
    if not row:
        return []
    errors = [f"{key.removeprefix('train_error_')} {_error(key, row[key])}" for key in _errors(row, "train")]
    return [
        f"rate {row['learning_rate']:.2g}",
        f"{row['images_per_second']:,.0f} images/s",
        *errors[:1],
        f"loss {row['loss']:.3f}",
        *errors[1:],
    ]


def _key(state: StageState, row: Row) -> str | None:
    """The error that tells epochs apart: of what is delivered, on the images that choose the epoch if there are any."""
    return next((key for split in ("validation", "test") for key in state.measured(row, split)), None)


def _errors(row: Row, split: str) -> list[str]:
    return [key for key in row if key.startswith(f"{split}_error_")]


def _error(key: str, value: float | int | str) -> str:
    """An error with the images that it is of."""
    split = key.partition("_")[0].replace("train", "training")
    return f"{split} error {value:.2f} %"


def _measured(state: StageState, key: str, value: float | int | str, short: bool) -> str:
    """An error that stands first, with whose it is where that is not the first peer and there is room to say it."""
    split, _, name = key.partition("_error_")
    whose = name == state.delivered and not short
    return f"{split} error of {name} {value:.2f} %" if whose else _error(key, value)


def epoch_line(state: StageState, width: int | None = None) -> str:
    """The last of a run's epochs in a line, the most important first.

    Epoch, time left, the error of what is delivered and its lowest so far; then loss, rate, training error and speed;
    then the errors of the others.

    Args:
        state: Of the stage, whose last row is the epoch's.
        width: Of a terminal, in columns: what has no room is left out. None for a log, which has all.
    """
    row, short = state.rows[-1], width is not None and width < _WIDE
    parts = [f"{printable(state.name)} epoch {row['epoch']}/{state.epochs}"]
    if state.watch.left() is not None:
        parts.append(state.left(short))
    for key in state.measured(row, "validation")[:1] + state.measured(row, "test")[:1]:
        parts.append(_measured(state, key, row[key], short))
        if key == _key(state, row):
            parts.append(_best(state, key, short))
    parts += [f"loss {row['loss']:.4f}", f"rate {row['learning_rate']:.2g}"]
    parts += [_error(key, row[key]) for key in _errors(row, "train")[:1]]
    parts.append(f"{row['images_per_second']:,.0f} images/s")
    for split in ("validation", "test"):
        if others := state.measured(row, split)[1:]:
            errors = (f"{key.removeprefix(f'{split}_error_')} {row[key]:.2f} %" for key in others)
            parts.append(f"{split} error of {', '.join(errors)}")
    while width is not None and len("  ".join(parts)) > width:
        parts.pop()
    return "  ".join(parts)


def _best(state: StageState, key: str, short: bool) -> str:
    rows = [row for row in state.rows if row["stage"] == state.name and key in row]
    best = min(rows, key=lambda row: float(row[key]))
    return f"best {best[key]:.2f}" + ("" if short else f" in epoch {best['epoch']}")
