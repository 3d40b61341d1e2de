"""Students of several widths over one base: each is itself alone, the base runs and is named once."""

import copy
import pickle

import pytest
import timm
import torch
import torchvision
from torch import nn

from coterie import UserError
from coterie.methods.oem.slimmable import Adapters, make_slimmable_ensemble
from coterie.networks import build
from coterie.outputs import PeerOutput


def small(**options):
    torch.manual_seed(0)
    example = torch.randn(2, 3, 16, 16)
    return make_slimmable_ensemble(build("resnet8", 6).double(), 3, example=example, **options)


def images(count=4):
    return torch.randn(count, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_every_student_is_itself_alone_and_the_mean_is_the_ensemble():
    net = small()
    for mode in (True, False):
        twins = [copy.deepcopy(student).train(mode) for student in net.students]
        output = net.train(mode)(images())
        assert isinstance(output, PeerOutput)
        for index, twin in enumerate(twins):
            assert torch.equal(output.logits[:, index], twin(images()))
        torch.testing.assert_close(output.ensemble, output.logits.mean(1))
        assert output.weights is None
    # the base's statistics moved once, as the network's alone do
    assert torch.equal(net.target.bn1.running_mean, twins[0].bn1.running_mean)
    assert net.target.bn1.num_batches_tracked == 1


def test_the_base_runs_once():
    net = small()
    calls = []
    net.target.conv1.register_forward_hook(lambda *_: calls.append("base"))
    net.students[2].layer1.register_forward_hook(lambda *_: calls.append("tail"))
    net(images())
    assert calls == ["base", "tail"]


def test_modes_reach_every_module_of_every_student():
    net = small()
    for mode in (False, True):
        net.train(mode)
        assert {module.training for student in net.students for module in student.modules()} == {mode}


def test_the_state_names_no_tensor_twice_and_copies_are_whole():
    net = small().eval()
    state = net.state_dict()
    assert not any(name.startswith("students.1.conv1") for name in state)
    assert list(net.students[1].state_dict()) == [
        *(key for key in build("resnet8", 6).slim(2 / 3, "layer1").state_dict())
    ]
    tensors = [tensor.data_ptr() for tensor in state.values() if tensor.dim()]
    assert len(tensors) == len(set(tensors))
    owned = sum(parameter.numel() for parameter in net.parameters())
    base = sum(parameter.numel() for part in (net.target.conv1, net.target.bn1) for parameter in part.parameters())
    assert owned == sum(p.numel() for student in net.students for p in student.parameters()) - 2 * base
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin(images()).logits, net(images()).logits)
        assert twin.students[2].conv1 is twin.target.conv1
        assert twin.target is not net.target
    other = small().eval()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    holder = nn.ModuleDict({"net": other})
    holder.load_state_dict({f"net.{name}": tensor for name, tensor in state.items()})
    assert torch.equal(other(images()).logits, net(images()).logits)
    moved = copy.deepcopy(net).to(torch.float32)
    assert list(moved.state_dict()) == list(state)
    torch.testing.assert_close(moved(images().float()).logits, net(images()).logits.float())


@pytest.mark.parametrize("who", ["all", "pseudo-teacher"])
def test_whose_gradients_reach_the_base(who):
    net = small(base_gradient=who).eval()
    net(images()).logits.square().sum().backward()
    twins = [copy.deepcopy(student) for student in net.students]
    for twin in twins:
        twin.zero_grad()
        twin(images()).square().sum().backward()
    expected = twins[0].conv1.weight.grad
    if who == "all":
        expected = sum(twin.conv1.weight.grad for twin in twins)
    torch.testing.assert_close(net.target.conv1.weight.grad, expected)
    for student, twin in zip(net.students, twins, strict=True):
        torch.testing.assert_close(student.fc.weight.grad, twin.fc.weight.grad)
        torch.testing.assert_close(student.layer1[0].conv1.weight.grad, twin.layer1[0].conv1.weight.grad)


def test_the_papers_networks_give_their_three_stages():
    net = small()
    assert (net.at, net.blocks) == ("layer1", ("layer1", "layer2", "layer3"))
    maps = net.eval()(images()).blocks
    assert [tuple(value.shape[1:]) for value in maps[0]] == [(16, 16, 16), (32, 8, 8), (64, 4, 4)]
    assert [value.shape[1] for value in maps[2]] == [5, 10, 21]
    student = net.students[2]
    first = student.layer1(student.relu(student.bn1(student.conv1(images()))))
    torch.testing.assert_close(maps[2][0], first)
    torch.testing.assert_close(maps[2][1], student.layer2(first))
    upper = make_slimmable_ensemble(build("resnet8", 6), 2, "layer2", torch.zeros(2, 3, 16, 16))
    assert upper.blocks == ("layer2", "layer3")
    dense = make_slimmable_ensemble(build("densenet-bc-100-12", 6), 2, example=torch.zeros(2, 3, 8, 8))
    assert (dense.at, dense.blocks) == ("dense1", ("trans1", "trans2", "dense3"))


@pytest.mark.parametrize(
    ("model", "at", "blocks"),
    [
        (lambda: torchvision.models.resnet18(num_classes=6), "layer2", ("layer2", "layer3", "layer4")),
        (
            lambda: torchvision.models.mobilenet_v2(num_classes=6),
            "features.4",
            ("features.10", "features.14", "features.18"),
        ),
    ],
)
def test_other_networks_are_divided_into_four_parts_of_about_equal_flops(model, at, blocks):
    net = make_slimmable_ensemble(model(), 2, example=torch.zeros(2, 3, 64, 64), factory=model)
    assert (net.at, net.blocks) == (at, blocks)


class InPlace(nn.Module):
    """Its tail overwrites what the base gives."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(4, 8, 3)
        self.fc = nn.Linear(8, 2)

    def forward(self, x):
        return self.fc(self.conv(self.relu(self.stem(x))).mean((2, 3)))


def test_tails_that_work_in_place_do_not_disturb_each_other():
    torch.manual_seed(0)
    net = make_slimmable_ensemble(InPlace(), 2, "relu", torch.randn(2, 3, 8, 8))
    assert net.in_place
    assert net.blocks == ("conv",)
    net.eval()
    x = torch.randn(3, 3, 8, 8)
    seen = []
    net.target.stem.register_forward_hook(lambda _, __, value: seen.append(value))
    output = net(x)
    assert (seen[0] < 0).any()
    assert torch.equal(output.logits[:, 1], net.students[1](x))


def test_a_cut_above_all_feature_maps_is_refused():
    with pytest.raises(UserError, match="no feature maps are computed from 'fc' on"):
        make_slimmable_ensemble(InPlace(), 2, "fc", torch.zeros(2, 3, 8, 8))
    with pytest.raises(UserError, match="no module 'layer9'"):
        make_slimmable_ensemble(InPlace(), 2, "layer9", torch.zeros(2, 3, 8, 8))
    with pytest.raises(UserError, match="at least one"):
        make_slimmable_ensemble(InPlace(), 0, "relu", torch.zeros(2, 3, 8, 8))


def test_adapters_read_each_slimmer_students_maps_as_the_widest_ones():
    net = small().eval()
    adapters = Adapters(net, torch.zeros(2, 3, 16, 16)).double()
    assert [[layer.weight.shape[:2] for layer in layers] for layers in adapters.layers] == [
        [(16, 10), (32, 21), (64, 42)],
        [(16, 5), (32, 10), (64, 21)],
    ]
    wide, *others = net(images()).blocks
    adapted = adapters(others)
    assert [[a.shape == w.shape for a, w in zip(own, wide, strict=True)] for own in adapted] == [[True] * 3] * 2
    layer = adapters.layers[1][2]
    expected = torch.einsum("oi,bihw->bohw", layer.weight[:, :, 0, 0], others[1][2]) + layer.bias[:, None, None]
    torch.testing.assert_close(adapted[1][2], expected)


def test_adapters_of_token_sequences_act_on_their_last_dimension():
    model = timm.create_model("vit_tiny_patch16_224", num_classes=6, img_size=32, depth=4)
    net = make_slimmable_ensemble(model, 2, example=torch.zeros(2, 3, 32, 32), factory=lambda: copy.deepcopy(model))
    adapters = Adapters(net, torch.zeros(2, 3, 32, 32))
    wide, *others = net(torch.zeros(2, 3, 32, 32)).blocks
    assert [value.shape for value in adapters(others)[0]] == [value.shape for value in wide]
