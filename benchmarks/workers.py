"""Trainings side by side with one thread each, against one after another with all threads: how a study should run.

    python benchmarks/workers.py          # about five minutes on two cores; writes benchmarks/workers.json

As many trainings as cores, of a small and a larger network, data included; the processes and their imports are there
before the clock starts, as a study keeps them. Both ways take turns. Above 1, side by side is faster; a study on
processors runs so by default (``coterie.studies.pools.default_workers``).
"""

import json
import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median

from cells import surroundings

RESULTS = Path(__file__).with_suffix(".json")
ROUNDS = 5
# Network, side of the images, training images, epochs.
CASES = (("resnet8", 16, 1280, 6), ("resnet32", 32, 1280, 1))


def ready(threads: int) -> None:
    """Import what a training needs, and take these threads."""
    import timm  # noqa: F401
    import torch

    import coterie.training  # noqa: F401

    torch.set_num_threads(threads)


def nothing(_: int) -> None:
    """A task by which a process is there."""
    time.sleep(0.5)


def train(case: tuple[str, int, int, int], seed: int) -> None:
    """One training, into a folder that is removed."""
    import torch

    import coterie
    from coterie.recipes import Recipe

    network, side, images, epochs = case
    data = coterie.data.load("digits", image_size=side, train_samples=images)
    with tempfile.TemporaryDirectory() as place:
        coterie.train(
            coterie.methods.One(network=network),
            data,
            recipe=Recipe(),
            out=Path(place) / "run",
            epochs=epochs,
            seed=seed,
            threads=torch.get_num_threads(),
            progress=False,
        )


def seconds(pool: ProcessPoolExecutor, case: tuple[str, int, int, int], seeds: Sequence[int]) -> float:
    """How long a pool takes for all of them."""
    started = time.perf_counter()
    list(pool.map(train, [case] * len(seeds), seeds))
    return time.perf_counter() - started


def main() -> None:
    """Measure, print and write."""
    cores = len(os.sched_getaffinity(0))
    context, rows = get_context("spawn"), []
    with (
        ProcessPoolExecutor(cores, context, initializer=ready, initargs=(1,)) as beside,
        ProcessPoolExecutor(1, context, initializer=ready, initargs=(cores,)) as after,
    ):
        list(beside.map(nothing, range(4 * cores)))
        list(after.map(nothing, range(1)))
        for case in CASES:
            ratios = []
            for number in range(ROUNDS + 1):  # the first warms up
                seeds = range(cores * number, cores * (number + 1))
                ratios.append(seconds(after, case, seeds) / seconds(beside, case, seeds))
            network, side, images, epochs = case
            rows.append(
                {
                    "network": network,
                    "pixels": side,
                    "images": images,
                    "epochs": epochs,
                    "side by side is faster by": round(median(ratios[1:]), 2),
                    "range": [round(min(ratios[1:]), 2), round(max(ratios[1:]), 2)],
                }
            )
            print(rows[-1], flush=True)
    found = {"command": "python benchmarks/workers.py", "cores": cores, **surroundings("cpu"), "cases": rows}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
