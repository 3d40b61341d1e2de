"""The papers' CIFAR families: structure, published sizes, initialisation, tracing."""

from math import sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn
from torch.utils.flop_counter import FlopCounterMode

from coterie import UserError
from coterie.networks import NETWORKS, build
from coterie.networks.observe.features import describe_features

SMALL = ("resnet8", "resnet110-bottleneck12", "densenet-bc-100-12")

# FLOPs (1e8) of the network and of its last stage with the classifier, parameters (1e6) of both, at 100 classes:
# papers/ONE's cost model, whose training columns are network + 2 x last stage.
PUBLISHED = {
    "resnet32": (1.383, 0.451, 0.473, (1.193 - 0.473) / 2),
    "resnet110": (5.063, 1.678, 1.737, (4.380 - 1.737) / 2),
    "resnet110-bottleneck": (4.953, 1.667, 1.727, (4.363 - 1.727) / 2),
    "resnet110-bottleneck12": (3.349, 1.132, 1.171, (2.962 - 1.171) / 2),
}


def flops(module, inputs):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.eval()(inputs)
    return counter.get_total_flops()


def parameters(*modules):
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def convolutions(model):
    return {path: module for path, module in model.named_modules() if isinstance(module, nn.Conv2d)}


@pytest.mark.parametrize("name", PUBLISHED)
def test_flops_and_parameters_of_network_and_branch(name):
    model = build(name, 100)
    whole, tail, millions, tail_millions = PUBLISHED[name]
    assert flops(model, torch.zeros(1, 3, 32, 32)) / 1e8 == pytest.approx(whole, rel=0.005)
    assert parameters(model) / 1e6 == pytest.approx(millions, rel=0.005)
    last = model.get_submodule(model.last_stage)
    width = convolutions(last)["0.conv1"].in_channels
    counted = flops(last, torch.zeros(1, width, 16, 16)) + flops(model.fc, torch.zeros(1, model.fc.in_features))
    assert counted / 1e8 == pytest.approx(tail, rel=0.005)
    assert parameters(last, model.fc) / 1e6 == pytest.approx(tail_millions, rel=0.005)


@pytest.mark.parametrize(
    ("name", "exact"),
    [
        ("resnet20", 269_722 + 16 * 32 + 32 * 64 + 2 * (32 + 64)),  # option A's, and two shortcuts with batch norm
        ("densenet-bc-100-12", 769_162),
        ("densenet-bc-190-40", 25_624_430),
        ("resnext29-8x64d", 34_426_698),
        ("wrn-28-10", 36_479_194),
    ],
)
def test_parameters_are_those_of_the_reference_implementations(name, exact):
    assert parameters(build(name, 10)) == exact


# SRM's networks, counted from its official code: parameters, multiply-adds (1e6), and the sites that it matches.
@pytest.mark.parametrize(
    ("name", "exact", "millions", "sites"),
    [
        ("allcnn-0.66", 2_182_413, 160, {"block1": (63, 16), "block2": (126, 8), "block4": (253, 4)}),
        ("densenet121-cifar", 7_058_788, 888, {"trans1": (128, 16), "trans2": (256, 8), "dense4": (1024, 4)}),
    ],
)
def test_srms_networks(name, exact, millions, sites):
    torch.manual_seed(0)
    model, images = build(name, 100), torch.zeros(1, 3, 32, 32)
    assert parameters(model) == exact
    assert flops(model, images) / 2e6 == pytest.approx(millions, abs=0.6)
    found = {site.path: (site.channels, site.size[0]) for site in describe_features(model, list(sites), images)}
    assert found == sites
    biases = torch.cat([module.bias.flatten() for module in convolutions(model).values()])
    assert biases.mean().item() == pytest.approx(0, abs=5 / sqrt(len(biases)))
    assert biases.std().item() == pytest.approx(1, rel=5 / sqrt(2 * len(biases)))


def test_depth_is_what_the_name_says():
    for depth in (8, 14, 20, 32, 44, 56, 110):
        model = build(f"resnet{depth}")
        weighted = [path for path in convolutions(model) if "downsample" not in path]
        assert len(weighted) + 1 == depth
        assert [len(stage) for stage in (model.layer1, model.layer2, model.layer3)] == [(depth - 2) // 6] * 3


@pytest.mark.parametrize("name", ["resnet20", "resnet110-bottleneck12", "resnext29-8x64d"])
def test_shortcuts_are_option_b(name):
    model = build(name)
    blocks = [block for stage in (model.layer1, model.layer2, model.layer3) for block in stage]
    for index, block in enumerate(blocks):
        first, last = next(iter(convolutions(block).values())), block.downsample
        widens = name != "resnet20" and index == 0
        if widens or block in (model.layer2[0], model.layer3[0]):
            convolution, norm = last
            assert convolution.kernel_size == (1, 1)
            assert convolution.in_channels == first.in_channels
            assert isinstance(norm, nn.BatchNorm2d)
            assert convolution.stride == ((1, 1) if widens else (2, 2))
        else:
            assert isinstance(last, nn.Identity)


def test_resnet_block_computes_the_post_activation_residual():
    block = build("resnet8").eval().layer2[0]
    x = torch.randn(2, 16, 8, 8)
    y = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x)))))
    torch.testing.assert_close(block(x), torch.relu(y + block.downsample(x)))


def test_dense_layer_keeps_its_input_and_adds_k_channels():
    layer = build("densenet-bc-100-12").eval().dense1[0]
    x = torch.randn(2, 24, 8, 8)
    y = layer(x.clone())
    assert y.shape == (2, 36, 8, 8)
    assert torch.equal(y[:, :24], x)


def test_densenet_halves_at_its_transitions():
    model = build("densenet-bc-100-12")
    assert [len(block) for block in (model.dense1, model.dense2, model.dense3)] == [16, 16, 16]
    shapes = [(trans.conv.in_channels, trans.conv.out_channels) for trans in (model.trans1, model.trans2)]
    assert shapes == [(216, 108), (300, 150)]
    assert model.fc.in_features == 342


def test_resnext_groups():
    model = build("resnext29-8x64d")
    grouped = [block.conv2 for stage in (model.layer1, model.layer2, model.layer3) for block in stage]
    assert [conv.groups for conv in grouped] == [8] * 9
    assert [conv.out_channels for conv in grouped] == [512] * 3 + [1024] * 3 + [2048] * 3


@pytest.mark.parametrize("name", SMALL)
def test_initialisation_is_the_official_codes(name):
    torch.manual_seed(0)
    model = build(name)
    for conv in convolutions(model).values():
        assert conv.bias is None
        expected = sqrt(2 / (conv.kernel_size[0] ** 2 * conv.out_channels))
        count = conv.weight.numel()
        assert conv.weight.std().item() == pytest.approx(expected, rel=5 / sqrt(2 * count))
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        assert (norm.weight == 1).all()
        assert (norm.bias == 0).all()
    bound = 1 / sqrt(model.fc.in_features)
    assert 0.9 * bound < model.fc.weight.abs().max() <= bound


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_traces_and_names_its_last_stage(name):
    with torch.device("meta"):
        model = build(name, 10)
    graph = fx.symbolic_trace(model).graph
    called = [node.target for node in graph.nodes if node.op == "call_module"]
    assert any(target.startswith(f"{model.last_stage}.") for target in called)
    assert called[-1] == "fc"
    stage = next(index for index, target in enumerate(called) if target.startswith(f"{model.last_stage}."))
    assert all(target.startswith((f"{model.last_stage}.", "bn", "relu", "avgpool", "fc")) for target in called[stage:])


def test_traced_network_computes_the_same():
    for name in SMALL:
        model = build(name, 10).eval()
        images = torch.randn(2, 3, 16, 16)
        torch.testing.assert_close(fx.symbolic_trace(model)(images), model(images))


def test_in_place_activations_leave_input_and_gradients_right():
    for name in SMALL:
        model = build(name, 5).double()
        images = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
        before = images.detach().clone()
        model(images).square().sum().backward()
        assert torch.equal(images.detach(), before)
        assert all(parameter.grad is not None for parameter in model.parameters())
        assert torch.isfinite(images.grad).all()


@given(st.sampled_from(SMALL), st.integers(1, 6), st.integers(8, 40), st.integers(8, 40), st.integers(1, 20))
@settings(max_examples=10, deadline=None)
def test_any_channels_size_and_classes(name, channels, height, width, classes):
    with torch.device("meta"):
        model = build(name, classes, channels, image_size=(height, width))
        assert model(torch.zeros(2, channels, height, width)).shape == (2, classes)


@pytest.mark.parametrize(("channels", "height", "width"), [(3, 8, 8), (1, 28, 28), (3, 33, 17)])
def test_logits_depend_on_the_image(channels, height, width):
    model = build("resnet8", 10, channels, image_size=(height, width)).eval()
    first, second = model(torch.randn(2, channels, height, width))
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("size", [(7, 32), (32, 7), (1, 1)])
def test_images_below_8_pixels_are_refused(size):
    with pytest.raises(UserError, match=f"{size[0]}x{size[1]} pixels are too small; set image_size=8"):
        build("resnet8", image_size=size)


def test_two_builds_differ_and_one_seed_repeats():
    torch.manual_seed(3)
    first, second = build("resnet8"), build("resnet8")
    torch.manual_seed(3)
    again = build("resnet8")
    assert not torch.equal(first.conv1.weight, second.conv1.weight)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
