"""SIGTERM and Ctrl-C let the loop finish its step and write a checkpoint."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop, has written a checkpoint, and can go on with ``resume=True``."""

    def __init__(self, number: int, where: str) -> None:
        super().__init__(where)
        self.number = number


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """SIGTERM and Ctrl-C are noted, for the loop to finish its step; a second one acts at once."""
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
