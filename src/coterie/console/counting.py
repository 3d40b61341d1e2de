"""How far a command is that takes many images, on a terminal where that takes a while."""

import sys
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from time import perf_counter
from types import TracebackType
from typing import Protocol, Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_PATIENCE = 2.0  # seconds that need no bar


class _Labelled(Protocol):
    @property
    def labels(self) -> Sized: ...


Batched = TypeVar("Batched", bound=_Labelled | Sized)

_counts: ContextVar[bool] = ContextVar("counts", default=False)


@contextmanager
def show_counts() -> Iterator[None]:
    """Let what is measured in batches show how far it is: commands do, functions called from Python do not."""
    token = _counts.set(True)
    try:
        yield
    finally:
        _counts.reset(token)


class Counter:
    """A progress bar on standard error once two seconds have passed; nothing where that is no terminal.

    Args:
        what: Is counted, such as ``images``.
        total: How many there are; None where that is not known.
    """

    def __init__(self, what: str, total: int | None = None) -> None:
        self.what, self.total = what, total
        self.done = 0
        self._started = perf_counter()
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, count: int = 1) -> None:
        """So many more are done."""
        self.done += count
        if self._bar is None and sys.stderr.isatty() and perf_counter() - self._started > _PATIENCE:
            self._bar = self._show()
        if self._bar is not None:
            speed = self.done / (perf_counter() - self._started)
            self._bar.update(self._bar.task_ids[0], completed=self.done, speed=f"{speed:,.0f} {self.what}/s")

    def _show(self) -> Progress:
        time = TimeElapsedColumn() if self.total is None else TimeRemainingColumn()
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"), time)
        # What goes to a file or a pipe must not be drawn above the bar.
        console = Console(stderr=True, highlight=False)
        bar = Progress(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty())
        bar.add_task(self.what, total=self.total, speed="")
        bar.start()
        return bar


def counted(batches: Iterator[Batched], total: int) -> Iterator[Batched]:
    """The same batches, with labels or of images alone, so many images in all, counted inside :func:`show_counts`."""
    if not _counts.get():
        yield from batches
        return
    with Counter("images", total) as counter:
        for batch in batches:
            yield batch
            counter.advance(len(batch if isinstance(batch, Sized) else batch.labels))
