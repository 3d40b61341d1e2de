"""Augmentation and normalisation: random numbers of the image alone, pixels as by the definition."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from coterie.data import Resident, load, training_batches
from coterie.data.transforms import augment, normalise, padding, random_boxes, roomy
from coterie.processor import memory_format
from coterie.seeds import random_bits

random = np.random.default_rng(0)


def slow_augment(pixels, index, key):
    """One image at a time, by the definition."""
    height, width, _ = pixels.shape
    bits = int(random_bits(key, np.array([index]))[0])
    down, right = padding(height), padding(width)
    top, left = (bits & 0xFFFFF) % (2 * down + 1), ((bits >> 20) & 0xFFFFF) % (2 * right + 1)
    padded = np.pad(pixels, ((down, down), (right, right), (0, 0)))
    crop = padded[top : top + height, left : left + width]
    return crop[:, ::-1] if (bits >> 40) & 1 else crop


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**62), st.lists(st.integers(0, 10**6), min_size=1, max_size=9), st.sampled_from([1, 3]))
def test_augmentation_is_of_the_image_not_of_the_batch(key, indices, channels):
    indices = np.array(indices)
    pixels = torch.from_numpy(random.integers(0, 256, (len(indices), 9, 12, channels), np.uint8))
    got = augment(pixels, indices, key, "crop-flip").numpy()
    for place, index in enumerate(indices):
        assert np.array_equal(got[place], slow_augment(pixels[place].numpy(), index, key))


def test_crops_and_flips_are_uniform():
    bits = random_bits(5, np.arange(90_000))
    tops = np.bincount(((bits & np.uint64(0xFFFFF)) % np.uint64(9)).astype(int), minlength=9)
    assert abs(tops / 10_000 - 1).max() < 0.05
    assert abs(((bits >> np.uint64(40)) & np.uint64(1)).mean() - 0.5) < 0.01
    assert (random_bits(5, np.arange(9)) != random_bits(6, np.arange(9))).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_normalised_batches_are_laid_out_for_the_processor(channels):
    pixels = torch.from_numpy(random.integers(0, 256, (4, 8, 8, channels), np.uint8))
    mean, std = (0.5, 0.4, 0.3)[:channels], (0.2, 0.3, 0.4)[:channels]
    images = normalise(pixels, mean, std)
    expected = (pixels.permute(0, 3, 1, 2) / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(images, expected, atol=1e-5, rtol=1e-5)
    assert images.is_contiguous(memory_format=memory_format())


# Random resized crops ------------------------------------------------------------------------------------------------


def test_random_boxes_have_the_published_shape():
    boxes = random_boxes(np.arange(20_000), 3, (96, 96))
    top, left, height, width = boxes.T
    assert (boxes[:, :2] >= 0).all()
    assert (top + height <= 96).all()
    assert (left + width <= 96).all()
    # Uniform and log-uniform, but for what ten tries could not fit: large areas are a little rarer.
    area, aspect = height * width / 96**2, width / height
    assert 0.07 < area.min() < 0.09
    assert area.max() > 0.99
    assert abs(area.mean() - 0.5) < 0.03
    assert 0.72 < aspect.min() < 0.78
    assert 1.28 < aspect.max() < 1.38
    assert abs(np.log(aspect).mean()) < 0.01
    room = height < 80
    assert abs((top[room] / (96 - height[room])).mean() - 0.5) < 0.01


def test_an_image_too_narrow_for_any_try_gives_its_middle():
    assert random_boxes(np.arange(3), 3, (10, 300)).tolist() == [[0, 143, 10, 13]] * 3
    assert random_boxes(np.arange(3), 3, (300, 10)).tolist() == [[143, 0, 13, 10]] * 3


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**62), st.lists(st.integers(0, 10**6), min_size=1, max_size=6), st.sampled_from([1, 3]))
def test_a_random_crop_is_torchs_own_resize_of_the_box(key, indices, channels):
    indices = np.array(indices)
    pixels = torch.from_numpy(random.integers(0, 256, (len(indices), 16, 18, channels), np.uint8))
    got = augment(pixels, indices, key, "random-resized-crop", (14, 12))
    assert got.dtype == torch.uint8
    assert got.shape == (len(indices), 14, 12, channels)
    for place, (top, left, height, width) in enumerate(random_boxes(indices, key, (16, 18)).tolist()):
        part = pixels[place, top : top + height, left : left + width].permute(2, 0, 1).unsqueeze(0).float()
        expected = functional.interpolate(part, (14, 12), mode="bilinear", antialias=True)[0].permute(1, 2, 0)
        mirrored = expected.flip(1)
        differences = [float((got[place] - each).abs().max()) for each in (expected, mirrored)]
        assert min(differences) < 1.5  # rounded after each of two passes


def test_half_of_the_random_crops_are_mirrored():
    ramp = torch.arange(32, dtype=torch.uint8).mul(8).view(1, 1, 32, 1).expand(400, 32, 32, 1).contiguous()
    rows = augment(ramp, np.arange(400), 7, "random-resized-crop")[:, 16, :, 0].int()
    rising = (rows.diff(dim=1) >= 0).all(1)
    assert ((rows.diff(dim=1) <= 0).all(1) ^ rising).all()
    assert 0.42 < rising.float().mean() < 0.58


def test_random_crops_do_not_depend_on_the_batch():
    data = load("digits", train_samples=60, augment="random-resized-crop", image_size=12)
    assert isinstance(data.train, Resident)
    assert data.train.data.shape == (60, 8, 8, 1)  # cropped as it came, resized once
    assert data.test.data.shape[1:3] == (12, 12)
    found = []
    for size in (20, 30):
        batches = list(training_batches(data, batch_size=size, seed=1, stage=0, epoch=2, views=2))
        assert batches[0].images.shape == (size, 1, 12, 12)
        assert batches[0].images.is_contiguous(memory_format=memory_format())
        assert not torch.equal(batches[0].views[0], batches[0].views[1])
        found.append(torch.cat([batch.views[1] for batch in batches]))
    assert torch.equal(*found)
    other = next(training_batches(data, batch_size=60, seed=1, stage=0, epoch=3, views=2))
    assert not torch.equal(other.views[1].sum((1, 2, 3)).sort()[0], found[0].sum((1, 2, 3)).sort()[0])


def test_there_is_room_to_crop():
    assert (roomy((224, 224)), roomy((32, 64))) == ((256, 256), (37, 74))
