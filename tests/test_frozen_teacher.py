"""Frozen teachers, images as others want them, and means of several answers."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from coterie import UserError
from coterie.data.transforms import normalise
from coterie.methods.frozen_teacher import Adapted, Input, Teacher
from coterie.networks import build
from coterie.outputs import Batch
from coterie.peers.combine import average_logits
from coterie.peers.ensemble import Ensemble

GREY = Input(1, (8, 8), (0.3,), (0.4,))
COLOUR = Input(3, (8, 8), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def network(seed=0, channels=1):
    torch.manual_seed(seed)
    made = build("resnet8", 5, channels)
    made(torch.randn(16, channels, 8, 8))  # batch norm's averages are somewhere
    return made


class Holder(nn.Module):
    def __init__(self, teacher):
        super().__init__()
        self.student = nn.Linear(3, 2)
        self.teacher = teacher


def test_nothing_that_is_done_to_a_training_reaches_the_teacher():
    first, second = network(0), network(1)
    holder = Holder(Teacher([first, second])).train()
    assert holder.teacher.training is False
    assert not any(module.training for each in (first, second) for module in each.modules())
    assert [name for name, _ in holder.named_parameters()] == ["student.weight", "student.bias"]
    assert [name for name in holder.state_dict() if "teacher" in name] == ["teacher.fingerprint"]
    before = copy.deepcopy(first.state_dict())
    images = torch.randn(4, 1, 8, 8, requires_grad=True)
    logits = holder.teacher(images)
    assert logits.shape == (4, 2, 5)
    assert not logits.requires_grad
    assert torch.equal(logits[:, 1], second(images))
    assert all(torch.equal(before[key], value) for key, value in first.state_dict().items())
    assert not any(parameter.requires_grad for parameter in first.parameters())


def test_teachers_follow_to_another_place_and_are_copied_whole():
    teacher = Teacher([network()])
    images = torch.randn(2, 1, 8, 8)
    again = copy.deepcopy(Holder(teacher)).teacher
    assert torch.equal(again(images), teacher(images))
    Holder(again).double()
    assert again.members[0].network.conv1.weight.dtype == torch.float64
    assert teacher.members[0].network.conv1.weight.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert teacher(images).dtype == torch.float32


def test_an_ensemble_teaches_by_its_mean():
    group = Ensemble([network(0), network(1)]).eval()
    images = torch.randn(3, 1, 8, 8)
    assert torch.equal(Teacher([group])(images)[:, 0], group(images).ensemble)


def test_other_weights_have_another_fingerprint_and_are_refused():
    saved = Holder(Teacher([network(0)])).state_dict()
    same = Holder(Teacher([network(0)]))
    same.load_state_dict(saved)
    other = network(0)
    with torch.no_grad():
        other.fc.bias[0] += 1e-6
    with pytest.raises(UserError, match="other weights"):
        Holder(Teacher([other])).load_state_dict(saved)
    with pytest.raises(UserError, match="other weights"):
        Holder(Teacher([Adapted(network(0), GREY, COLOUR)])).load_state_dict(saved)


def test_remembered_answers_are_looked_up_by_index():
    teacher = Teacher([network()])
    images = torch.randn(3, 1, 8, 8)
    batch = Batch((images,), torch.zeros(3, dtype=torch.int64), torch.tensor([2, 0, 1]))
    assert torch.equal(teacher.answers(batch), teacher(images))
    table = torch.arange(15.0).view(3, 1, 5)
    teacher.remember(table)
    assert torch.equal(teacher.answers(batch), table[[2, 0, 1]])


def pixels(channels):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 8, 8, channels), dtype=np.uint8))


def test_images_are_normalised_anew():
    same = Adapted(nn.Identity(), GREY, GREY)
    images = normalise(pixels(1), GREY.mean, GREY.std)
    assert same.convert(images) is images
    other = Input(1, (8, 8), (0.5,), (0.1,))
    expected = normalise(pixels(1), other.mean, other.std)
    torch.testing.assert_close(Adapted(nn.Identity(), GREY, other).convert(images), expected, atol=1e-5, rtol=1e-5)


def test_grey_becomes_colour_and_colour_grey_as_pillow_does_it():
    grey = normalise(pixels(1), GREY.mean, GREY.std)
    expected = normalise(pixels(1).expand(-1, -1, -1, 3), COLOUR.mean, COLOUR.std)
    torch.testing.assert_close(Adapted(nn.Identity(), GREY, COLOUR).convert(grey), expected, atol=1e-5, rtol=1e-5)
    colour = normalise(pixels(3), COLOUR.mean, COLOUR.std)
    by_pillow = np.stack([np.asarray(Image.fromarray(each).convert("L")) for each in pixels(3).numpy()])
    found = Adapted(nn.Identity(), COLOUR, GREY).convert(colour)
    expected = normalise(torch.from_numpy(by_pillow).unsqueeze(3), GREY.mean, GREY.std)
    torch.testing.assert_close(found, expected, atol=1.01 / 255 / 0.4, rtol=0)  # Pillow rounds to whole values


@pytest.mark.parametrize("size", [(5, 4), (16, 12)])
def test_images_are_resized_as_pillow_does_it(size):
    wanted = Input(1, size, (0.0,), (1.0,))
    mild = pixels(1) // 3 + 80  # no overshoot, which Pillow cuts off between its two passes
    found = Adapted(nn.Identity(), GREY, wanted).convert(normalise(mild, GREY.mean, GREY.std))
    plain = [Image.fromarray(each.squeeze(2)) for each in mild.numpy()]
    by_pillow = np.stack([np.asarray(each.resize(size[::-1], Image.Resampling.BICUBIC)) for each in plain])
    torch.testing.assert_close(found[:, 0], torch.from_numpy(by_pillow / 255).float(), atol=1.5 / 255, rtol=0)


def test_resized_pixels_keep_their_range():
    wanted = Input(1, (16, 16), (0.0,), (1.0,))
    found = Adapted(nn.Identity(), GREY, wanted).convert(normalise(pixels(1), GREY.mean, GREY.std))
    assert (found.min(), found.max()) == (0, 1)


def test_means_equal_hand_computed_ones():
    logits = torch.tensor([[[0.0, 2.0], [4.0, 0.0]]], dtype=torch.float64)
    at = 2.0
    first, second = 1 / (1 + np.e), np.e**2 / (1 + np.e**2)  # class 0, of softmax(0, 1) and of softmax(2, 0)
    probabilities = (average_logits(logits, "probabilities", at) / at).softmax(1)
    assert probabilities[0, 0].item() == pytest.approx((first + second) / 2, abs=1e-15)
    assert average_logits(logits, "logits", at).tolist() == [[2.0, 1.0]]


@given(st.floats(0.05, 20), st.lists(st.floats(-1e4, 1e4), min_size=3, max_size=3))
def test_the_mean_of_the_same_is_the_same(temperature, values):
    logits = torch.tensor([values, values], dtype=torch.float64).unsqueeze(0)
    mean = (average_logits(logits, "probabilities", temperature) / temperature).softmax(1)
    assert torch.isfinite(mean).all()
    torch.testing.assert_close(mean, (logits[:, 0] / temperature).softmax(1), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_an_ensemble_says_what_its_members_say_and_their_mean(average):
    first, second = network(0).eval(), network(1).eval()
    group = Ensemble([first, second], average).eval()
    images = torch.randn(3, 1, 8, 8)
    output = group(images)
    assert torch.equal(output.logits, torch.stack([first(images), second(images)], 1))
    if average == "logits":
        torch.testing.assert_close(output.ensemble, (first(images) + second(images)) / 2)
    else:
        mean = (first(images).softmax(1) + second(images).softmax(1)) / 2
        torch.testing.assert_close(output.ensemble.softmax(1), mean)
    assert {key.split(".", 2)[2] for key in group.state_dict()} == set(first.state_dict())
    assert {key.split(".", 2)[1] for key in group.state_dict()} == {"0", "1"}
