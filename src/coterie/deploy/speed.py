"""What a deployed network costs where it runs: latency, throughput, memory, size on disk, beside its error."""

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated, Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from coterie.bounds import Bounds
from coterie.checking import check_value
from coterie.console.counting import counted
from coterie.data import evaluation_batches
from coterie.deploy.forms import Runnable, as_onnx, memory_of, of_file, of_run
from coterie.deploy.opening import is_exported
from coterie.errors import UserError
from coterie.evaluation.predictions import errors_and_nll
from coterie.files import user_path
from coterie.records import Card
from coterie.run import Run

BatchSize = Annotated[int, Bounds(least=1, most=65536)]
Threads = Annotated[int, Bounds(least=1, most=1024)]
Seconds = Annotated[float, Bounds(above=0, most=3600)]

_FEWEST, _MOST = 5, 20_000  # runs of each form
_SHAPE = ("channels", "image_size", "mean", "std", "classes")  # of a card: what test images have to agree with


@dataclass(frozen=True)
class Timing:
    """How long a form takes at a batch size and a number of threads.

    Attributes:
        threads: Of the CPU.
        batch_size: Images in a call.
        median_ms: Milliseconds of a call, the middle of all.
        p95_ms: What 95 % of the calls do not exceed.
        images_per_second: By the median.
    """

    threads: int
    batch_size: int
    median_ms: float
    p95_ms: float
    images_per_second: float


@dataclass(frozen=True)
class Form:
    """A network as it can be run.

    Attributes:
        name: The Run or file, and the deliverable.
        method: Of its training.
        student: Which of that method's deliverables it is.
        runtime: ``PyTorch`` or ``ONNX Runtime``.
        megabytes: Of its file.
        error: Test error in percent; None where neither the card nor the test images say it.
        measured: Whether the error was measured now; else it is the card's.
        memory_mb: The most memory that a fresh process took to load it and run the largest batch with one thread, the
            runtime's own included; None where it cannot be asked.
        timings: At every number of threads and batch size.
    """

    name: str
    method: str
    student: str
    runtime: str
    megabytes: float
    error: float | None
    measured: bool
    memory_mb: float | None
    timings: tuple[Timing, ...]


def bench(
    sources: Run | str | Path | Sequence[Run | str | Path],
    *,
    batch_sizes: Sequence[int] = (1, 32),
    threads: Sequence[int] = (1,),
    seconds: float = 1.0,
    progress: bool = False,
    **data: Any,
) -> list[Form]:
    """Measure networks in every form in which they can be run, on the CPU, all in turn.

    Of a Run these are its default deliverable and its ensemble in PyTorch, and the default one as float32 ONNX, made
    for the purpose, where ONNX Runtime is installed: it stands first, for others to be compared with.

    Args:
        sources: Runs, their folders, exported files.
        batch_sizes: Images in a call, up to 65,536.
        threads: Of the CPU, up to 1,024.
        seconds: For each form at each of these, up to an hour.
        progress: Whether a bar is shown.
        data: Options of :func:`coterie.data.load` in place of the first Run's, for example ``root``.

    Raises:
        UserError: A source is none of these, or an option is wrong.
    """
    sources = [sources] if isinstance(sources, Run | str | Path) else list(sources)
    if not sources:
        raise UserError("nothing to measure; name a Run folder, or a file that `coterie export` made")
    batch_sizes = [check_value("⟨batch_sizes⟩", size, BatchSize) for size in batch_sizes] or [1]
    threads = [check_value("⟨threads⟩", count, Threads) for count in threads] or [1]
    check_value("⟨seconds⟩", seconds, Seconds)
    runs = [Run.of(source) for source in sources if not is_exported(source)]
    bar = partial(track, console=Console(stderr=True), transient=True, disable=not progress)
    with tempfile.TemporaryDirectory() as place, _threads_kept(), torch.inference_mode():
        forms = [form for number, run in enumerate(runs) for form in as_onnx(run, Path(place) / str(number), data)]
        for source in sources:
            forms += [of_file(user_path(source))] if is_exported(source) else of_run(Run.of(source))  # type: ignore[arg-type]
        errors = [_error(form, runs[0] if runs else None, data) for form in forms]
        memory = [memory_of(form, max(batch_sizes)) for form in bar(forms, "memory")]
        timings = _time(forms, bar([(count, size) for count in threads for size in batch_sizes], "time"), seconds)
        sizes = [form.file.stat().st_size / 1e6 for form in forms]
    return [
        Form(form.name, form.card["method"], form.card["student"], form.runtime, size, error, measured, taken, times)
        for form, size, (error, measured), taken, times in zip(forms, sizes, errors, memory, timings, strict=True)
    ]


# Measuring ----------------------------------------------------------------------------------------------------------


def _images(card: Card, batch_size: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch_size, card["channels"], *card["image_size"], generator=generator)


def _error(form: Runnable, run: Run | None, options: Mapping[str, Any]) -> tuple[float | None, bool]:
    """The test error of a form, and whether it was measured: on the first Run's test images, where they fit."""
    card = form.card
    known = card["test"].get(card["student"], {}).get("error")
    if run is None or any(card[key] != run.card[key] for key in _SHAPE):  # type: ignore[literal-required]
        return known, False
    data = run.data(**options)
    logits, labels = [], []
    for batch in counted(evaluation_batches(data, data.test), len(data.test)):
        logits.append(form.network(batch.images.contiguous(), torch.get_num_threads()))
        labels.append(batch.labels)
    return errors_and_nll(torch.cat(logits), torch.cat(labels))["error"], True


def _time(forms: Sequence[Runnable], places: Iterable[tuple[int, int]], seconds: float) -> list[tuple[Timing, ...]]:
    """All forms in turn at each (threads, batch size), so that what else the machine does meets all of them alike."""
    timings: list[list[Timing]] = [[] for _ in forms]
    for count, size in places:
        calls = [_call(form, _images(form.card, size), count) for form in forms]
        for taken, times in zip(take_turns(calls, seconds), timings, strict=True):
            middle, late = median(taken), sorted(taken)[math.ceil(0.95 * len(taken)) - 1]
            times.append(Timing(count, size, 1000 * middle, 1000 * late, size / middle))
    return [tuple(times) for times in timings]


def _call(form: Runnable, images: Tensor, threads: int) -> Callable[[], Tensor]:
    return lambda: form.network(images, threads)


def take_turns(calls: Sequence[Callable[[], Any]], seconds: float) -> list[list[float]]:
    """Seconds of every call of each function: one after another, again and again, after a call that does not count.

    Args:
        calls: What is timed.
        seconds: For each of them together; none is called fewer than five times.
    """
    for call in calls:
        call()
    taken: list[list[float]] = [[] for _ in calls]
    end = perf_counter() + seconds * len(calls)
    while len(taken[0]) < _FEWEST or (perf_counter() < end and len(taken[0]) < _MOST):
        for call, times in zip(calls, taken, strict=True):
            started = perf_counter()
            call()
            times.append(perf_counter() - started)
    return taken


@contextmanager
def _threads_kept() -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
