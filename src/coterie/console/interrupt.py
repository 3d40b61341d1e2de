"""SIGTERM and Ctrl-C let the loop finish its step and write a checkpoint; a study's workers outlive SIGTERM."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from multiprocessing.connection import wait
from types import FrameType
from typing import Any

from coterie.console.signals import Signalled, end, leave

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


GRACE = 120.0
"""Seconds that a training has for its step and its checkpoint, when its study ends."""


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

    def watch(self, every: float = 1.0) -> None:
        """Start a thread that ends this process: told to stop, it has no task; or the process that gave it some died.

        Args:
            every: Seconds between two looks.
        """
        threading.Thread(target=self._watch, args=(every,), daemon=True).start()

    def _watch(self, every: float) -> None:
        parent, idle, orphaned = parent_process(), 0, None
        while parent is not None:
            if orphaned is None and wait([parent.sentinel], every):
                orphaned = time.monotonic()
                os.kill(os.getpid(), signal.SIGTERM)  # a training writes its checkpoint
            elif orphaned is not None:
                time.sleep(every)
            # Twice: a task that has just ended still has an answer to give.
            idle = idle + 1 if self.asked is not None and not self.busy else 0
            if idle > 1 or (orphaned is not None and time.monotonic() - orphaned > GRACE):
                os._exit(0)

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
