"""Images of several requests go through the network together, within a bounded queue and each in its time."""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from coterie.serving.networks import Array, Network, Served
from coterie.serving.options import ServingOptions
from coterie.serving.refusals import Refused


class Places:
    """The places of the queue: an image has one from before its bytes are read until it is answered.

    Attributes:
        most: How many there are.
        used: How many are taken.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.used = 0

    def take(self, count: int) -> None:
        """Take places.

        Raises:
            Refused: There are not so many.
        """
        if self.used + count > self.most:
            raise Refused(429, "too many images are waiting; send it again in a second", again=True)
        self.used += count

    def give(self, count: int, running: Sequence["Future[Any]"] = ()) -> None:
        """Give places back, those of images that are still being decoded when that has ended.

        Nothing can end a thread: what a request no longer waits for must still count.
        """
        loop = asyncio.get_running_loop()
        slow = [future for future in running if not future.cancel() and not future.done()]
        self.used -= count - len(slow)
        for future in slow:
            future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._give_one))

    def _give_one(self) -> None:
        self.used -= 1


@dataclass(frozen=True)
class Answer:
    """What the networks say of an image.

    Attributes:
        probabilities: Of each class, float64 (C,).
        ensemble: The ensemble's; None where it was not asked for.
        network_ms: How long the image's batch took, in milliseconds.
        batch: How many images were in it.
    """

    probabilities: Array
    ensemble: Array | None
    network_ms: float
    batch: int


@dataclass(eq=False)
class _Job:
    pixels: Array
    ensemble: bool
    deadline: float
    future: "asyncio.Future[Answer]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    started: bool = False


class Batcher:
    """Gathers images into batches and runs them, one batch after another, on a thread of its own."""

    def __init__(self, served: Served, options: ServingOptions, places: Places) -> None:
        self._served, self._options, self._places = served, options, places
        self._queue: asyncio.Queue[_Job] = asyncio.Queue()  # bounded by the places
        self._thread = ThreadPoolExecutor(1, "coterie-network")

    async def classify(self, pixels: Array, ensemble: bool, deadline: float) -> Answer:
        """What the networks say of an image.

        Args:
            pixels: uint8 (H, W, channels).
            ensemble: Whether the ensemble is asked too.
            deadline: Until when, by the loop's clock.

        Raises:
            Refused: The time is over.
        """
        job = _Job(pixels, ensemble, deadline)
        self._queue.put_nowait(job)
        try:
            async with asyncio.timeout_at(deadline):
                return await job.future
        except TimeoutError as error:
            if job.started:
                raise Refused(504, "the network took too long; send fewer images at once") from error
            raise Refused(503, "the server is busy; send it again in a second", again=True) from error

    async def warm(self) -> None:
        """Run batches of one image and of the most, so that nobody waits for what is only done once."""
        for count in (1, self._options.max_batch):
            jobs = [_Job(pixels, True, 0.0) for pixels in self._served.zeros(count)]
            await asyncio.get_running_loop().run_in_executor(self._thread, self._run, jobs)

    async def run(self) -> None:
        """Run batches until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            jobs = [job for job in await self._gather() if not job.future.done() and job.deadline > loop.time()]
            if not jobs:
                continue
            for job in jobs:
                job.started = True
            try:
                answers = await loop.run_in_executor(self._thread, self._run, jobs)
            except Exception as error:  # the requests fail, and the server goes on
                for job in jobs:
                    if not job.future.done():
                        job.future.set_exception(error)
                continue
            for job, answer in zip(jobs, answers, strict=True):
                if not job.future.done():
                    job.future.set_result(answer)

    def close(self) -> None:
        """End the thread when its batch has ended."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _gather(self) -> list[_Job]:
        """The next batch: it waits for others only while some are accepted that are not in it."""
        jobs = [await self._queue.get()]
        until = asyncio.get_running_loop().time() + self._options.batch_wait_ms / 1000
        while len(jobs) < self._options.max_batch:
            if not self._queue.empty():
                jobs.append(self._queue.get_nowait())
                continue
            if self._places.used <= len(jobs):
                break
            try:
                async with asyncio.timeout_at(until):
                    jobs.append(await self._queue.get())
            except TimeoutError:
                break
        return jobs

    def _run(self, jobs: Sequence[_Job]) -> list[Answer]:
        """Both networks on a batch, in the thread."""
        began = time.perf_counter()
        images = self._served.normalise(np.stack([job.pixels for job in jobs]))
        ours = _probabilities(self._served.network, images)
        asked = [place for place, job in enumerate(jobs) if job.ensemble]
        theirs: dict[int, Array] = {}
        if self._served.ensemble is not None and asked:
            theirs = dict(zip(asked, _probabilities(self._served.ensemble, images[asked]), strict=True))
        took = 1000 * (time.perf_counter() - began)
        return [Answer(values, theirs.get(place), took, len(jobs)) for place, values in enumerate(ours)]


def _probabilities(network: Network, images: Array) -> Array:
    """The softmax of a network's logits, (B, C)."""
    logits = network(images).astype(np.float64)
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(shares / shares.sum(1, keepdims=True))
