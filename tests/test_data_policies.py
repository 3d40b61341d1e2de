"""Policies, jitter and erasing: torchvision's operations, an image's own random numbers, none where none is asked."""

import time

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as reference

from coterie import UserError
from coterie.data import ImageData, Resident, Streaming, load, training_batches
from coterie.data.operations import Operation, operate
from coterie.data.policies import (
    Factors,
    Variation,
    draw_factors,
    draw_operations,
    erase,
    erased_boxes,
    jitter,
    vary,
)
from coterie.data.transforms import augment
from coterie.recipes import Recipe

EPOCH = {"seed": 1, "stage": 0, "epoch": 2}
STRONG = Variation("rand-augment", 1.0, 0.4, 0.5)


def pictures(count=6, height=20, width=18, channels=3, seed=0):
    """Smooth ones, whose levels do not fill the range."""
    random = np.random.default_rng(seed)
    coarse = torch.from_numpy(random.uniform(20, 230, (count, channels, 4, 4)).astype(np.float32))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 255)
    return smooth.byte().permute(0, 2, 3, 1).contiguous()


def theirs(images, operation, amount):
    """torchvision's operation, on (B, channels, H, W)."""
    tangent = float(np.rad2deg(np.arctan(amount)))
    affine = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    match operation:
        case Operation.IDENTITY:
            return images
        case Operation.SHEAR_X:
            return reference.affine(images, **{**affine, "shear": [tangent, 0.0]}, center=[0, 0])
        case Operation.SHEAR_Y:
            return reference.affine(images, **{**affine, "shear": [0.0, tangent]}, center=[0, 0])
        case Operation.TRANSLATE_X:
            return reference.affine(images, **{**affine, "translate": [int(amount), 0]})
        case Operation.TRANSLATE_Y:
            return reference.affine(images, **{**affine, "translate": [0, int(amount)]})
        case Operation.ROTATE:
            return reference.rotate(images, amount)
        case Operation.BRIGHTNESS:
            return reference.adjust_brightness(images, 1 + amount)
        case Operation.SATURATION:
            return reference.adjust_saturation(images, 1 + amount)
        case Operation.CONTRAST:
            return reference.adjust_contrast(images, 1 + amount)
        case Operation.SHARPNESS:
            return reference.adjust_sharpness(images, 1 + amount)
        case Operation.POSTERIZE:
            return reference.posterize(images, 8 - int(amount))
        case Operation.SOLARIZE:
            return reference.solarize(images, 256 - amount)
        case Operation.AUTOCONTRAST:
            return reference.autocontrast(images)
        case Operation.EQUALIZE:
            return reference.equalize(images)


AMOUNTS = {
    Operation.IDENTITY: (0.0,),
    **{of: (-0.99, -0.33, 0.09, 0.528, 0.99) for of in (Operation.SHEAR_X, Operation.SHEAR_Y)},
    **{of: (-32, -3, 2, 11, 40) for of in (Operation.TRANSLATE_X, Operation.TRANSLATE_Y)},
    Operation.ROTATE: (-135.0, -90.0, -31.5, 4.5, 90.0, 117.0),
    **{
        of: (-0.99, -0.4, 0.231, 0.99)
        for of in (Operation.BRIGHTNESS, Operation.SATURATION, Operation.CONTRAST, Operation.SHARPNESS)
    },
    Operation.POSTERIZE: (1, 3, 6),
    Operation.SOLARIZE: (60.5, 100.0, 256.0),
    Operation.AUTOCONTRAST: (1.0,),
    Operation.EQUALIZE: (1.0,),
}
# Blends: torchvision rounds products and sums in another order, and levels are rounded down.
ROUNDED = (Operation.SATURATION, Operation.CONTRAST, Operation.SHARPNESS)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("operation", list(Operation), ids=lambda operation: operation.name.lower())
def test_each_operation_is_torchvisions(operation, channels):
    images = pictures(channels=channels)
    for amount in AMOUNTS[operation]:
        mine = operate(images, np.full(len(images), operation), np.full(len(images), amount))
        expected = theirs(images.permute(0, 3, 1, 2), operation, amount).permute(0, 2, 3, 1)
        differing = (mine.int() - expected.int()).abs()
        if operation in (Operation.SHEAR_X, Operation.SHEAR_Y, Operation.ROTATE):
            # A place halfway between two pixels may be rounded to either: theirs is computed in float32.
            assert (differing > 0).float().mean() < 0.01, amount
        else:
            assert differing.max() <= (1 if operation in ROUNDED else 0), amount
        unchanged = operation is Operation.IDENTITY or (operation is Operation.SATURATION and channels == 1)
        assert torch.equal(mine, images) == unchanged, amount


def test_flat_and_tiny_images_have_operations_too():
    flat = torch.full((len(Operation), 2, 2, 3), 7, dtype=torch.uint8)
    changed = operate(flat, np.arange(len(Operation)), np.ones(len(Operation)))
    for kind in (Operation.AUTOCONTRAST, Operation.EQUALIZE, Operation.SHARPNESS):
        assert torch.equal(changed[kind], flat[kind])


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_is_torchvisions_on_floats_rounded_once(channels):
    images = pictures(40, channels=channels)
    images[0] = 90  # no hue
    factors = draw_factors(np.arange(40), 5, 0.8)
    mine = jitter(images, factors)
    for place in range(40):
        image = images[place].permute(2, 0, 1) / 255
        brightness, contrast, saturation, hue = (float(of[place]) for of in factors)
        image = reference.adjust_contrast(reference.adjust_brightness(image, brightness), contrast)
        image = reference.adjust_hue(reference.adjust_saturation(image, saturation), hue)
        # The mean grey is of levels rounded down, which are half a level lower in the mean.
        assert (mine[place] - (image * 255).permute(1, 2, 0)).abs().max() < 2


def test_factors_are_uniform_and_independent():
    factors = np.stack(draw_factors(np.arange(20_000), 9, 0.4)) - np.array([1, 1, 1, 0])[:, None]
    spread = np.array([0.4, 0.4, 0.4, 0.1])
    assert np.allclose(np.abs(factors).max(1), spread, rtol=0.01)
    assert np.abs(factors.mean(1) / spread).max() < 0.02
    assert np.abs(np.corrcoef(factors) - np.eye(4)).max() < 0.03


def test_a_hue_is_turned():
    red = torch.tensor([200, 20, 20], dtype=torch.uint8).expand(1, 4, 4, 3).contiguous()
    ones = np.ones(1, np.float32)
    assert jitter(red, Factors(ones, ones, ones, ones / 3))[0, 0, 0].tolist() == [20, 200, 20]


# What is drawn -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["trivial-augment", "rand-augment"])
def test_every_operation_is_drawn_alike_within_the_published_range(policy):
    rows = np.arange(60_000)
    operations, amounts = draw_operations(rows, 3, Variation(policy), (40, 64))
    assert abs(np.bincount(operations) / len(rows) * 14 - 1).max() < 0.05
    wide = policy == "trivial-augment"
    largest = {
        **{of: 0.99 if wide else 0.09 for of in (Operation.SHEAR_X, Operation.SHEAR_Y)},
        Operation.TRANSLATE_X: 32 if wide else 8,  # 150 / 331 of the side, at 9 of 30
        Operation.TRANSLATE_Y: 32 if wide else 5,
        Operation.ROTATE: 135 if wide else 9,
        **{
            of: 0.99 if wide else 0.27
            for of in (Operation.BRIGHTNESS, Operation.SATURATION, Operation.CONTRAST, Operation.SHARPNESS)
        },
        Operation.POSTERIZE: 6 if wide else 1,
        Operation.SOLARIZE: 256 if wide else 76.8,
    }
    for operation, most in largest.items():
        drawn = amounts[operations == operation]
        assert drawn.max() == pytest.approx(most), operation
        if operation not in (Operation.POSTERIZE, Operation.SOLARIZE):
            assert drawn.min() == pytest.approx(-most), operation
            assert abs(np.sign(drawn).mean()) < 0.05
        assert len(np.unique(np.abs(drawn))) == (1 if not wide else 7 if operation == Operation.POSTERIZE else 31) or (
            operation in (Operation.TRANSLATE_X, Operation.TRANSLATE_Y)
        )
    second = draw_operations(rows, 3, Variation(policy), (40, 64), 1)[0]
    assert abs((operations == second).mean() * 14 - 1) < 0.1


def test_a_small_image_does_not_move_by_more_than_its_side():
    operations, amounts = draw_operations(np.arange(5000), 3, Variation("trivial-augment"), (16, 24))
    assert amounts[operations == Operation.TRANSLATE_X].max() == 24
    assert amounts[operations == Operation.TRANSLATE_Y].max() == 16


@pytest.mark.parametrize("policy", ["trivial-augment", "rand-augment"])
@pytest.mark.parametrize("channels", [1, 3])
def test_strength_goes_from_nothing_to_the_published_range(policy, channels):
    images, rows = pictures(60, channels=channels), np.arange(60)
    images[0] = 255
    assert torch.equal(vary(images, rows, 4, Variation(policy, 0.0)), images)
    changes = [
        (vary(images, rows, 4, Variation(policy, strength)).int() - images.int()).abs().float().mean()
        for strength in (0.1, 0.4, 1.0)
    ]
    assert 0 < changes[0] < changes[1] < changes[2]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("policy", ["trivial-augment", "rand-augment"])
def test_a_result_is_the_images_own(policy, channels):
    images, rows = pictures(37, channels=channels), np.arange(37) * 11
    variation = Variation(policy, 1.0, 0.5)
    whole = vary(images, rows, 4, variation)
    assert whole.dtype == torch.uint8
    assert whole.shape == images.shape
    order = np.random.default_rng(0).permutation(37)
    assert torch.equal(vary(images[order], rows[order], 4, variation), whole[order])
    for place in range(37):
        assert torch.equal(vary(images[place : place + 1], rows[place : place + 1], 4, variation)[0], whole[place])
    assert not torch.equal(vary(images, rows, 5, variation), whole)
    assert torch.equal(images, pictures(37, channels=channels))


# Erasing -------------------------------------------------------------------------------------------------------------


def test_a_share_of_the_images_loses_a_box():
    rows = np.arange(2000)
    erased = erase(torch.ones(2000, 3, 32, 24), rows, 8, 0.25)
    touched = (erased == 0).any(1).flatten(1).any(1)
    assert 0.22 < touched.float().mean() < 0.28
    assert torch.equal((erased == 0).any(1), (erased == 0).all(1))  # in all channels
    boxes = erased_boxes(rows, 8, (32, 24))
    chosen = np.flatnonzero(touched)
    for place, (top, left, height, width) in zip(chosen, boxes[chosen], strict=True):
        assert (erased[place, :, top : top + height, left : left + width] == 0).all()
        assert (erased[place] == 0).sum() == 3 * height * width
    assert torch.equal(erase(torch.ones(3, 1, 8, 8), rows[:3], 8, 0.0), torch.ones(3, 1, 8, 8))


def test_erased_boxes_have_the_published_shape():
    boxes = erased_boxes(np.arange(20_000), 3, (100, 100))
    top, left, height, width = boxes.T
    assert (top + height <= 100).all()
    assert (left + width <= 100).all()
    area, aspect = height * width / 1e4, height / width
    assert 0.018 < area.min() < 0.022
    assert 0.32 < area.max() < 0.34
    assert abs(area.mean() - 0.175) < 0.004
    assert 0.28 < aspect.min() < 0.32
    assert 3.2 < aspect.max() < 3.6
    assert abs(np.log(aspect).mean()) < 0.01
    assert abs((left / (100 - width)).mean() - 0.5) < 0.01


# Batches -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["crop-flip", "crop", "random-resized-crop"])
def test_batches_are_varied_whatever_their_size(how):
    data = load("digits", train_samples=60, augment=how, image_size=12)
    found = []
    for size in (20, 30):
        batches = list(training_batches(data, batch_size=size, views=2, variation=STRONG, **EPOCH))
        assert batches[0].images.shape == (size, 1, 12, 12)
        found.append(torch.cat([batch.views[1] for batch in batches]))
    assert torch.equal(*found)
    plain = torch.cat([batch.views[1] for batch in training_batches(data, batch_size=30, views=2, **EPOCH)])
    assert (plain != found[0]).flatten(1).any(1).float().mean() > 0.9
    assert (found[0] == 0).flatten(1).any(1).float().mean() > 0.3  # erased after normalisation


def test_each_part_changes_the_batches():
    data = load("digits", train_samples=60)
    plain = next(training_batches(data, batch_size=60, **EPOCH)).images
    for variation in (
        Variation("trivial-augment"),
        Variation("rand-augment"),
        Variation(jitter=0.5),
        Variation(erasing=1.0),
    ):
        varied = next(training_batches(data, batch_size=60, variation=variation, **EPOCH)).images
        assert (varied != plain).flatten(1).any(1).float().mean() > 0.5, variation


def test_none_switches_everything_off():
    data = load("digits", train_samples=60, augment="none")
    first = next(training_batches(data, batch_size=60, **EPOCH))
    varied = next(training_batches(data, batch_size=60, variation=STRONG, **EPOCH))
    assert torch.equal(first.images, varied.images)


def brightest(path):
    return np.random.default_rng(int(path.name)).integers(0, 256, (14, 13, 3), np.uint8)


def test_processes_that_decode_vary_the_same():
    streams = [Streaming([str(n) for n in range(10)], np.zeros(10, np.int64), brightest, workers) for workers in (0, 1)]
    found = []
    for train in streams:
        data = ImageData(
            "own", ("a", "b"), (12, 12), 3, (0.5,) * 3, (0.2,) * 3, train, train, None, "random-resized-crop", {}
        )
        batches = training_batches(data, batch_size=4, views=2, variation=STRONG, **EPOCH)
        found.append([view for batch in batches for view in batch.views])
    for mine, of_workers in zip(*found, strict=True):
        assert torch.equal(mine, of_workers)


# Mirrors -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["crop-flip", "crop", "random-resized-crop"])
def test_flip_says_whether_images_are_mirrored(how):
    ramp = torch.arange(32, dtype=torch.uint8).mul(7).add(9).view(1, 1, 32, 1).expand(200, 32, 32, 1).contiguous()

    def mirrored(flip):
        middle = augment(ramp, np.arange(200), 7, how, None, flip)[:, 16, 8:24, 0].int()
        return (middle[:, 0] > middle[:, -1]).float().mean()

    assert mirrored(False) == 0
    assert 0.4 < mirrored(True) < 0.6
    assert (mirrored(None) == 0) == (how == "crop")
    same = augment(ramp, np.arange(200), 7, how, None, False) == augment(ramp, np.arange(200), 7, how, None, True)
    assert 0.4 < same.flatten(1).all(1).float().mean() < 0.6  # the crops stay


def test_flip_is_an_option_of_all_data():
    given = {"train_samples": 60, "augment": "crop-flip"}
    data = load("digits", flip=False, **given)
    assert data.options["flip"] is False
    assert isinstance(data.train, Resident)
    unmirrored, mirrored = (
        next(training_batches(of, batch_size=60, **EPOCH)).images for of in (data, load("digits", **given))
    )
    assert 0.3 < (unmirrored == mirrored).flatten(1).all(1).float().mean() < 0.7
    with pytest.raises(UserError, match="flip.*augment='none'"):
        load("digits", flip=True, augment="none")


# Recipes -------------------------------------------------------------------------------------------------------------


def test_a_recipe_says_how_images_are_varied():
    assert Recipe().variation == Variation()
    recipe = Recipe(policy="trivial-augment", policy_strength=0.5, jitter=0.1, erasing=0.2)
    assert recipe.variation == Variation("trivial-augment", 0.5, 0.1, 0.2)


def test_a_batch_takes_milliseconds():
    """128 colour images of 32x32: 8 ms on one thread of a server's processor; the bound leaves room for a busy one."""
    images, rows = pictures(128, 32, 32), np.arange(128)
    normalised = torch.ones(128, 3, 32, 32)
    seconds = []
    for key in range(12):
        started = time.perf_counter()
        vary(images, rows, key, Variation("trivial-augment", 1.0, 0.4))
        erase(normalised, rows, key, 0.25)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.05
