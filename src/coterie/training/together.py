"""Many trainings in one process, each a step in turn: how a card that one small network leaves idle is filled.

Each training has a thread and, on CUDA, a stream of its own. One thread runs at a time, from the end of one of its
steps to the end of the next: what it computes, and the random numbers that it draws, are those of its training alone.
With captured steps (:mod:`coterie.training.stages.capture`) a turn is a few launches, and the card computes many
trainings at once.
"""

import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import Any

import torch


class Together(Executor):
    """Runs functions that train, in threads of this process that take turns; what fails ends alone.

    At :meth:`shutdown` with ``cancel_futures`` trainings write their checkpoints and raise
    :class:`~coterie.training.Interrupted`, as they do at SIGTERM.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._free = True
        self._threads: list[threading.Thread] = []
        self.asked: int | None = None

    def submit(self, function: Callable[..., Any], /, *given: Any, **options: Any) -> Future[Any]:
        """Run a function, from its first turn on."""
        future: Future[Any] = Future()
        thread = threading.Thread(target=self._run, args=(future, function, given, options))
        self._threads.append(thread)
        thread.start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End: at once after the steps that run, if ``cancel_futures``; else when all have ended."""
        if cancel_futures:
            self.asked = signal.SIGTERM
        if wait:
            for thread in self._threads:
                thread.join()

    def give_way(self) -> None:
        """Let every other training have a turn that waits for one."""
        with self._lock:
            if not self._waiting:
                return
            turn = self._queue()
            self._waiting.popleft().release()
        turn.acquire()

    def _run(self, future: Future[Any], function: Callable[..., Any], given: Any, options: Any) -> None:
        self._take()
        _own.together = self
        try:
            if future.set_running_or_notify_cancel():
                with _own_stream():
                    future.set_result(function(*given, **options))
        except BaseException as error:  # the future's to raise, whatever it is
            future.set_exception(error)
        finally:
            self._hand_on()

    def _take(self) -> None:
        with self._lock:
            if self._free:
                self._free = False
                return
            turn = self._queue()
        turn.acquire()

    def _hand_on(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._free = True

    def _queue(self) -> threading.Lock:
        """A place at the end of the queue: a lock that opens when its turn has come."""
        turn = threading.Lock()
        turn.acquire()
        self._waiting.append(turn)
        return turn


class _Own(threading.local):
    """What a thread trains in."""

    together: Together | None = None


_own = _Own()


def takes_turns() -> bool:
    """Whether what trains here is one of several in this process."""
    return _own.together is not None


def give_way() -> int | None:
    """After a step: let the other trainings of this process make theirs; gives the signal to stop at, or None."""
    together = _own.together
    if together is None:
        return None
    together.give_way()
    return together.asked


@contextmanager
def _own_stream() -> Iterator[None]:
    """On CUDA, what is computed in the block does not wait for what other threads compute."""
    if not torch.cuda.is_available():
        yield
        return
    with torch.cuda.stream(torch.cuda.Stream()):  # type: ignore[no-untyped-call]
        yield
