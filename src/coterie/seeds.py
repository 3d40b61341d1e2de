"""Randomness as a function of where in the training it is used, so that a run is repeatable and resumable.

A place in the training, such as a stage's epoch, has a scalar key, :func:`mix`; what is drawn there for every image is
:func:`random_bits` of that key.
"""

import hashlib
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def mix(*parts: int | str) -> int:
    """A seed in [0, 2**63) that is a fixed function of its parts, different for any other parts."""
    text = "/".join(map(str, parts)).encode("utf-8", "surrogateescape")  # a file's name may be no UTF-8
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) >> 1


def random_bits(key: int, counters: Array) -> Array:
    """64 random bits for each counter, a fixed function of both (splitmix64; Steele, Lea, Flood 2014).

    For what is drawn once an image or a pixel: NumPy computes it for a whole batch, in any order, without a state.

    Args:
        key: The stream, in [0, 2**63).
        counters: Non-negative integers (B,).
    """
    with np.errstate(over="ignore"):
        bits = counters.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + _finish(np.array([key], np.uint64))
        return _finish(bits)


def _finish(bits: Array) -> Array:
    with np.errstate(over="ignore"):
        bits = bits + np.uint64(0x9E3779B97F4A7C15)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return bits ^ (bits >> np.uint64(31))
