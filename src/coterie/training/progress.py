"""What a person sees while a run trains."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

console = Console(stderr=True, highlight=False)


class Reporter:
    """A progress bar on a terminal, one line an epoch elsewhere; nothing on processes but the first."""

    def __init__(self, show: bool) -> None:
        self.show = show
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    @contextmanager
    def stage(self, name: str, steps: int, done: int) -> Iterator[None]:
        """The bar of one stage of so many steps, some of them done by an earlier session."""
        if not (self.show and sys.stderr.isatty()):
            yield
            return
        columns = (
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}"),
        )
        with Progress(*columns, console=console) as self._bar:
            self._task = self._bar.add_task(name, total=steps, completed=done, detail="")
            yield
        self._bar = self._task = None

    @property
    def wants_detail(self) -> bool:
        """Whether a bar is on the screen, so that figures are worth fetching from the device."""
        return self._bar is not None

    def step(self, detail: str | None = None) -> None:
        """One batch is done."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=1)
            if detail is not None:
                self._bar.update(self._task, detail=detail)

    def say(self, line: str) -> None:
        """A line that stays."""
        if self.show:
            (self._bar.console if self._bar is not None else console).print(line, markup=False)


def epoch_line(stage: str, epoch: int, epochs: int, row: Mapping[str, float | int | str]) -> str:
    """One epoch in a line: loss, each peer's test error, speed."""
    parts = [f"{stage} {epoch}/{epochs}", f"loss {row['loss']:.4f}"]
    for split in ("validation", "test"):
        errors = {key.removeprefix(f"{split}_error_"): value for key, value in row.items() if f"{split}_error_" in key}
        if errors:
            parts.append(f"{split} error % " + " ".join(f"{name} {value:.2f}" for name, value in errors.items()))
    return "  ".join([*parts, f"{row['images_per_second']:.0f} images/s"])


def step_line(row: Mapping[str, float | int | str]) -> str:
    """The current epoch so far: loss terms, each peer's training accuracy, speed."""
    parts = [f"{name.removeprefix('loss_')} {value:.3f}" for name, value in row.items() if name.startswith("loss_")]
    for name, value in row.items():
        if name.startswith("train_error_"):
            parts.append(f"{name.removeprefix('train_error_')} {100 - float(value):.1f}%")
    return "  ".join([*parts, f"{row['images_per_second']:.0f} images/s"])


@contextmanager
def tensorboard_writer(path: Path, wanted: bool) -> Iterator[Any]:
    """Writes figures for TensorBoard into a Run's folder; None where they are not wanted."""
    if not wanted:
        yield None
        return
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(path / "tensorboard"))
    try:
        yield writer
    finally:
        writer.close()
