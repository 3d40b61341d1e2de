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

_WARM = 16  # turns of a training after which it holds the memory that it takes: its step is captured by then
_SPARE = 2.0  # times what one training took at most must be free for another: measuring images takes more than a step


class Together(Executor):
    """Runs functions that train, in threads of this process that take turns; what fails ends alone.

    At :meth:`shutdown` with ``cancel_futures`` trainings write their checkpoints and raise
    :class:`~coterie.training.Interrupted`, as they do at SIGTERM.

    Args:
        room: Asked whether one more training may begin, when the last that began has had 16 turns; what does not may
            begin later, and where none runs one begins in any case. None lets all begin at once.
    """

    def __init__(self, room: Callable[[], bool] | None = None) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._free = True
        self._room = room
        self._outside: deque[threading.Lock] = deque()
        self._begun = self._turns = 0
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
            with self._lock:
                self.asked = signal.SIGTERM
                while self._outside:
                    self._open()
        if wait:
            for thread in self._threads:
                thread.join()

    def give_way(self) -> None:
        """Let every other training have a turn that waits for one."""
        with self._lock:
            self._turns += 1
            if self._outside and self._turns >= _WARM * self._begun and self.asked is None:
                self._let_in()
            if not self._waiting:
                return
            turn = self._queue()
            self._waiting.popleft().release()
        turn.acquire()

    def _run(self, future: Future[Any], function: Callable[..., Any], given: Any, options: Any) -> None:
        waited = self._take()
        if waited and self.asked is not None:
            future.cancel()  # nothing begins that a stop found waiting for room
        _own.together = self
        try:
            if future.set_running_or_notify_cancel():
                with _own_stream():
                    future.set_result(function(*given, **options))
        except BaseException as error:  # the future's to raise, whatever it is
            future.set_exception(error)
        finally:
            self._hand_on()

    def _take(self) -> bool:
        """Wait for the first turn; gives whether there was no room for it before."""
        with self._lock:
            waits = self._room is not None and self._begun > 0
            if waits:
                turn = _closed()
                self._outside.append(turn)
            else:
                self._begun += 1
                if self._free:
                    self._free = False
                    return False
                turn = self._queue()
        turn.acquire()
        return waits

    def _let_in(self) -> None:
        self._turns = 0
        if self._room is None or self._begun == 0 or self._room():
            self._open()

    def _open(self) -> None:
        self._begun += 1
        self._waiting.append(self._outside.popleft())

    def _hand_on(self) -> None:
        with self._lock:
            self._begun -= 1
            if self._outside and self._begun == 0:
                self._let_in()
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._free = True

    def _queue(self) -> threading.Lock:
        """A place at the end of the queue."""
        turn = _closed()
        self._waiting.append(turn)
        return turn


def _closed() -> threading.Lock:
    """A lock that another thread opens when its owner may go on."""
    lock = threading.Lock()
    lock.acquire()
    return lock


class CardMemory:
    """Whether a card's memory holds one more training: twice what one took at most so far must be free.

    Args:
        measure: Gives the bytes that this process holds and those that are free; None for the current CUDA device's.
    """

    def __init__(self, measure: Callable[[], tuple[int, int]] | None = None) -> None:
        self._measure = measure or _card_memory
        self._before, self._largest = 0, 0

    def __call__(self) -> bool:
        """Ask when the last training that was let in holds what it takes."""
        held, free = self._measure()
        self._largest = max(self._largest, held - self._before)
        self._before = held
        return free > _SPARE * self._largest


def _card_memory() -> tuple[int, int]:
    return torch.cuda.memory_reserved(), torch.cuda.mem_get_info()[0]


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
