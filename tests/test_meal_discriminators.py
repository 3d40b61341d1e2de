"""Alignment, discriminators and their losses against plain arithmetic."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from coterie import UserError
from coterie.methods.frozen_teacher import Teacher
from coterie.methods.meal.discriminators import (
    Discriminator,
    StudentTeacherPair,
    VectorReader,
    align,
    deception_loss,
    discriminator_loss,
    make_bin_shares,
    pool_to_bins,
    scale_gradient,
)
from coterie.networks import build
from coterie.outputs import Batch


def bins(values, length, reduce):
    """Adaptive pooling of a row, as it is defined: bin i is [floor(i n / d), ceil((i + 1) n / d))."""
    count = len(values)
    edges = [(i * count // length, -(-(i + 1) * count // length)) for i in range(length)]
    return np.array([reduce(values[start:stop]) for start, stop in edges])


@pytest.mark.parametrize("length", [3, 6, 12, 20])
@pytest.mark.parametrize(("pooling", "reduce"), [("avg", np.mean), ("max", np.max)])
def test_alignment_pools_places_to_bins_and_then_over_channels(length, pooling, reduce):
    features = np.random.default_rng(0).normal(size=(2, 5, 3, 4))
    expected = [
        reduce(np.stack([bins(channel.reshape(-1), length, reduce) for channel in image]), axis=0) for image in features
    ]
    found = align(torch.tensor(features), length, pooling)
    np.testing.assert_allclose(found.numpy(), np.stack(expected), atol=1e-12)


def test_vectors_are_aligned_along_themselves_and_half_precision_is_widened():
    vectors = torch.tensor([[1.0, 3.0, 5.0, 7.0]], dtype=torch.bfloat16)
    found = align(vectors, 2)
    assert found.dtype == torch.float32
    assert found.tolist() == [[2.0, 6.0]]


@pytest.mark.parametrize(
    ("length", "divisor", "parameters"),
    [
        *((10000, 2, 62_512_502), (5000, 2, 15_631_252), (1000, 2, 626_252), (500, 2, 156_877), (10, 2, 73)),
        (1000, 8, 127_047),  # MEAL V2's released code
    ],
)
def test_discriminators_have_the_published_sizes(length, divisor, parameters):
    with torch.device("meta"):
        discriminator = Discriminator(length, divisor=divisor)
    assert sum(each.numel() for each in discriminator.parameters()) == parameters


@pytest.mark.parametrize("final_relu", [False, True])
def test_a_discriminator_and_its_losses_by_hand(final_relu):
    torch.manual_seed(0)
    discriminator = Discriminator(8, final_relu).double()
    student, teacher = torch.randn(3, 8).double(), torch.randn(3, 8).double()

    def said(vectors):
        for index, layer in enumerate(each for each in discriminator.layers if isinstance(each, nn.Linear)):
            vectors = vectors @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
            if index < 2 or final_relu:
                vectors = np.maximum(vectors, 0)
        return vectors

    def wrong(logits, target):
        p = 1 / (1 + np.exp(-logits))
        return -(target * np.log(p) + (1 - target) * np.log(1 - p))

    own, other = said(student.numpy()), said(teacher.numpy())
    expected = (wrong(own, np.array([1, 0])).sum() + wrong(other, np.array([0, 1])).sum()) / 12
    assert discriminator_loss(discriminator, student, teacher).item() == pytest.approx(expected, rel=1e-12)
    expected = -np.log(1 / (1 + np.exp(-own[:, 1]))).mean()
    assert deception_loss(discriminator, student).item() == pytest.approx(expected, rel=1e-12)


class Said(nn.Module):
    """A discriminator that says what it is told to."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, vectors):
        return self.logits


def test_a_final_relu_floors_the_loss_at_half_of_ln_2():
    sure = torch.tensor([[1e3, -1e3]] * 2 + [[-1e3, 1e3]] * 2).double()
    blank = torch.zeros(2, 10)
    assert discriminator_loss(Said(sure), blank, blank).item() == 0
    assert discriminator_loss(Said(sure.relu()), blank, blank).item() == pytest.approx(0.5 * math.log(2), rel=1e-12)
    assert discriminator_loss(Said(0 * sure), blank, blank).item() == pytest.approx(math.log(2), rel=1e-12)


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes_leave_no_layer_empty(classes):
    said = Discriminator(classes)(torch.randn(4, classes))
    assert said.shape == (4, 2)
    assert said.std() > 0


def test_a_scaled_gradient_changes_no_value():
    tensor = torch.tensor([1.0, -2.0], requires_grad=True)
    out = scale_gradient(tensor, -0.5)
    assert torch.equal(out, tensor)
    (out * torch.tensor([3.0, 4.0])).sum().backward()
    assert tensor.grad.tolist() == [-1.5, -2.0]


def pair(draws=False, paths=(), **kinds):
    torch.manual_seed(0)
    student, teachers = build("resnet8", 10, 1), [build(name, 10, 1) for name in ("resnet14", "resnet20")]
    teacher = Teacher(teachers)
    lengths = (16, 4)[: len(paths)]
    answers = [VectorReader(each.network, paths, lengths) for each in teacher.members] if paths else None
    return StudentTeacherPair(VectorReader(student, paths, lengths), teacher, answers, draws), student, teachers


def batch():
    return Batch((torch.randn(6, 1, 8, 8),), torch.arange(6), torch.arange(6))


def test_blocks_of_unlike_networks_give_vectors_of_one_length_and_the_logits_come_last():
    both, _, teachers = pair(paths=("layer1", "layer3"))
    given = batch()
    said, taught = both.student_vectors(given), both.teacher_vectors(given)
    assert [tuple(each.shape) for each in said] == [(6, 16), (6, 4), (6, 10)]
    assert [tuple(each.shape) for each in taught] == [(6, 2, 16), (6, 2, 4), (6, 2, 10)]
    assert not any(each.requires_grad for each in taught)
    features = {}
    for name in ("layer1", "layer3"):
        teachers[1].get_submodule(name).register_forward_hook(lambda m, i, out, name=name: features.update({name: out}))
    with torch.no_grad():
        logits = teachers[1](given.images)
    assert torch.equal(taught[0][:, 1], align(features["layer1"], 16))
    assert torch.equal(taught[1][:, 1], align(features["layer3"], 4))
    assert torch.equal(taught[2][:, 1], logits)


@pytest.mark.parametrize("paths", [(), ("layer3",)])
def test_one_teacher_is_drawn_by_the_generator_and_all_are_in_the_end(paths):
    both, _, _ = pair(draws=True, paths=paths)
    given = batch()
    both.draws = False
    everything = both.teacher_vectors(given)
    both.draws = True
    drawn = []
    for seed in range(20):
        torch.manual_seed(seed)
        said = both.teacher_vectors(given)
        torch.manual_seed(seed)
        assert all(torch.equal(a, b) for a, b in zip(said, both.teacher_vectors(given), strict=True))
        assert all(each.shape[1] == 1 for each in said)
        (which,) = [t for t in (0, 1) if torch.allclose(said[-1][:, 0], everything[-1][:, t], atol=1e-6)]
        drawn.append(which)
    assert 4 < sum(drawn) < 16


def test_remembered_answers_are_looked_up_by_image_and_teacher():
    both, _, _ = pair()
    both.teacher.remember(torch.arange(10 * 2 * 10.0).view(10, 2, 10))
    given = Batch((torch.zeros(2, 1, 8, 8),), torch.zeros(2), torch.tensor([7, 3]))
    assert torch.equal(both.teacher_vectors(given)[0][:, 1, 0], torch.tensor([150.0, 70.0]))
    assert both.teacher.answers(given, 1)[:, :, 0].tolist() == [[150.0], [70.0]]


def test_a_site_that_is_not_there_is_told_with_its_option():
    with pytest.raises(UserError, match=r"--method.blocks 'layer9'; did you mean 'layer"):
        VectorReader(build("resnet8", 10, 1), ("layer9",), (4,), option="--method.blocks")


@pytest.mark.parametrize(("places", "length"), [(64, 16), (49, 10), (5, 12), (7, 7), (1, 3)])
def test_bins_are_adaptive_average_pooling_as_a_matrix(places, length):
    values = torch.randn(3, places, dtype=torch.float64)
    expected = torch.nn.functional.adaptive_avg_pool1d(values, length)
    torch.testing.assert_close(values @ make_bin_shares(places, length).double(), expected)
    assert torch.equal(pool_to_bins(values, length), expected)
