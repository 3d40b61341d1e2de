"""A signal ends a command in one line, whatever it is doing; what it had half written is removed.

Imported before everything else, so it imports nothing but the standard library.
"""

import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

unfinished: set[Path] = set()
"""Files and folders that are being written and have not taken their place yet."""

_ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_advice = ""  # how to go on with the command that runs


class Signalled(KeyboardInterrupt):
    """A signal asked the process to end.

    Attributes:
        number: Of the signal.
    """

    def __init__(self, number: int, where: str = "") -> None:
        super().__init__(where)
        self.number = number


def line(number: int, where: str = "") -> str:
    """What a command says when a signal ended it."""
    at = f" at {where}" if where else ""
    return f"stopped by {signal.Signals(number).name}{at}" + (f"; {_advice}" if _advice else "")


def remove_unfinished() -> None:
    """Remove what nobody is going to finish."""
    for path in list(unfinished):
        with suppress(OSError):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def leave(number: int, frame: FrameType | None = None) -> None:
    """A handler that ends the process now, in one line, without unwinding what runs."""
    remove_unfinished()
    with suppress(OSError):
        os.write(2, f"\n{line(number)}\n".encode())
    os._exit(128 + number)


def end(number: int, frame: FrameType | None = None) -> None:
    """A handler that ends the command by an exception, so that it cleans up; the next signal leaves at once.

    Raises:
        Signalled: Always.
    """
    _handle(leave)
    raise Signalled(number)


@contextmanager
def ended_by_signals(advice: str, to_the_end: bool) -> Iterator[None]:
    """Inside, signals end the command: at once until :func:`started`, in order after it.

    Args:
        advice: How to go on with the command; empty where it is simply repeated.
        to_the_end: Whether the process ends with the command, so that they do so until then.
    """
    global _advice
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _ENDING}
    hook, said = sys.unraisablehook, _advice

    def leave_when_lost(lost: "sys.UnraisableHookArgs") -> None:
        if isinstance(lost.exc_value, Signalled):  # raised where Python can only print it, as in a __del__
            leave(lost.exc_value.number)
        hook(lost)

    try:
        _advice, sys.unraisablehook = advice, leave_when_lost
        _handle(leave)
        yield
    finally:
        remove_unfinished()
        if to_the_end:
            _handle(leave)
        else:
            for number, handler in before.items():
                signal.signal(number, handler)
            sys.unraisablehook, _advice = hook, said


def started() -> None:
    """All is imported: from now on there may be something to clean up."""
    if threading.current_thread() is threading.main_thread():
        _handle(end)


def _handle(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in _ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup and background jobs of a shell set it
            signal.signal(number, handler)
