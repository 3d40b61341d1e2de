"""What is printed of outputs and losses, and what is said of a slip with them."""

import copy
import pickle

import pytest
import torch
from torch import nn

from coterie import LossTerms, UserError, branch
from coterie.losses import one
from coterie.networks import build
from coterie.outputs import StepResult

IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3])


def test_an_output_prints_its_shapes():
    net = branch(build("resnet8", 6), 2, example=IMAGES, maps=True)
    assert repr(net(IMAGES)) == (
        "PeerOutput(logits=(4, 2, 6), features=((4, 64), (4, 64)), maps=((4, 64, 4, 4), (4, 64, 4, 4)), "
        "trunk=(4, 32, 8, 8), weights=(4, 2), ensemble=(4, 6))"
    )
    assert len(repr(StepResult(one(net(IMAGES), LABELS), net(IMAGES)))) < 400


def test_a_loss_prints_its_terms():
    terms = LossTerms(
        {"cross_entropy": torch.tensor(2.34567, requires_grad=True), "kl": torch.zeros((), device="meta")}
    )
    assert repr(terms) == "LossTerms(cross_entropy=2.346, kl=())"
    for twin in (copy.deepcopy(LossTerms({"a": torch.ones(())})), pickle.loads(pickle.dumps(LossTerms({"a": 1})))):
        assert twin["a"] == 1


def test_the_loss_to_differentiate_is_named():
    net = branch(build("resnet8", 6), 2, example=IMAGES)
    loss = one(net(IMAGES), LABELS)
    for slip in ("backward", "item", "detach"):
        with pytest.raises(AttributeError, match=f"has no '{slip}'; the loss itself is .total"):
            getattr(loss, slip)
    loss.total.backward()


class NormedVectors(nn.Module):
    """Its own head has the batch norm."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.head = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 6))

    def forward(self, x):
        return self.head(self.stem(x).mean((2, 3)))


@pytest.mark.parametrize(("make", "gate"), [(lambda: build("resnet8", 6), "relu-softmax"), (NormedVectors, "uniform")])
def test_a_batch_of_one_is_one_line_in_training_mode(make, gate):
    net = branch(make(), 2, at=None if gate != "uniform" else "head", example=IMAGES, gate=gate)
    with pytest.raises(UserError, match="batch norm needs two images or more in training mode; .*drop_last=True"):
        net(IMAGES[:1])
    assert net.eval()(IMAGES[:1]).logits.shape == (1, 2, 6)
    assert branch(build("resnet8", 6), 2, example=IMAGES, gate="uniform")(IMAGES[:1]).logits.shape == (1, 2, 6)


def test_another_error_of_a_batch_of_one_stays_its_own():
    net = branch(build("resnet8", 6), 2, example=IMAGES)
    with pytest.raises(RuntimeError, match="channels"):
        net(torch.zeros(1, 5, 16, 16))
