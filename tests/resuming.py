"""A run that is stopped in the middle of a stage, for tests of exact resume."""

import os
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import coterie
from coterie.training import Interrupted


def go(method, data, out, **options):
    options = {"epochs": 2, "batch_size": 32, "progress": False, "tensorboard": False} | options
    return coterie.train(method, data, out=out, **options)


def stopping(method, stage, step):
    """The method, which asks its process to stop after a step of a stage, as a user's SIGTERM would."""
    whole = method.stages

    def stages(spec):
        for each in whole(spec):
            yield replace(each, after_step=_then_stop(each.after_step, step)) if each.name == stage else each

    method.stages = stages
    return method


def _then_stop(hook, step):
    count = 0

    def after_step(done):
        nonlocal count
        count += 1
        if hook is not None:
            hook(done)
        if count == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return after_step


def weights(run):
    """All delivered tensors of a run."""
    return {
        f"{name}.{key}": tensor
        for name in run.card["deliverables"]
        for key, tensor in load_file(run.weights_path(name)).items()
    }


def same(first, second):
    ours, theirs = weights(first), weights(second)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def resumes_exactly(make, data, folder, stage, step, **options):
    """Whether a run that is stopped there and taken up again ends as one that was never stopped."""
    whole = go(make(), data, folder / "whole", **options)
    with pytest.raises(Interrupted, match=stage):
        go(stopping(make(), stage, step), data, folder / "cut", **options)
    cut = go(make(), data, folder / "cut", resume=True, **options)

    def rows(run):
        return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in run.metrics]

    return same(whole, cut) and rows(whole) == rows(cut)
