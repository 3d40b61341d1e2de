"""How many of all of timm's architectures branch, asked on the meta device, where nothing is computed."""

import signal
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from backbone_checks import CLASSES, list_families, list_published_sides
from coterie.networks.preserve import preserve_state
from coterie.networks.reinit import build_on_meta
from coterie.networks.split.points import default_split_point
from coterie.networks.split.segments import SplitForwards
from coterie.networks.split.verify import run_split


@dataclass(frozen=True)
class SweptBackbone:
    """Whether one architecture branches, asked on the meta device.

    Attributes:
        family: Timm's module.
        name: Timm's name.
        at: The cut; empty where it does not branch.
        traced: Whether its forward could be traced; else it is run in stretches.
        seconds: For all of this.
        reason: Why it does not branch; empty where it does.
    """

    family: str
    name: str
    at: str = ""
    traced: bool = True
    seconds: float = 0.0
    reason: str = ""


def list_architectures() -> list[tuple[str, str]]:
    """Every registered architecture of timm's, as (family, name)."""
    import timm

    return [(module, name) for module in list_families() for name in timm.list_models(module=module)]


def sweep_backbones(names: Iterable[tuple[str, str]], seconds: float = 60.0) -> Iterator[SweptBackbone]:
    """Cut architectures on the meta device, where nothing is computed and no weight takes memory.

    An architecture branches if it has a default split and its trunk and tail, run one after the other in both modes,
    give logits of the right shape. That they are exact is for :mod:`backbone_checks` and :func:`branch` to say.

    Args:
        names: (family, timm's name).
        seconds: What an architecture may take; a longer one is left, and its result says so.
    """
    for family, name in names:
        began = time.perf_counter()
        answer: dict[str, Any] = {}
        try:
            with warnings.catch_warnings(), _at_most(seconds):
                warnings.simplefilter("ignore")
                answer = _branched_on_meta(name)
        except Exception as error:
            answer["reason"] = f"{type(error).__name__}: {(str(error) or '?').splitlines()[0][:200]}"
        yield SweptBackbone(family, name, seconds=round(time.perf_counter() - began, 2), **answer)


def _branched_on_meta(name: str) -> dict[str, Any]:
    import timm

    model = build_on_meta(partial(timm.create_model, name, num_classes=CLASSES)).eval()
    side = list_published_sides(f"timm/{name}")[-1]
    images = torch.zeros(2, 3, side, side, device="meta")
    graphs = SplitForwards((default_split_point(model, images),))
    with torch.no_grad(), preserve_state(model):
        for mode in (True, False):
            shape = run_split(model.train(mode), graphs, images).shape
            if shape != (2, CLASSES):
                return {"reason": f"logits of shape {tuple(shape)}"}
    return {"at": graphs.ats[0], "traced": not graphs.resists}


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise a TimeoutError in a block that takes longer; in the main thread only."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"took longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def condense(rows: Iterable[SweptBackbone]) -> tuple[dict[str, Any], list[SweptBackbone]]:
    """Counts, by family too, and what does not branch."""
    rows = list(rows)
    families: dict[str, list[int]] = {}
    for row in rows:
        counts = families.setdefault(row.family, [0, 0])
        counts[0] += not row.reason
        counts[1] += 1
    counts = {
        "branched": sum(not row.reason for row in rows),
        "traced": sum(not row.reason and row.traced for row in rows),
        "of": len(rows),
        "seconds": round(sum(row.seconds for row in rows)),
        "families": families,
    }
    return counts, [row for row in rows if row.reason]
