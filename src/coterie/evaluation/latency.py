"""How long a deployed network takes for one image."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from coterie.extras import need


def latencies(files: Sequence[Path], channels: int, image_size: tuple[int, int], runs: int = 200) -> list[float]:
    """Median milliseconds of a single image's forward by ONNX Runtime, on one thread of the CPU.

    The files take turns, so that what else the machine does meets all of them alike; the first tenth is not counted.

    Args:
        files: ONNX networks with the input ``images`` (B, channels, H, W).
        channels: Channels of the images.
        image_size: (height, width) in pixels.
        runs: How often each runs.
    """
    onnxruntime = need("onnxruntime", "export")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    sessions = [onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"]) for file in files]
    image = np.random.default_rng(0).standard_normal((1, channels, *image_size), dtype=np.float32)
    seconds: list[list[float]] = [[] for _ in sessions]
    for _ in range(runs + runs // 10):
        for session, taken in zip(sessions, seconds, strict=True):
            started = perf_counter()
            session.run(None, {"images": image})
            taken.append(perf_counter() - started)
    return [1000 * median(taken[runs // 10 :]) for taken in seconds]
