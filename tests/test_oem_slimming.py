"""One network at a share of its width: the paper's sizes, the trunk that is the model's own, any other network."""

import copy
import sys
from fractions import Fraction

import pytest
import timm
import torch
import torchvision
from torch import nn

from coterie import UserError
from coterie.methods.oem.slimmable import make_slimmable_ensemble
from coterie.methods.oem.slimming import slim_network
from coterie.networks import build


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


# Relative sizes in percent, as printed (table 1, CIFAR-10) or following from the same construction (CIFAR-100).
# The table prints "ResNet33" for ResNet-32. Counted are all parameters of a student: base, tail and classifier.
SIZES = [
    ("resnet20", 10, (62.95, 35.61, 15.50, 3.95)),
    ("resnet32", 10, (62.87, 35.43, 15.33, 3.80)),
    ("resnet44", 10, (62.84, 35.36, 15.25, 3.74)),
    ("resnet110", 10, (62.79, 35.26, 15.15, 3.64)),
    ("densenet-bc-100-12", 10, (58.01, 36.34, 13.31, 4.29)),
    ("resnet32", 100, (63.09, 35.74, 15.63, 4.00)),
    ("resnet56", 100, (62.94, 35.49, 15.38, 3.81)),
    ("resnet110", 100, (62.85, 35.34, 15.23, 3.70)),
    ("densenet-bc-100-12", 100, (58.68, 37.22, 14.14, 4.83)),
]


@pytest.mark.parametrize(("name", "classes", "sizes"), SIZES)
def test_students_have_the_papers_sizes(name, classes, sizes):
    model = build(name, classes)
    full = parameters(model)
    shares = [Fraction(5 - index, 5) for index in range(1, 5)]
    found = [100 * parameters(model.slim(share, model.stages[0])) / full for share in shares]
    assert [round(size, 2) for size in found] == list(sizes)


def test_widths_are_those_of_the_official_code():
    model = build("resnet8", 10)
    students = [model, *(slim_network(model, Fraction(5 - index, 5), "layer1") for index in range(1, 5))]
    widths = [tuple(stage[0].conv1.out_channels for stage in (s.layer1, s.layer2, s.layer3)) for s in students]
    assert widths == [(16, 32, 64), (12, 25, 51), (9, 19, 38), (6, 12, 25), (3, 6, 12)]
    assert all(student.conv1 is model.conv1 and student.bn1 is model.bn1 for student in students)
    # option B: a convolution where the widths differ, from the base's 16 on
    assert isinstance(model.layer1[0].downsample, nn.Identity)
    assert students[1].layer1[0].downsample[0].weight.shape == (12, 16, 1, 1)
    growths = [build("densenet-bc-100-12").slim(Fraction(5 - j, 5), "dense1").dense2[0] for j in range(5)]
    assert [layer.conv2.out_channels for layer in growths] == [12, 9, 7, 4, 2]
    narrow = build("resnext29-8x64d").slim(Fraction(1, 5), "layer2")
    assert narrow.layer1[0].conv2.weight.shape == (512, 64, 3, 3)
    assert narrow.layer2[0].conv2.weight.shape == (8 * 25, 25, 3, 3)
    assert narrow.layer3[0].conv3.out_channels == 204


def test_stages_below_the_cut_stay_at_full_width():
    model = build("resnet8", 10)
    student = slim_network(model, Fraction(2, 5), "layer2")
    assert student.layer1 is model.layer1
    assert student.layer2[0].conv1.weight.shape == (12, 16, 3, 3)
    with pytest.raises(UserError, match="layer1, layer2, layer3"):
        slim_network(model, Fraction(2, 5), "avgpool")
    with pytest.raises(UserError, match="above 0 and up to 1, not 3"):
        slim_network(model, Fraction(3), "layer2")


OTHERS = {
    "timm/resnet10t": ("layer2", lambda: timm.create_model("resnet10t", num_classes=6)),
    "torchvision/mobilenet_v2": ("features.4", lambda: torchvision.models.mobilenet_v2(num_classes=6)),
    "torchvision/vgg11": ("features.6", lambda: vgg()),
}


def vgg():
    """A VGG-11 whose classifier reads 2x2 places, not 7x7: the same network, an eighth of the parameters."""
    with torch.device("meta"):
        model = torchvision.models.vgg11(num_classes=6, init_weights=False)
    model.avgpool = nn.AdaptiveAvgPool2d(2)
    model.classifier = nn.Sequential(nn.Linear(2048, 256), nn.ReLU(True), nn.Dropout(), nn.Linear(256, 6))
    model.features = nn.Sequential(*(copy.copy(layer) for layer in model.features)).to_empty(device="cpu")
    for layer in model.features:
        if isinstance(layer, nn.Conv2d):
            layer.reset_parameters()
    return model


@pytest.mark.parametrize("name", OTHERS)
def test_every_channel_of_another_networks_tail_is_narrower(name):
    at, factory = OTHERS[name]
    torch.manual_seed(0)
    model = factory()
    before = copy.deepcopy(model.state_dict())
    student = slim_network(model, Fraction(3, 5), at, torch.zeros(2, 3, 64, 64), factory=factory)
    layers = (nn.Conv2d, nn.Linear)
    full = {path: layer for path, layer in model.named_modules() if isinstance(layer, layers)}
    slimmed = {path: student.get_submodule(path) for path in full}
    shared = [path for path in full if slimmed[path] is full[path]]
    assert shared == list(full)[: len(shared)]  # the trunk, and nothing but the trunk
    assert shared[-1] < at or shared[-1].startswith(("features.3", "features.2"))
    *cut, classifier = list(full)[len(shared) :]
    for path in cut:
        assert slimmed[path].weight.shape[0] == int(full[path].weight.shape[0] * 0.6)
    assert slimmed[classifier].weight.shape[0] == 6
    assert parameters(student) < 0.45 * parameters(model)
    # the model is as it was, in training mode, and the student has seen no image yet
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert model.training
    assert student.training
    assert all(norm.num_batches_tracked == 0 for norm in student.modules() if isinstance(norm, nn.BatchNorm2d))
    again = slim_network(factory(), Fraction(3, 5), at, torch.zeros(2, 3, 64, 64), factory=factory)
    again.load_state_dict(student.state_dict())
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(again.eval()(images), student.eval()(images))


def test_groups_are_kept_and_narrower():
    model = timm.create_model("resnext26ts", num_classes=6)
    student = slim_network(model, Fraction(1, 2), "stages.2", torch.zeros(2, 3, 64, 64))
    grouped = [path for path, layer in model.named_modules() if isinstance(layer, nn.Conv2d) and layer.groups > 1]
    cut = [path for path in grouped if path.startswith(("stages.2", "stages.3"))]
    assert cut
    for path in cut:
        full, slimmed = model.get_submodule(path), student.get_submodule(path)
        assert slimmed.groups == full.groups
        assert slimmed.weight.shape[1] == full.weight.shape[1] // 2


def test_groups_of_one_channel_are_still_groups():
    model = Small(nn.Conv2d(8, 64, 1), nn.Conv2d(64, 64, 3, padding=1, groups=16), nn.Conv2d(64, 8, 1))
    student = slim_network(model, Fraction(1, 5), "tail", torch.zeros(2, 3, 8, 8))
    wide, grouped, narrow = student.tail
    assert (wide.out_channels, grouped.groups, grouped.weight.shape) == (16, 16, (16, 1, 3, 3))
    assert narrow.weight.shape == (1, 16, 1, 1)


def test_the_channels_of_all_students_are_found_once(monkeypatch):
    asked, module = [], sys.modules[slim_network.__module__]
    build = module.build_dependency_graph
    monkeypatch.setattr(module, "build_dependency_graph", lambda *given: asked.append(given) or build(*given))
    model = Small(nn.Conv2d(8, 20, 1), nn.Conv2d(20, 20, 1))
    net = make_slimmable_ensemble(model, 5, "tail", torch.zeros(2, 3, 8, 8))
    assert [student.tail[1].out_channels for student in net.students] == [20, 16, 12, 8, 4]
    assert len(asked) == 1


class Small(nn.Module):
    """A trunk, a tail, and between them whatever is to be tried."""

    def __init__(self, *tail):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.tail = nn.Sequential(*tail)
        self.fc = nn.Linear(tail[-1].out_channels, 4)

    def forward(self, x):
        return self.fc(self.tail(self.stem(x)).mean((2, 3)))


def test_layers_weigh_fewer_inputs_more():
    torch.manual_seed(0)
    model = Small(nn.Conv2d(8, 400, 3, padding=1), nn.GroupNorm(4, 400), nn.Conv2d(400, 100, 1))
    student = slim_network(model, Fraction(1, 4), "tail", torch.zeros(2, 3, 8, 8))
    first, norm, second = student.tail
    assert (first.out_channels, norm.num_channels, norm.num_groups, second.out_channels) == (100, 100, 4, 25)
    assert first.weight.std().item() == pytest.approx(model.tail[0].weight.std().item(), rel=0.05)
    assert second.weight.std().item() == pytest.approx(2 * model.tail[2].weight.std().item(), rel=0.05)
    assert student.fc.weight.std().item() == pytest.approx(2 * model.fc.weight.std().item(), rel=0.3)
    assert second.bias.abs().max() <= 1 / 20  # not scaled: PyTorch draws it by the full layer's 400 inputs


def test_attention_and_what_the_trunk_writes_into_keep_their_width():
    model = timm.create_model("vit_tiny_patch16_224", num_classes=6, img_size=32)
    student = slim_network(model, Fraction(1, 2), "blocks.6", torch.zeros(2, 3, 32, 32))
    kept, cut = model.blocks[7], student.blocks[7]
    assert cut.attn.qkv.weight.shape == kept.attn.qkv.weight.shape
    assert cut.mlp.fc2.weight.shape == (192, 384)
    assert student.blocks[5] is model.blocks[5]
    assert student.pos_embed is model.pos_embed


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        ((nn.Conv2d(8, 16, 3, groups=8), nn.Conv2d(16, 8, 1)), r"'tail.0' \(8 to 16 channels in 8 groups\)"),
        ((nn.AvgPool2d(2), nn.Conv2d(8, 1, 1)), "no channels from 'tail' on can be removed in Small"),
    ],
)
def test_what_cannot_be_slimmed_is_refused_in_one_line(tail, message):
    with pytest.raises(UserError, match=message) as caught:
        slim_network(Small(*tail), Fraction(1, 2), "tail", torch.zeros(2, 3, 8, 8))
    assert "\n" not in str(caught.value)


def test_a_network_that_the_library_cannot_follow_is_refused_in_one_line():
    model = torchvision.models.shufflenet_v2_x0_5(num_classes=6)
    with pytest.raises(UserError, match="which channels of ShuffleNetV2 depend on which") as caught:
        slim_network(model, Fraction(1, 2), "stage3", torch.zeros(2, 3, 64, 64))
    assert "\n" not in str(caught.value)


def test_the_models_dtype_is_kept():
    model = build("resnet8", 6).double()
    net = make_slimmable_ensemble(model, 2, example=torch.zeros(2, 3, 16, 16))
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float64}
