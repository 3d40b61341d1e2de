"""Small data that every test can train on in a second."""

import pytest
import torch
from hypothesis import settings

import coterie

torch.set_num_threads(1)

# The same examples in every run; `pytest --hypothesis-profile default` looks for new ones.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def digits():
    """160 + 100 handwritten digits."""
    return coterie.data.load("digits", train_samples=160, test_samples=100)


@pytest.fixture(scope="session")
def finished(digits, tmp_path_factory):
    """A finished run of ONE."""
    method = coterie.methods.One(network="resnet8")
    out = tmp_path_factory.mktemp("runs") / "one"
    return coterie.train(method, digits, epochs=2, out=out, progress=False)


@pytest.fixture(scope="session")
def alone(digits, tmp_path_factory):
    """A finished run of the same network alone."""
    method = coterie.methods.Vanilla(network="resnet8")
    out = tmp_path_factory.mktemp("runs") / "alone"
    return coterie.train(method, digits, epochs=2, out=out, progress=False)
