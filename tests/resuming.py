"""A run that is stopped in the middle of a stage, for tests of exact resume."""

from dataclasses import replace

import pytest

import toys
from coterie.training import Interrupted
from toys import comparable, interrupting, same


def go(method, data, out, **options):
    return toys.go(method, data, out, **({"epochs": 2} | options))


def stopping(method, stage, step):
    """The method, which asks its process to stop after a step of a stage, as a user's SIGTERM would."""
    whole, stop = method.stages, interrupting(step)

    def stages(spec):
        for each in whole(spec):
            yield replace(each, after_step=_both(each.after_step, stop)) if each.name == stage else each

    method.stages = stages
    return method


def _both(hook, stop):
    def after_step(done):
        if hook is not None:
            hook(done)
        stop(done)

    return after_step


def resumes_exactly(make, data, folder, stage, step, **options):
    """Whether a run that is stopped there and taken up again ends as one that was never stopped."""
    whole = go(make(), data, folder / "whole", **options)
    with pytest.raises(Interrupted, match=stage):
        go(stopping(make(), stage, step), data, folder / "cut", **options)
    cut = go(make(), data, folder / "cut", resume=True, **options)
    return same(whole, cut) and comparable(whole.metrics) == comparable(cut.metrics)
