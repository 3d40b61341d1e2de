"""Where a study's trials run: processes of this machine, or of a Ray cluster."""

import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, get_all_start_methods, get_context
from multiprocessing.connection import wait
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import torch

from coterie.console.interrupt import GRACE, worker
from coterie.errors import UserError
from coterie.extras import need

_PRELOADED = "coterie.studies.trial"


def count_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers() -> int:
    """A training a GPU; without one, a training a core."""
    return torch.cuda.device_count() or count_cores()


def describe_machine() -> str:
    """The machine in a few words."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return f"{model}, {count_cores()} cores, {', '.join(gpus) or 'no GPU'}"


def make_process_pool(workers: int) -> ProcessPoolExecutor:
    """Processes of this machine, each with its share of the cores, or a GPU of its own.

    Where the system can, they are forked from one that has imported what a trial needs, and done nothing else.
    """
    context: Any = get_context("spawn")
    if "forkserver" in get_all_start_methods():
        context = get_context("forkserver")
        context.set_forkserver_preload([_PRELOADED])
    places: Queue[int] = context.Queue()
    for index in range(workers):
        places.put(index)
    given = (places, threads_each(workers), torch.cuda.device_count())
    return _Processes(workers, context, initializer=_settle, initargs=given)


def threads_each(workers: int) -> int:
    """A worker's share of the cores, or what ``OMP_NUM_THREADS`` allows it where that is less."""
    share, asked = max(1, count_cores() // workers), os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(share, int(asked)) if asked.isdecimal() and int(asked) > 0 else share


class _Processes(ProcessPoolExecutor):
    """Processes that meet their signals when they have settled: before, one would end them, with a traceback or not."""

    def submit(self, function: Callable[..., Any], /, *given: Any, **options: Any) -> Future[Any]:
        """Run a function in one of them, which may be started for it."""
        with _hold_signals():
            return super().submit(function, *given, **options)


@contextmanager
def _hold_signals() -> Iterator[None]:
    """Signals that come inside are met after it; a process that is started inside meets them when it asks for them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_processes(pool: Executor, seconds: float = GRACE) -> None:
    """End a pool: its trainings write their checkpoints, and what has not ended after so many seconds is killed.

    Args:
        pool: It is given nothing more to do.
        seconds: For all together.
    """
    children = active_children()
    for child in children:
        child.terminate()  # SIGTERM, at which a training writes its checkpoint
    pool.shutdown(wait=not children, cancel_futures=True)
    deadline = time.monotonic() + seconds
    alive = {child.sentinel: child for child in children}
    while alive and (left := deadline - time.monotonic()) > 0:
        for ended in wait(list(alive), left):
            del alive[ended]  # type: ignore[arg-type]
    for child in alive.values():
        child.kill()


def _settle(places: "Queue[int]", threads: int, gpus: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the first process, which stops the others in order
    signal.signal(signal.SIGTERM, worker)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
    worker.watch()
    torch.set_num_threads(threads)
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(places.get() % gpus)


@contextmanager
def _keep_handler() -> Iterator[None]:
    """Ray puts a handler of its own in place of the process's for good: a later SIGTERM would end trainings at once."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


class RayExecutor(Executor):
    """The processes of a Ray cluster (``pip install coterie[ray]``), which see the same folders.

    Args:
        address: Of the cluster; ``auto`` for the one that runs here, ``local`` to start one.

    Raises:
        UserError: Ray is not installed, or nothing answers there.
    """

    def __init__(self, address: str) -> None:
        ray = need("ray", "ray")
        try:
            with _keep_handler():
                ray.init(address=address, log_to_driver=False, logging_level="ERROR", ignore_reinit_error=True)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"⟨ray {address}⟩: {' '.join(str(error).split())[:150]}") from error
        self.ray = ray
        gpus = ray.cluster_resources().get("GPU", 0)
        self.workers = int(gpus or ray.cluster_resources()["CPU"])
        self.remote = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0, max_retries=1)(_run_there)

    def submit(self, function: Callable[..., Any], /, *given: Any, **options: Any) -> Future[Any]:
        """Run a function on any machine of the cluster."""
        future: Future[Any] = self.remote.remote(os.getcwd(), function, *given, **options).future()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the cluster."""
        self.ray.shutdown()


def _run_there(folder: str, function: Callable[..., Any], *given: Any, **options: Any) -> Any:
    os.chdir(folder)
    torch.set_num_threads(1)
    return function(*given, **options)
