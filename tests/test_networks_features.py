"""Features of named modules, and the ends of a network's stages."""

import copy
import pickle

import pytest
import torch
from torch import nn

from coterie import UserError
from coterie.networks import build
from coterie.networks.observe.features import (
    FeaturePlace,
    Features,
    describe_features,
    find_classifier,
    find_stage_ends,
    match_features,
)


def images(size=8, count=2):
    return torch.randn(count, 1, size, size, generator=torch.Generator().manual_seed(0))


def conv(inputs, outputs, stride=1):
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1)


def hooks(network):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules())


def test_features_are_what_modules_give_and_are_given():
    network = build("resnet8", 10, 1).eval()
    output, features = Features(network, ["layer2", "layer1", "fc:in"])(images())
    stem = network.relu(network.bn1(network.conv1(images())))
    first = network.layer1(stem)
    assert list(features) == ["layer2", "layer1", "fc:in"]
    assert torch.equal(features["layer1"], first)
    assert torch.equal(features["layer2"], network.layer2(first))
    assert torch.equal(network.fc(features["fc:in"]), output)
    assert torch.equal(output, network(images()))
    assert hooks(network) == 0


def test_features_carry_gradients_and_two_sets_do_not_meet():
    network = build("resnet8", 10, 1)
    once, twice = Features(network, ["layer1"]), Features(network, ["layer2"])
    _, features = once(images())
    assert list(twice(images())[1]) == ["layer2"]
    features["layer1"].sum().backward()
    assert network.conv1.weight.grad is not None
    assert network.layer2[0].conv1.weight.grad is None


def test_a_compiled_network_is_tapped_too():
    network = build("resnet8", 10, 1).eval()
    network.compile()
    assert list(Features(network, ["layer3"])(images())[1]) == ["layer3"]


def test_copies_and_pickles_read_their_own_network():
    network = build("resnet8", 10, 1).eval()
    for other in (
        copy.deepcopy(Features(network, ["layer3"])),
        pickle.loads(pickle.dumps(Features(network, ["layer3"]))),
    ):
        assert other.network is not network
        nn.init.zeros_(other.network.layer3[0].bn2.weight)
        nn.init.zeros_(other.network.layer3[0].downsample[1].weight)
        assert other(images())[1]["layer3"].abs().max() == 0
        assert Features(network, ["layer3"])(images())[1]["layer3"].abs().max() > 0


def test_a_failing_forward_leaves_no_hooks():
    network = build("resnet8", 10, 1)
    with pytest.raises(RuntimeError):
        Features(network, ["layer1"])(torch.zeros(2, 3, 8, 8))
    with pytest.raises(RuntimeError):
        find_stage_ends(network, torch.zeros(2, 3, 8, 8))
    assert hooks(network) == 0


def test_features_that_cannot_be_read_are_refused_in_one_line():
    network = build("resnet8", 10, 1)
    with pytest.raises(UserError, match=r"unknown module in --method\.sites 'layr1'; did you mean 'layer1'"):
        Features(network, ["layr1"], "--method.sites")
    with pytest.raises(UserError, match="'bn1' is overwritten in place"):
        Features(network, ["bn1"])(images())
    network.spare = nn.Linear(2, 2)
    with pytest.raises(UserError, match="no features at 'spare'"):
        Features(network, ["spare"])(images())
    tokens = nn.Sequential(nn.Flatten(2), nn.Linear(64, 10))
    with pytest.raises(UserError, match=r"'0' has features of shape \(2, 1, 64\)"):
        describe_features(tokens, ["0"], images())


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("resnet8", 8, [("layer1", 16, (8, 8)), ("layer2", 32, (4, 4)), ("layer3", 64, (2, 2)), ("fc:in", 64, (1, 1))]),
        # The 7x7 stem is no stage.
        (
            "torchvision/resnet18",
            64,
            [(f"layer{i + 1}", 64 << i, (16 >> i, 16 >> i)) for i in range(4)] + [("fc:in", 512, (1, 1))],
        ),
        # An inverted residual block first widens at the larger size: that is inside of the next stage.
        (
            "torchvision/mobilenet_v2",
            64,
            [
                ("features.1", 16, (32, 32)),
                ("features.3", 24, (16, 16)),
                ("features.6", 32, (8, 8)),
                ("features.13", 96, (4, 4)),
                ("features", 1280, (2, 2)),
                ("classifier.1:in", 1280, (1, 1)),
            ],
        ),
        # The norm after its last block is overwritten in place by a ReLU that is no module.
        (
            "torchvision/densenet121",
            64,
            [
                ("features.denseblock1", 256, (16, 16)),
                ("features.denseblock2", 512, (8, 8)),
                ("features.denseblock3", 1024, (4, 4)),
                ("features.denseblock4", 1024, (2, 2)),
                ("classifier:in", 1024, (1, 1)),
            ],
        ),
    ],
)
def test_stage_ends(name, size, expected):
    network = build(name, 10, 1, image_size=(size, size))
    before = copy.deepcopy(network.state_dict())
    found = find_stage_ends(network, images(size))
    assert found == [FeaturePlace(*site) for site in expected]
    assert describe_features(network, [site.path for site in found], images(size)) == found
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert hooks(network) == 0
    assert f"{find_classifier(network, images(size))}:in" == expected[-1][0]


def test_a_stage_that_ends_in_its_reduction_is_named_whole():
    blocks = [nn.Sequential(conv(1, 4), conv(4, 4, 2)), nn.Sequential(conv(4, 6), conv(6, 6, 2))]
    network = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    assert [site.path for site in find_stage_ends(network, images())] == ["0.0", "0", "1", "4:in"]


def test_a_squeeze_is_no_stage_and_a_module_that_runs_twice_no_end():
    class Squeezed(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.squeeze, self.act, self.head = conv(1, 4), conv(4, 4), nn.ReLU(), conv(4, 3)

        def forward(self, x):
            x = self.act(self.stem(x))
            x = x * self.squeeze(nn.functional.adaptive_avg_pool2d(x, 1)).sigmoid()
            return self.head(self.act(x)).mean((2, 3))

    # A classifier that is a convolution reads a map of the stage's own size: no site of its own.
    assert [tuple(site) for site in find_stage_ends(Squeezed(), images())] == [("head", 3, (8, 8))]
    assert find_classifier(Squeezed(), images()) == "head"
    with pytest.raises(UserError, match="no classifier"):
        find_classifier(nn.Flatten(), images())


def test_features_of_two_networks_are_matched_by_size_or_from_the_end():
    def sites(*sizes):
        return [FeaturePlace(f"at{size}", 1, (size, size)) for size in sizes]

    def sizes(pairs):
        return [(first.size[0], second.size[0]) for first, second in pairs]

    assert sizes(match_features(sites(32, 16, 8, 1), sites(16, 8, 4, 1))) == [(16, 16), (8, 8), (1, 1)]
    assert sizes(match_features(sites(32, 16, 8, 1), sites(56, 28, 14, 7, 1))) == [(32, 28), (16, 14), (8, 7), (1, 1)]
    assert sizes(match_features(sites(8, 1), sites(8, 1))) == [(8, 8), (1, 1)]
