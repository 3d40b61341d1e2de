"""Which channels are tied, what they cost, and their removal."""

import copy

import pytest
import torch
from torch import nn

from coterie import UserError
from coterie.evaluation import cost
from coterie.methods.compact.costs import ChannelCosts
from coterie.networks import build
from coterie.networks.prune.channel_groups import ChannelGroups, find_channel_groups
from coterie.networks.prune.removal import prune_channels, rank_channels, resize_layers, select_within_budget

IMAGE = torch.zeros(1, 3, 32, 32)


def everything(groups: ChannelGroups):
    return torch.ones(groups.num_channels, dtype=torch.bool)


def penalty(costs, values, alive):
    """Σ_L R_L / C0, as MorphNet's code adds it to the loss."""
    return (values * costs.weights(alive)).sum()


@torch.no_grad()
def silence(network, groups, alive, names=("weight", "bias")):
    """γ = β = 0 wherever a dead channel is normalised: what is then removed is nothing."""
    left = torch.cat([alive, torch.tensor([True])])
    for path, channels in groups.norms:
        for name in names:
            getattr(network.get_submodule(path), name).masked_fill_(~left[channels], 0)


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
    groups = find_channel_groups(network, example)
    assert sorted(groups.sizes) == [4, 6]
    full = everything(groups)
    weights = 3 * 4 * 9 + 4 * 9 + 4 * 6 + 6 * 4 + 16 * 5
    assert groups.cost(full, "flops") == 2 * (16 * (weights - 80) + 80)
    assert groups.cost(full, "params") == weights + 5 + 2 * (4 + 4 + 6 + 4)
    # 3 of the 4 stream channels and 2 of the 6 others: the flattened layer reads 3 * 4 inputs.
    alive = full.clone()
    stream = groups.sizes.index(4)
    dead = (groups.group_of == stream).nonzero()[:1], (groups.group_of != stream).nonzero()[:4]
    alive[torch.cat(dead)] = False
    left = 3 * 3 * 9 + 3 * 9 + 3 * 2 + 2 * 3 + 12 * 5
    assert groups.cost(alive, "flops") == 2 * (16 * (left - 60) + 60)
    assert groups.cost(alive, "params") == left + 5 + 2 * (3 + 3 + 2 + 3)


def test_the_penalty_against_hand_computed_numbers():
    network, example = tied()
    groups = find_channel_groups(network, example)
    costs = ChannelCosts(groups, "params").double()
    network.double()
    network.stem[1].weight.data = torch.tensor([0.1, -0.9, 0.2, 0.0])
    network.depth[1].weight.data = torch.tensor([0.2, 0.3, -0.1, 0.001])
    network.back[1].weight.data = torch.tensor([-0.5, 0.1, 0.1, 0.002])
    network.wide[1].weight.data = torch.tensor([1.0, 0.5, 0.0, 0.0, 0.0, 0.0])
    for norm in (network.stem[1], network.depth[1], network.back[1], network.wide[1]):
        norm.weight.data = norm.weight.data.double()
    values = costs.values(network)
    stream = groups.group_of == groups.sizes.index(4)
    assert values[stream].tolist() == pytest.approx([0.5, 0.9, 0.2, 0.002])  # the largest of the three norms
    alive = values > 0.01
    a, s, b, t = 3, 1.602, 2, 1.5  # alive and summed: the stream, and the six in the middle
    stem = 9 * (3 * s)
    depth = 9 * (s + s)
    middle = 2 * (a * t + b * s)
    fc = 5 * 4 * s  # its five outputs are all alive, and each channel is read four times
    total = 108 + 36 + 24 + 24 + 80
    assert penalty(costs, values, alive).item() == pytest.approx((stem + depth + middle + fc) / total, rel=1e-6)
    expected = (9 * 3 * a, 9 * a, a * b, b * a, 4 * a * 5)
    assert costs.layer_costs(alive).tolist() == pytest.approx([each / total for each in expected], rel=1e-6)


def test_no_gradient_flows_through_alive_counts():
    network, example = tied()
    groups = find_channel_groups(network, example)
    costs = ChannelCosts(groups, "flops")
    nn.init.uniform_(network.wide[1].weight, 0.5, 1)
    values = costs.values(network)
    alive = values > 0.01
    penalty(costs, values, alive).backward()
    weights = costs.weights(alive)
    middle = groups.group_of == groups.sizes.index(6)
    torch.testing.assert_close(network.wide[1].weight.grad, weights[middle])
    assert alive.grad_fn is None


def test_shrinking_gives_exact_zeros_to_all_members():
    network, example = tied()
    groups = find_channel_groups(network, example)
    costs = ChannelCosts(groups, "flops")
    network.stem[1].weight.data = torch.tensor([0.5, -0.5, 0.05, 1.0])
    network.depth[1].weight.data = torch.tensor([0.05, 0.5, 0.5, -1.0])
    costs.shrink(network, torch.where(groups.group_of == groups.sizes.index(4), 0.1, 0.0))
    torch.testing.assert_close(network.stem[1].weight.data, torch.tensor([0.4, -0.4, 0.0, 0.9]))
    torch.testing.assert_close(network.depth[1].weight.data, torch.tensor([0.0, 0.4, 0.4, -0.9]))
    assert torch.equal(network.wide[1].weight, torch.ones(6))


def test_mobilenet_v2_has_its_published_counts():
    network = build("torchvision/mobilenet_v2", 100, 3)
    groups = find_channel_groups(network, torch.zeros(1, 3, 224, 224))
    assert len(groups.sizes) == 25
    assert groups.num_channels == 9128
    assert ChannelCosts(groups, "params").total == 2_317_760
    costs = ChannelCosts(groups, "flops")
    assert costs.total == cost(network, 3, (224, 224)).flops
    ratio = penalty(costs, costs.values(network), everything(groups)).item()
    assert ratio == pytest.approx(1.96, abs=0.005)


def test_a_large_classifier_is_regularised_on_one_side_only():
    groups = find_channel_groups(network := build("torchvision/mobilenet_v2", 1000, 3), IMAGE)
    costs = ChannelCosts(groups, "params")
    assert penalty(costs, costs.values(network), everything(groups)).item() == pytest.approx(1.63, abs=0.005)


@pytest.mark.parametrize(
    ("name", "channels"),
    [("torchvision/resnet18", 2880), ("torchvision/resnet50", 11456), ("resnet20", 448), ("densenet-bc-100-12", 3162)],
)
def test_groups_and_counts(name, channels):
    network = build(name, 10, 3)
    groups = find_channel_groups(network, IMAGE)
    assert groups.num_channels == channels
    counted = cost(network, 3, (32, 32))
    assert groups.cost(everything(groups), "flops") == counted.flops
    assert groups.cost(everything(groups), "params") == counted.parameters


@pytest.mark.libraries
@pytest.mark.parametrize(
    "name", ["resnet20", "torchvision/mobilenet_v2", "torchvision/vgg11_bn", "timm/resnet18", "densenet-bc-100-12"]
)
def test_pruning_what_is_silent_changes_nothing(name):
    network = lively(name)
    groups = find_channel_groups(network, IMAGE)
    torch.manual_seed(1)
    alive = torch.rand(groups.num_channels) > 0.4
    alive |= select_within_budget(torch.rand(groups.num_channels), groups, "flops", 0.1)  # one or more of each group
    silence(network, groups, alive)
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        expected = network(images)
        prune_channels(network, groups, alive, IMAGE)
        assert relative(network(images), expected) < 1e-5
    counted = cost(network, 3, (32, 32))
    assert counted.flops == groups.cost(alive, "flops")
    assert counted.parameters == groups.cost(alive, "params")
    assert not network.training


@pytest.mark.parametrize("name", ["resnet20", "torchvision/mobilenet_v2"])
@pytest.mark.parametrize(
    ("target", "share"), [("flops", 0.7), ("flops", 0.5), ("flops", 0.3), ("params", 0.5), ("params", 0.2)]
)
def test_budgets_are_met(name, target, share):
    network = lively(name)
    groups = find_channel_groups(network, IMAGE)
    values = ChannelCosts(groups, target).values(network).detach()
    alive = select_within_budget(values, groups, target, share, 0.1, multiple=8)
    silence(network, groups, alive)
    images = torch.randn(2, 3, 32, 32)
    before = cost(network, 3, (32, 32))
    with torch.no_grad():
        expected = network(images)
        prune_channels(network, groups, alive, IMAGE)
        assert relative(network(images), expected) < 1e-5
    after = cost(network, 3, (32, 32))
    met = after.flops / before.flops if target == "flops" else after.parameters / before.parameters
    assert share * 0.97 <= met <= share


def test_the_best_channels_are_kept():
    network, example = tied()
    groups = find_channel_groups(network, example)
    values = torch.arange(groups.num_channels).float()
    alive = select_within_budget(values, groups, "params", 0.6)
    assert not alive.all()
    for part, worth in zip(alive.split(groups.sizes), values.split(groups.sizes), strict=True):
        assert part.any()
        assert worth[~part].tolist() == sorted(worth.tolist())[: int((~part).sum())]
    with pytest.raises(UserError, match=r"params=0.05: .* keeps 0\.\d+ of its parameters"):
        select_within_budget(values, groups, "params", 0.05)


@pytest.mark.parametrize("share", [0.7, 0.5, 0.3])
def test_widths_are_multiples_where_the_budget_allows(share):
    groups = find_channel_groups(network := lively("torchvision/mobilenet_v2"), IMAGE)
    values = ChannelCosts(groups, "flops").values(network).detach()
    alive = select_within_budget(values, groups, "flops", share, 0.1, multiple=8)
    odd = [part for part in torch.split(alive, list(groups.sizes)) if int(part.sum()) % 8 and not part.all()]
    assert len(odd) <= 1  # where one bundle is much of the budget, single channels fill it
    for part, worth in zip(alive.split(groups.sizes), values.split(groups.sizes), strict=True):
        assert part.all() or worth[part].min() >= worth[~part].max()


def test_ranked_values_leave_each_group_its_share():
    network, example = tied()
    groups = find_channel_groups(network, example)
    values = torch.rand(groups.num_channels)
    shares = torch.tensor([1.0, 0.5])
    places = torch.split(rank_channels(values, groups, shares), list(groups.sizes))
    assert [sorted(each.tolist()) for each in places] == [
        pytest.approx([share * (index + 1) / size for index in range(size)])
        for share, size in zip((1.0, 0.5), groups.sizes, strict=True)
    ]
    assert [int(each.argmax()) for each in places] == [
        int(each.argmax()) for each in torch.split(values, list(groups.sizes))
    ]


def test_constants_of_dead_channels_are_folded_into_biases():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    network = nn.Sequential(*layers, nn.Linear(8 * 4, 5)).eval()
    nn.init.normal_(network[1].bias)
    groups = find_channel_groups(network, torch.zeros(1, 3, 4, 4))
    alive = torch.tensor([True, False, True, False, False, True, False, True])
    images = torch.randn(2, 3, 4, 4)
    silent, folded = copy.deepcopy(network), copy.deepcopy(network)
    silence(network, groups, alive, ("weight",))  # dead channels give relu(β)
    silence(silent, groups, alive)
    prune_channels(folded, groups, alive, images, fold=True)
    with torch.no_grad():
        expected = network(images)
        assert relative(folded(images), expected) < 1e-5
        assert relative(silent(images), expected) > 1e-2


def test_a_network_takes_the_shapes_of_a_pruned_one():
    network = lively("torchvision/mobilenet_v2")
    full = copy.deepcopy(network)
    groups = find_channel_groups(network, IMAGE)
    values = ChannelCosts(groups, "flops").values(network).detach()
    prune_channels(network, groups, select_within_budget(values, groups, "flops", 0.4), IMAGE)
    state = network.state_dict()
    resize_layers(full, {name: tensor.shape for name, tensor in state.items()})
    full.load_state_dict(state)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(full(images), network(images))
    assert cost(full, 3, (32, 32)) == cost(network, 3, (32, 32))


def test_a_network_without_batch_norm_is_refused():
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    with pytest.raises(UserError, match="no channels with batch norm"):
        find_channel_groups(plain, IMAGE)


def test_finding_channel_groups_leaves_the_network_as_it_was():
    network = lively("resnet20").train()
    network.compile(backend="aot_eager")
    network.fc.requires_grad_(False)
    before = copy.deepcopy(network.state_dict())
    find_channel_groups(network, IMAGE)
    assert network.training
    assert network._compiled_call_impl is not None
    assert not network.fc.weight.requires_grad
    assert network.conv1.weight.requires_grad
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
