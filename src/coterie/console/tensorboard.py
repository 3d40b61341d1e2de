"""Figures for TensorBoard."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

Row = Mapping[str, float | int | str]


@contextmanager
def open_tensorboard(path: Path, wanted: bool, say: Callable[[str], None]) -> Iterator[Callable[[Row], None]]:
    """Gives a function that writes an epoch's row into a Run's folder for TensorBoard; it does nothing if not wanted.

    Args:
        path: The Run's folder.
        wanted: Whether anything is written.
        say: Takes the line that says why nothing more is written, such as a full disk.
    """
    if not wanted:
        yield lambda row: None
        return
    from torch.utils.tensorboard import SummaryWriter

    folder, before = path / "tensorboard", threading.excepthook
    works = True

    def write(row: Row) -> None:
        nonlocal works
        try:
            if works:
                _write(writer, row)
        except OSError as error:
            works = False
            say(f"{folder}: cannot be written ({error.strerror}); the figures go on in metrics.csv")

    def hand_on(lost: threading.ExceptHookArgs) -> None:
        """What stops the writer's thread is raised where the next row is written, and need not be printed as well."""
        if not type(lost.thread).__module__.startswith("tensorboard."):
            before(lost)

    writer = SummaryWriter(str(folder))
    try:
        threading.excepthook = hand_on
        yield write
    finally:
        with suppress(OSError):  # a full disk, or a folder that was removed: said where a row is written
            writer.close()
        threading.excepthook = before


def _write(writer: Any, row: Row) -> None:
    for name, value in row.items():
        if isinstance(value, int | float) and name != "epoch":
            writer.add_scalar(f"{row['stage']}/{name}", value, row["epoch"])
    writer.flush()
