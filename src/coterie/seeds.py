"""Randomness as a function of where in the training it is used, so that a run is repeatable and resumable."""

import hashlib


def mix(*parts: int | str) -> int:
    """A seed in [0, 2**63) that is a fixed function of its parts, different for any other parts."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
