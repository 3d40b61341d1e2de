"""Where batches are made: that everything of a batch would be on a CUDA device, asked without one."""

from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import coterie
from coterie.data import training_batches, transforms
from coterie.recipes import Recipe
from coterie.training.stages.feeding import near

CUDA = torch.device("cuda", 0)
STRONG = Recipe(cutmix=1.0, mixup=0.2, label_smoothing=0.1, policy="trivial-augment", jitter=0.4, erasing=0.5)


@pytest.fixture
def large(monkeypatch):
    """As if a card with 100 MB of free memory were there."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100_000_000, 100_000_000))


@pytest.fixture(autouse=True)
def forgetful():
    """No fake tensor stays behind for other tests."""
    yield
    transforms._affine.cache_clear()


def batches(data, **options):
    options = {"batch_size": 64, "seed": 0, "stage": 0, "epoch": 0, "views": 2} | options
    return training_batches(data, mixing=STRONG.mixing, variation=STRONG.variation, **options)


@pytest.mark.parametrize("policy", ["trivial-augment", "rand-augment"])
@pytest.mark.parametrize(("augment", "channels"), [("crop", 1), ("crop-flip", 3), ("none", 3)])
def test_every_step_of_a_batch_is_on_the_device(augment, channels, policy, large):
    # Fake tensors compute nothing, and refuse what mixes devices: a step that left the device, or came back from it to
    # look at a value, raises.
    data = coterie.data.load("digits", train_samples=160, augment=augment, channels=channels)
    with FakeTensorMode() as mode:
        fake = replace(data, train=replace(data.train, data=mode.from_tensor(data.train.data)))
        there = near(fake, CUDA)
        assert there.train.data.device == CUDA
        variation = replace(STRONG.variation, policy=policy)
        for batch in training_batches(
            there, batch_size=64, seed=0, stage=0, epoch=0, mixing=STRONG.mixing, variation=variation, device=CUDA
        ):
            assert {tensor.device for tensor in (*batch.views, batch.labels, batch.indices)} == {CUDA}


def test_images_that_stay_on_the_processor_are_normalised_on_the_device():
    data = coterie.data.load("digits", train_samples=160, augment="random-resized-crop")
    assert near(data, CUDA) is data
    with FakeTensorMode(allow_non_fake_inputs=True):
        for batch in batches(data, device=CUDA):
            assert {tensor.device for tensor in (*batch.views, batch.labels, batch.indices)} == {CUDA}


def test_images_are_kept_near_where_that_pays_and_they_fit(monkeypatch, large):
    data = coterie.data.load("digits", train_samples=160, augment="crop")
    assert near(data, torch.device("cpu")) is data
    assert near(data, torch.device("mps")) is data
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * data.train.data.nbytes - 1, 1 << 30))
    assert near(data, CUDA) is data
