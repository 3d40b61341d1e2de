"""SIGTERM and Ctrl-C let the loop finish its step and write a checkpoint; a study's workers outlive SIGTERM."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from types import FrameType
from typing import Any

from coterie.signals import Signalled, end, leave

# They end the process, or the command line's command: what a second signal is for.
_ENDING = (signal.SIG_DFL, signal.default_int_handler, end, leave)


class Interrupted(Signalled):
    """Training was asked to stop, has written a checkpoint, and can go on with ``resume=True``."""


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """SIGTERM and Ctrl-C are noted, for the loop to finish its step; a second one acts at once.

    Where someone else handles or ignores the signal, as a :class:`Worker` does, a second one is only noted, and their
    handler is told when the loop has ended.
    """
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        if before[number] in _ENDING:
            signal.signal(number, before[number])

    try:
        for number in before:
            signal.signal(number, note)
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number, handler in before.items():
            if number in noted and handler not in _ENDING and callable(handler):
                handler(number, None)


class Worker:
    """What SIGTERM does to a process that runs one task after another: it ends the task, not the process.

    Were the process to die, its pool would count as broken and end the other ones too.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self.busy = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """As a handler of :mod:`signal`.

        Raises:
            Interrupted: There is a task, and this is the first signal.
        """
        first, self.asked = self.asked is None, number
        if self.busy and first:
            raise Interrupted(number, "outside of training")
        parent = parent_process()
        if not self.busy and parent is not None and not parent.is_alive():
            raise SystemExit  # nobody is left to give it tasks, or to end it

    @contextmanager
    def task(self) -> Iterator[None]:
        """Inside, SIGTERM raises :class:`Interrupted`; so does one that came before.

        Raises:
            Interrupted: SIGTERM came.
        """
        self.busy = True
        try:
            if self.asked is not None:
                raise Interrupted(self.asked, "before it began")
            yield
        finally:
            self.busy = False


worker = Worker()
