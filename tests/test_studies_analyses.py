"""Analyses of trained networks: hand-made networks whose figures are known."""

from dataclasses import dataclass, field, replace
from math import exp, log, log1p

import numpy as np
import pytest
import torch
from torch import nn

import coterie
from coterie.data import ImageData, Resident
from coterie.outputs import PeerOutput
from coterie.studies.analyses import DISTANCES, MEASURES, collect_curves, error_correlation, perturb


def split(pixels, labels, clean=None):
    data = torch.tensor(pixels, dtype=torch.uint8).view(-1, 1, 1, 1)
    return Resident(data, np.array(labels), clean=clean if clean is None else np.array(clean))


def images(train, test):
    """Images of one pixel, normalised to its share of 255."""
    return ImageData("pixel", ("a", "b"), (1, 1), 1, (0.0,), (1.0,), train, test, None, "none", {})


@dataclass
class FakeRun:
    networks: dict
    peers: list = field(default_factory=lambda: ["target"])

    @property
    def card(self):
        return {"deliverables": list(self.networks), "peers": self.peers}

    ensemble = property(lambda self: "ensemble" if "ensemble" in self.networks else None)

    def student(self, name=None):
        return name or next(iter(self.networks))

    def network(self, student=None):
        return self.networks[self.student(student)]

    @property
    def model(self):
        return self.network()


class Told(nn.Module):
    """Says for pixel value p what a table says of it: (256, m, C)."""

    def __init__(self, table, group=False):
        super().__init__()
        self.table, self.group = torch.as_tensor(table, dtype=torch.float32), group

    def forward(self, x):
        logits = self.table[(x.flatten() * 255).round().long()]
        return PeerOutput(logits, ensemble=logits.mean(1)) if self.group else logits[:, 0]


class Pixel(nn.Module):
    """logits = pixel * weight (2, 1)."""

    def __init__(self, first, second):
        super().__init__()
        self.linear = nn.Linear(1, 2, bias=False)
        self.linear.weight.data = torch.tensor([[first], [second]])

    def forward(self, x):
        return self.linear(x.flatten(1))


def signs(seed):
    return torch.randn(2, 1, generator=torch.Generator().manual_seed(seed)).sign().flatten().tolist()


def test_flatness_of_a_network_of_two_weights():
    # Each weight is a filter of its own and becomes (1 ± d) w: class 0 loses where it falls and the other rises.
    white = images(split([255], [0]), split([255] * 8, [0] * 8))
    found = MEASURES["flatness"](FakeRun({"target": Pixel(1.0, 0.85)}), white)["target"]
    drawn = [signs(seed) for seed in range(5)]
    assert 0 < drawn.count([-1.0, 1.0]) < 5
    for distance in DISTANCES:
        assert found[f"flatness_{distance:g}"] == pytest.approx(20 * drawn.count([-1.0, 1.0]))
        moved = [log1p(exp(0.85 * (1 + b * distance) - (1 + a * distance))) for a, b in drawn]
        worse = sum(moved) / 5 - log1p(exp(0.85 - 1))
        assert found[f"flatness_nll_{distance:g}"] == pytest.approx(worse, abs=1e-6)


def test_a_network_that_ignores_its_images_is_flat():
    network = Pixel(0.0, 0.0)
    network.linear.bias = nn.Parameter(torch.tensor([2.0, 1.0]))
    found = MEASURES["flatness"](FakeRun({"target": network}), images(split([0], [0]), split([9, 8], [0, 1])))
    assert set(found["target"].values()) == {0.0}


def test_every_filter_moves_by_its_own_length_and_is_put_back_exactly():
    network = coterie.networks.build("resnet8", 10, 1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with perturb(network, 0.3, seed=1):
        for name, value in network.state_dict().items():
            if value.dim() > 1:
                moved = (value - before[name]).flatten(1).norm(dim=1) / before[name].flatten(1).norm(dim=1)
                torch.testing.assert_close(moved, torch.full_like(moved, 0.3))
            else:
                assert torch.equal(value, before[name])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with pytest.raises(RuntimeError, match="inside"), perturb(network, 0.3, seed=1):
        raise RuntimeError("inside")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_network_with_other_weights_that_computes_the_same_is_as_flat():
    def network(scale):
        made = nn.Sequential(nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3, eps=0), nn.Flatten()).double().eval()
        torch.manual_seed(0)
        made[0].weight.data = scale * torch.randn_like(made[0].weight)
        made[1].running_mean.fill_(0.2 * scale)
        made[1].running_var.fill_(2.0 * scale**2)
        return made

    x = torch.randn(4, 1, 3, 3, dtype=torch.float64)
    one, other = network(1.0), network(7.0)
    torch.testing.assert_close(one(x), other(x))
    with perturb(one, 0.5, seed=0), perturb(other, 0.5, seed=0):
        torch.testing.assert_close(one(x), other(x))


# Three members on four images of class 0: one errs on image 0, one on images 0 and 1, one on none.
_TABLE = torch.tensor([[1.0, 0.0]]).repeat(256, 3, 1)
_TABLE[0, 0] = _TABLE[0, 1] = _TABLE[1, 1] = torch.tensor([0.0, 1.0])
_NAMES = ["member1", "member2", "member3"]


def test_diversity_of_members_whose_errors_are_known():
    data = images(split([3], [0]), split([0, 1, 2, 3], [0] * 4))
    run = FakeRun({"ensemble": Told(_TABLE, group=True), "member1": Told(_TABLE)}, _NAMES)
    found = MEASURES["diversity"](run, data)
    # pairs differ on 1, 1 and 2 of 4 images
    assert found["ensemble"]["disagreement"] == pytest.approx(100 / 3)
    # the one pair of members that both err: covariance 1/4 - 1/4 * 1/2, deviations √(3/16) and 1/2
    assert found["ensemble"]["error_correlation"] == pytest.approx(0.125 / (0.1875**0.5 * 0.5))
    # KL(p ‖ q) where they differ is (σ(1) - σ(-1)) * 1 = tanh(1/2), on 1, 1 and 2 of 4 images
    assert found["ensemble"]["member_divergence"] == pytest.approx(np.tanh(0.5) / 3, abs=1e-6)


def test_members_that_never_err_have_no_correlation():
    assert error_correlation(torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]), torch.tensor([0])) is None
    same = torch.tensor([[[1.0, 0.0]] * 2, [[0.0, 1.0]] * 2])
    assert error_correlation(same, torch.tensor([0, 0])) == pytest.approx(1)


def test_a_network_alone_has_no_diversity():
    assert MEASURES["diversity"](FakeRun({"target": Told(_TABLE)}), images(split([0], [0]), split([0], [0]))) == {}


def test_generalisation_of_every_part():
    # learned: images 2 and 3, on which nobody errs; tested: images 0 to 3
    data = images(split([2, 3], [0, 0]), split([0, 1, 2, 3], [0] * 4))
    run = FakeRun({"ensemble": Told(_TABLE, group=True), "member1": Told(_TABLE)}, _NAMES)
    found = MEASURES["generalisation"](run, data)
    assert set(found) == {"ensemble", *_NAMES}
    assert [found[each]["generalisation_gap"] for each in _NAMES] == [25, 50, 0]
    # the members' mean logits are (1/3, 2/3) of image 0, (2/3, 1/3) of image 1
    assert found["ensemble"]["generalisation_gap"] == 25
    assert found["member2"]["clean_train_error"] == 0
    assert found["member2"]["clean_train_nll"] == pytest.approx(log(1 + exp(-1)))
    assert found["member2"]["nll_gap"] == pytest.approx(0.5)  # half the images cost one nat more


def test_noisy_labels_are_measured_against_the_right_ones():
    data = images(split([2, 3], [1, 0], clean=[0, 0]), split([2], [0]))
    found = MEASURES["generalisation"](FakeRun({"target": Told(_TABLE)}), data)
    assert found["target"]["clean_train_error"] == 0


def test_a_run_of_one(finished, alone, digits):
    """All analyses of real runs, twice the same, agreeing with what the run's card says."""
    found = {name: measure(finished, digits) for name, measure in MEASURES.items()}
    assert found == {name: measure(finished, digits) for name, measure in MEASURES.items()}
    assert set(found["flatness"]) == {"target"}
    assert 0 < found["diversity"]["ensemble"]["disagreement"] < 100
    assert set(found["generalisation"]) == {"target", "branch1", "branch2", "ensemble"}
    for part, values in found["generalisation"].items():
        error = values["clean_train_error"] + values["generalisation_gap"]
        assert error == pytest.approx(finished.card["test"][part]["error"])
    few = replace(digits, test=digits.test.subset(np.arange(50)))
    assert MEASURES["flatness"](alone, few)["target"].keys() == found["flatness"]["target"].keys()


@dataclass
class Logged:
    metrics: list


def epoch(number, stage="train", **tested):
    named = {"train_error_target": 90.0 - number, "test_error_target": None, "test_error_ensemble": None}
    return {"stage": stage, "epoch": number} | named | {f"test_error_{part}": error for part, error in tested.items()}


def test_curves_are_of_the_last_stage_where_it_was_tested():
    before = [epoch(1, "teachers", target=99.0), epoch(2, "teachers", target=98.0)]
    found = collect_curves(
        Logged([*before, epoch(1), epoch(2, target=80.0, ensemble=70.0), epoch(3), epoch(4, target=60.0)])
    )
    assert found["target"] == {"train_error": [(2, 88.0), (4, 86.0)], "test_error": [(2, 80.0), (4, 60.0)]}
    assert found["ensemble"] == {"train_error": [], "test_error": [(2, 70.0)]}
