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

    def stages(task):
        for each in whole(task):
            yield replace(each, hooks=_both(each.hooks, stop)) if each.name == stage else each

    method.stages = stages
    return method


def _both(hooks, stop):
    def after_step(done):
        if hooks.after_step is not None:
            hooks.after_step(done)
        stop(done)

    return replace(hooks, after_step=after_step)


def resumes_exactly(make, data, folder, stage, step, **options):
    """Whether a run that is stopped there and taken up again ends as one that was never stopped."""
    whole = go(make(), data, folder / "whole", **options)
    cut = cut_and_resumed(make, data, folder / "cut", stage, step, **options)
    return same(whole, cut) and comparable(whole.metrics) == comparable(cut.metrics)


def cut_and_resumed(make, data, out, stage, step, **options):
    """A run that is stopped after a step of a stage and taken up again."""
    with pytest.raises(Interrupted, match=f"of stage {stage}$"):
        go(stopping(make(), stage, step), data, out, **options)
    return go(make(), data, out, resume=True, **options)
