"""Small data that every test can train on in a second, and which tests see a GPU."""

import os
import re
import signal
from functools import cache

import pytest
import torch
from hypothesis import HealthCheck, settings
from PIL import Image

import coterie
from coterie.recipes import Recipe
from exporting import run_of

torch.set_num_threads(1)

# The same examples in every run; `pytest --hypothesis-profile default` looks for new ones. No test fails because the
# machine is busy.
settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")


def pytest_configure(config):
    """Tests are the same on every machine: a GPU is hidden from all but those of ``pytest -m gpu``."""
    # A shell starts what runs in its background with Ctrl-C ignored, and so would be what the tests start.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if re.search(r"(?<!not )\bgpu\b", config.option.markexpr):
        # cuBLAS reads it once, and one test's training may not be the first to use it.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Decoded images are kept in a folder of these tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COTERIE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(
        reason="needs a CUDA device: there is none, or it is hidden (only `pytest -m gpu` shows it)"
    )
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def digits():
    """160 + 100 handwritten digits."""
    return coterie.data.load("digits", train_samples=160, test_samples=100)


@pytest.fixture(scope="session")
def finished(digits, tmp_path_factory):
    """A finished run of ONE."""
    method = coterie.methods.One(network="resnet8")
    out = tmp_path_factory.mktemp("runs") / "one"
    return coterie.train(method, digits, recipe=Recipe(), epochs=2, out=out, progress=False)


@pytest.fixture(scope="session")
def alone(digits, tmp_path_factory):
    """A finished run of the same network alone."""
    method = coterie.methods.Vanilla(network="resnet8")
    out = tmp_path_factory.mktemp("runs") / "alone"
    return coterie.train(method, digits, recipe=Recipe(), epochs=2, out=out, progress=False)


@pytest.fixture(scope="session")
def run_named(tmp_path_factory):
    """Makes a run of a network by name, once in all tests."""
    return cache(lambda name, channels: run_of(name, channels, tmp_path_factory.mktemp("runs") / "run"))


@pytest.fixture(scope="session")
def moved(tmp_path_factory):
    """A run of a folder that is elsewhere now, and where. Its class names are no ASCII and look like mathematics."""
    folder = tmp_path_factory.mktemp("moved")
    for value, name in ((40, "$100^$"), (200, "你好")):
        (folder / "before" / name).mkdir(parents=True)
        for index in range(10):
            Image.new("L", (8, 8), value + index).save(folder / "before" / name / f"{index}.png")
    data = coterie.data.load("folder", root=folder / "before", channels=1)
    method = coterie.methods.Vanilla(network="resnet8")
    run = coterie.train(method, data, recipe=Recipe(), epochs=1, out=folder / "run", progress=False)
    (folder / "before").rename(folder / "after")
    return run, folder / "after"
