"""What a training costs, counted while it runs."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import coterie
from coterie.evaluation.costs import flop_counter
from coterie.methods import Kd, Vanilla
from coterie.networks import Backbone
from coterie.training import Interrupted
from resuming import go, stopping


def of_a_step(images):
    network = Backbone("resnet8").build_fresh(10, 1, (8, 8))
    with FlopCounterMode(display=False) as counter:
        torch.nn.functional.cross_entropy(network(torch.zeros(images, 1, 8, 8)), torch.zeros(images).long()).backward()
    return counter.get_total_flops()


def test_alone_costs_its_forwards_and_backwards(digits, tmp_path):
    run = coterie.train(Vanilla(network="resnet8"), digits, epochs=3, batch_size=64, out=tmp_path, progress=False)
    assert run.card["training_flops"] == pytest.approx(3 * 160 / 64 * of_a_step(64))
    assert [row["training_flops"] for row in run.metrics] == pytest.approx([160 / 64 * of_a_step(64)] * 3)


def test_a_teacher_is_paid_for_its_training_and_for_every_answer(digits, tmp_path):
    method = Kd(network="resnet8", epochs={"teacher": 2})
    run = coterie.train(method, digits, epochs=1, batch_size=160, out=tmp_path, progress=False)
    asked = 160 * run.card["cost"]["target"]["flops"]
    assert run.card["training_flops"] == pytest.approx(3 * of_a_step(160) + asked)


def test_a_resumed_run_costs_as_much_as_one_that_was_not_stopped(digits, tmp_path):
    whole = go(Vanilla(network="resnet8"), digits, tmp_path / "whole")
    with pytest.raises(Interrupted):
        go(stopping(Vanilla(network="resnet8"), "train", 1), digits, tmp_path / "cut")
    resumed = go(Vanilla(network="resnet8"), digits, tmp_path / "cut", resume=True)
    assert resumed.card["training_flops"] == whole.card["training_flops"]


@pytest.mark.parametrize(
    "layer",
    [
        torch.nn.Conv2d(8, 16, 3, stride=2, padding=1),
        torch.nn.Conv2d(8, 8, 3, groups=8),
        torch.nn.Conv2d(8, 16, 3, groups=2, dilation=2, bias=False),
        torch.nn.ConvTranspose2d(8, 16, 3, stride=2),
        torch.nn.ConvTranspose2d(8, 8, 3, groups=4),
    ],
    ids=["plain", "depthwise", "grouped", "transposed", "transposed-grouped"],
)
def test_a_backward_of_any_convolution_costs_two_forwards(layer):
    images = torch.zeros(3, 8, 9, 9, requires_grad=True)
    with flop_counter() as forward:
        layer(images)
    with flop_counter() as both:
        layer(images).sum().backward()
    assert both.get_total_flops() == 3 * forward.get_total_flops() > 0
    with flop_counter() as first:  # of a first layer nobody asks for the images' gradient
        layer(images.detach()).sum().backward()
    assert first.get_total_flops() == 2 * forward.get_total_flops()
