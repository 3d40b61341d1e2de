"""Which channels are tied, what they cost, and cutting them out."""

import copy

import pytest
import torch
from torch import nn

from coterie import UserError
from coterie.evaluation import cost
from coterie.methods.compact.resource import Resource
from coterie.networks import build
from coterie.networks.prune.channels import Structure, find_structure
from coterie.networks.prune.removal import cut, ranked, resize, silence, within_budget

IMAGE = torch.zeros(1, 3, 32, 32)


def everything(structure: Structure):
    return torch.ones(structure.channels, dtype=torch.bool)


def lively(name, classes=10, image_size=(32, 32)):
    """A network with scales, shifts and statistics of all kinds, as after training."""
    torch.manual_seed(0)
    network = build(name, classes, 3, image_size=image_size)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    return network.eval()


def relative(got, expected):
    return ((got - expected).abs().max() / expected.abs().max()).item()


class Tied(nn.Module):
    """Conv, a depthwise conv, a residual sum of two, and a flattening: all hand-countable at 4x4 pixels."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4))
        self.depth = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), nn.BatchNorm2d(4))
        self.wide = nn.Sequential(nn.Conv2d(4, 6, 1, bias=False), nn.BatchNorm2d(6))
        self.back = nn.Sequential(nn.Conv2d(6, 4, 1, bias=False), nn.BatchNorm2d(4))
        self.pool = nn.AvgPool2d(2)
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        x = self.depth(self.stem(x)).relu()
        x = x + self.back(self.wide(x).relu())
        return self.fc(self.pool(x).flatten(1))


def tied():
    torch.manual_seed(0)
    return Tied(), torch.zeros(1, 3, 4, 4)


def test_hand_counted_costs_of_tied_channels():
    network, example = tied()
    structure = find_structure(network, example)
    assert sorted(structure.sizes) == [4, 6]
    full = everything(structure)
    weights = 3 * 4 * 9 + 4 * 9 + 4 * 6 + 6 * 4 + 16 * 5
    assert structure.count(full, "flops") == 2 * (16 * (weights - 80) + 80)
    assert structure.count(full, "params") == weights + 5 + 2 * (4 + 4 + 6 + 4)
    # 3 of the 4 stream channels and 2 of the 6 others: the flattened layer reads 3 * 4 inputs.
    alive = full.clone()
    stream = structure.sizes.index(4)
    dead = (structure.group == stream).nonzero()[:1], (structure.group != stream).nonzero()[:4]
    alive[torch.cat(dead)] = False
    left = 3 * 3 * 9 + 3 * 9 + 3 * 2 + 2 * 3 + 12 * 5
    assert structure.count(alive, "flops") == 2 * (16 * (left - 60) + 60)
    assert structure.count(alive, "params") == left + 5 + 2 * (3 + 3 + 2 + 3)


def test_the_penalty_against_hand_computed_numbers():
    network, example = tied()
    structure = find_structure(network, example)
    resource = Resource(structure, "params").double()
    network.double()
    network.stem[1].weight.data = torch.tensor([0.1, -0.9, 0.2, 0.0])
    network.depth[1].weight.data = torch.tensor([0.2, 0.3, -0.1, 0.001])
    network.back[1].weight.data = torch.tensor([-0.5, 0.1, 0.1, 0.002])
    network.wide[1].weight.data = torch.tensor([1.0, 0.5, 0.0, 0.0, 0.0, 0.0])
    for norm in (network.stem[1], network.depth[1], network.back[1], network.wide[1]):
        norm.weight.data = norm.weight.data.double()
    values = resource.values(network)
    stream = structure.group == structure.sizes.index(4)
    assert values[stream].tolist() == pytest.approx([0.5, 0.9, 0.2, 0.002])  # the largest of the three norms
    alive = values > 0.01
    a, s, b, t = 3, 1.602, 2, 1.5  # alive and summed: the stream, and the six in the middle
    stem = 9 * (3 * s)
    depth = 9 * (s + s)
    middle = 2 * (a * t + b * s)
    fc = 5 * 4 * s  # its five outputs are all alive, and each channel is read four times
    total = 108 + 36 + 24 + 24 + 80
    assert resource.penalty(values, alive).item() == pytest.approx((stem + depth + middle + fc) / total, rel=1e-6)
    costs = (9 * 3 * a, 9 * a, a * b, b * a, 4 * a * 5)
    assert resource.layer_costs(alive).tolist() == pytest.approx([each / total for each in costs], rel=1e-6)


def test_no_gradient_flows_through_alive_counts():
    network, example = tied()
    structure = find_structure(network, example)
    resource = Resource(structure, "flops")
    nn.init.uniform_(network.wide[1].weight, 0.5, 1)
    values = resource.values(network)
    alive = values > 0.01
    resource.penalty(values, alive).backward()
    weights = resource.weights(alive)
    middle = structure.group == structure.sizes.index(6)
    torch.testing.assert_close(network.wide[1].weight.grad, weights[middle])
    assert alive.grad_fn is None


def test_shrinking_gives_exact_zeros_to_all_members():
    network, example = tied()
    structure = find_structure(network, example)
    resource = Resource(structure, "flops")
    network.stem[1].weight.data = torch.tensor([0.5, -0.5, 0.05, 1.0])
    network.depth[1].weight.data = torch.tensor([0.05, 0.5, 0.5, -1.0])
    resource.shrink(network, torch.where(structure.group == structure.sizes.index(4), 0.1, 0.0))
    torch.testing.assert_close(network.stem[1].weight.data, torch.tensor([0.4, -0.4, 0.0, 0.9]))
    torch.testing.assert_close(network.depth[1].weight.data, torch.tensor([0.0, 0.4, 0.4, -0.9]))
    assert torch.equal(network.wide[1].weight, torch.ones(6))


def test_mobilenet_v2_has_its_published_counts():
    network = build("torchvision/mobilenet_v2", 100, 3)
    structure = find_structure(network, torch.zeros(1, 3, 224, 224))
    assert len(structure.sizes) == 25
    assert structure.channels == 9128
    assert Resource(structure, "params").total == 2_317_760
    resource = Resource(structure, "flops")
    assert resource.total == cost(network, 3, (224, 224)).flops
    ratio = resource.penalty(resource.values(network), everything(structure)).item()
    assert ratio == pytest.approx(1.96, abs=0.005)


def test_a_large_classifier_is_regularised_on_one_side_only():
    structure = find_structure(network := build("torchvision/mobilenet_v2", 1000, 3), IMAGE)
    resource = Resource(structure, "params")
    assert resource.penalty(resource.values(network), everything(structure)).item() == pytest.approx(1.63, abs=0.005)


@pytest.mark.parametrize(
    ("name", "channels"),
    [("torchvision/resnet18", 2880), ("torchvision/resnet50", 11456), ("resnet20", 448), ("densenet-bc-100-12", 3162)],
)
def test_groups_and_counts(name, channels):
    network = build(name, 10, 3)
    structure = find_structure(network, IMAGE)
    assert structure.channels == channels
    counted = cost(network, 3, (32, 32))
    assert structure.count(everything(structure), "flops") == counted.flops
    assert structure.count(everything(structure), "params") == counted.parameters


@pytest.mark.parametrize(
    "name", ["resnet20", "torchvision/mobilenet_v2", "torchvision/vgg11_bn", "timm/resnet18", "densenet-bc-100-12"]
)
def test_cutting_what_is_silent_changes_nothing(name):
    network = lively(name)
    structure = find_structure(network, IMAGE)
    torch.manual_seed(1)
    alive = torch.rand(structure.channels) > 0.4
    alive |= within_budget(torch.rand(structure.channels), structure, "flops", 0.1)  # one or more of each group
    silence(network, structure, alive)
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        expected = network(images)
        cut(network, structure, alive, IMAGE)
        assert relative(network(images), expected) < 1e-5
    counted = cost(network, 3, (32, 32))
    assert counted.flops == structure.count(alive, "flops")
    assert counted.parameters == structure.count(alive, "params")
    assert not network.training


@pytest.mark.parametrize("name", ["resnet20", "torchvision/mobilenet_v2"])
@pytest.mark.parametrize(
    ("target", "share"), [("flops", 0.7), ("flops", 0.5), ("flops", 0.3), ("params", 0.5), ("params", 0.2)]
)
def test_budgets_are_met(name, target, share):
    network = lively(name)
    structure = find_structure(network, IMAGE)
    values = Resource(structure, target).values(network).detach()
    alive = within_budget(values, structure, target, share, 0.1, multiple=8)
    silence(network, structure, alive)
    images = torch.randn(2, 3, 32, 32)
    before = cost(network, 3, (32, 32))
    with torch.no_grad():
        expected = network(images)
        cut(network, structure, alive, IMAGE)
        assert relative(network(images), expected) < 1e-5
    after = cost(network, 3, (32, 32))
    met = after.flops / before.flops if target == "flops" else after.parameters / before.parameters
    assert share * 0.97 <= met <= share


def test_the_best_channels_are_kept():
    network, example = tied()
    structure = find_structure(network, example)
    values = torch.arange(structure.channels).float()
    alive = within_budget(values, structure, "params", 0.6)
    assert not alive.all()
    for part, worth in zip(alive.split(structure.sizes), values.split(structure.sizes), strict=True):
        assert part.any()
        assert worth[~part].tolist() == sorted(worth.tolist())[: int((~part).sum())]
    with pytest.raises(UserError, match=r"params=0.05: .* keeps 0\.\d+ of its parameters"):
        within_budget(values, structure, "params", 0.05)


@pytest.mark.parametrize("share", [0.7, 0.5, 0.3])
def test_widths_are_multiples_where_the_budget_allows(share):
    structure = find_structure(network := lively("torchvision/mobilenet_v2"), IMAGE)
    values = Resource(structure, "flops").values(network).detach()
    alive = within_budget(values, structure, "flops", share, 0.1, multiple=8)
    odd = [part for part in torch.split(alive, list(structure.sizes)) if int(part.sum()) % 8 and not part.all()]
    assert len(odd) <= 1  # where one bundle is much of the budget, single channels fill it
    for part, worth in zip(alive.split(structure.sizes), values.split(structure.sizes), strict=True):
        assert part.all() or worth[part].min() >= worth[~part].max()


def test_ranked_values_leave_each_group_its_share():
    network, example = tied()
    structure = find_structure(network, example)
    values = torch.rand(structure.channels)
    shares = torch.tensor([1.0, 0.5])
    places = torch.split(ranked(values, structure, shares), list(structure.sizes))
    assert [sorted(each.tolist()) for each in places] == [
        pytest.approx([share * (index + 1) / size for index in range(size)])
        for share, size in zip((1.0, 0.5), structure.sizes, strict=True)
    ]
    assert [int(each.argmax()) for each in places] == [
        int(each.argmax()) for each in torch.split(values, list(structure.sizes))
    ]


def test_constants_of_dead_channels_are_folded_into_biases():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    network = nn.Sequential(*layers, nn.Linear(8 * 4, 5)).eval()
    nn.init.normal_(network[1].bias)
    structure = find_structure(network, torch.zeros(1, 3, 4, 4))
    alive = torch.tensor([True, False, True, False, False, True, False, True])
    images = torch.randn(2, 3, 4, 4)
    silent, folded = copy.deepcopy(network), copy.deepcopy(network)
    silence(network, structure, alive, shifts=False)  # dead channels say relu(β)
    silence(silent, structure, alive)
    cut(folded, structure, alive, images, fold=True)
    with torch.no_grad():
        expected = network(images)
        assert relative(folded(images), expected) < 1e-5
        assert relative(silent(images), expected) > 1e-2


def test_a_network_takes_the_shapes_of_a_cut_one():
    network = lively("torchvision/mobilenet_v2")
    full = copy.deepcopy(network)
    structure = find_structure(network, IMAGE)
    values = Resource(structure, "flops").values(network).detach()
    cut(network, structure, within_budget(values, structure, "flops", 0.4), IMAGE)
    state = network.state_dict()
    resize(full, {name: tensor.shape for name, tensor in state.items()})
    full.load_state_dict(state)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(full(images), network(images))
    assert cost(full, 3, (32, 32)) == cost(network, 3, (32, 32))


def test_a_network_without_batch_norm_is_refused():
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    with pytest.raises(UserError, match="no channels with batch norm"):
        find_structure(plain, IMAGE)


def test_finding_a_structure_leaves_the_network_as_it_was():
    network = lively("resnet20").train()
    network.compile(backend="aot_eager")
    network.fc.requires_grad_(False)
    before = copy.deepcopy(network.state_dict())
    find_structure(network, IMAGE)
    assert network.training
    assert network._compiled_call_impl is not None
    assert not network.fc.weight.requires_grad
    assert network.conv1.weight.requires_grad
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
