import copy
import pickle

import pytest
import timm
import torch
import torchvision
from torch import nn

from coterie import UserError, branch
from coterie.networks import build
from coterie.peers import split_points


def small(name, **options):
    if name.startswith("tv/"):
        return torchvision.models.get_model(name[3:], num_classes=6, **options)
    if name.startswith("timm/"):
        return timm.create_model(name[5:], num_classes=6, drop_rate=0.1, **options)
    return build(name, 6)


NETWORKS = {
    "resnet8": "layer3",
    "resnext29-8x64d": "layer3",
    "densenet-bc-100-12": "dense3",
    "timm/resnet10t": "layer4",
    "tv/shufflenet_v2_x0_5": "stage4",
    "tv/mobilenet_v2": "features.14",
    "timm/convnext_atto": "stages.3",
    "timm/vit_tiny_patch16_224": "blocks.8",
}


@pytest.mark.parametrize("name", NETWORKS)
def test_branch_zero_is_the_model_in_both_modes(name):
    torch.manual_seed(0)
    model = small(name)
    before = list(model.state_dict())
    attributes = set(vars(model))
    images = torch.randn(2, 3, 224 if "vit" in name else 64, 224 if "vit" in name else 64)
    net = branch(model, 2, example=images)
    if NETWORKS[name] is not None:
        assert net.at == (NETWORKS[name],)
    assert net.target is model
    assert list(model.state_dict()) == before
    assert set(vars(model)) == attributes
    for mode in (True, False):
        net.train(mode)
        twin = copy.deepcopy(model)
        torch.manual_seed(1)
        expected = twin(images)
        torch.manual_seed(1)
        got = net(images).logits[:, 0]
        assert torch.equal(expected, got)
        # and the statistics that batch norm gathered are the same
        assert all(torch.equal(a, b) for a, b in zip(twin.buffers(), model.buffers(), strict=True))


def test_gradients_of_the_target_are_the_models():
    torch.manual_seed(0)
    model = build("resnet8", 6).double()
    twin = copy.deepcopy(model)
    images = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    net = branch(model, 3, example=images)
    net(images).logits[:, 0].square().sum().backward()
    twin(images).square().sum().backward()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


def test_state_dict_names_no_tensor_twice_and_copies_are_whole():
    net = branch(build("resnet8", 6), 3, example=torch.zeros(2, 3, 16, 16))
    tensors = [tensor.data_ptr() for tensor in net.state_dict().values() if tensor.dim()]
    assert len(tensors) == len(set(tensors))
    assert any(name.startswith("gate.") for name, _ in net.named_parameters())
    images = torch.randn(3, 3, 16, 16)
    net.eval()
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin(images).ensemble, net(images).ensemble)
        assert twin.target is not net.target
    moved = copy.deepcopy(net).to(torch.float64)
    assert moved(images.double()).logits.dtype == torch.float64
    assert all(b.dtype == torch.float64 for b in moved.buffers() if b.is_floating_point())


def test_the_target_loads_strictly_into_a_plain_model():
    net = branch(build("timm/resnet10t", 6), 2, example=torch.zeros(2, 3, 64, 64))
    plain = timm.create_model("resnet10t", num_classes=6)
    plain.load_state_dict(net.target.state_dict())
    assert type(plain) is type(net.target)


def test_branches_differ_and_copies_do_not():
    torch.manual_seed(0)
    example = torch.randn(2, 3, 16, 16)
    fresh = branch(build("resnet8", 6), 3, example=example).eval()
    logits = fresh(example).logits
    assert not torch.equal(logits[:, 1], logits[:, 2])
    model = build("resnet8", 6)
    copied = branch(model, 2, example=example, init="copy")
    assert torch.equal(copied.branches[0].get_submodule("layer3.0.conv1").weight, model.layer3[0].conv1.weight)
    assert not torch.equal(copied.branches[0].fc.weight, model.fc.weight)


def test_any_named_module_can_begin_the_tail():
    example = torch.zeros(2, 3, 16, 16)
    two_stages = branch(build("resnet8", 6), 2, at="layer2", example=example)
    assert two_stages.gate.linear.in_features == 16
    assert hasattr(two_stages.branches[0], "layer2")
    assert not hasattr(branch(build("resnet8", 6), 2, example=example).branches[0], "layer2")
    with pytest.raises(UserError, match="did you mean 'layer3'"):
        branch(build("resnet8", 6), 2, at="layer9", example=example)
    with pytest.raises(UserError, match="nothing comes before"):
        branch(build("resnet8", 6), 2, at="conv1", example=example)


def test_cuts_are_listed_with_their_share():
    points = {point.at: point for point in split_points(build("resnet8", 6), torch.zeros(2, 3, 32, 32))}
    assert 0 < points["layer3"].flops < points["layer2"].flops < 1
    assert [at for at, point in points.items() if point.default] == ["layer3"]


def test_without_sharing_every_branch_is_a_whole_network():
    net = branch(build("resnet8", 6), 3, example=torch.zeros(2, 3, 16, 16), share=False)
    assert [type(peer) for peer in net.branches] == [type(net.target)] * 2
    assert net(torch.randn(4, 3, 16, 16)).logits.shape == (4, 3, 6)


class InPlace(nn.Module):
    """Its tail overwrites what crosses the split."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(self.relu(self.stem(x)).mean((2, 3)))


def test_tails_that_work_in_place_do_not_disturb_each_other():
    torch.manual_seed(0)
    model = InPlace()
    net = branch(model, 2, at="relu", example=torch.randn(2, 3, 8, 8))
    assert net.in_place
    images = torch.randn(5, 3, 8, 8)
    net.eval()
    features = model.stem(images)
    torch.testing.assert_close(net(images).trunk, features)
    expected = net.branches[0].fc(features.relu().mean((2, 3)))
    torch.testing.assert_close(net(images).logits[:, 1], expected)


class Resists(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x):
        return self.fc(x.mean((2, 3))) if x.sum() > 0 else self.fc(x.amax((2, 3)))


def test_a_model_that_cannot_be_traced_is_refused_in_one_line():
    with pytest.raises(UserError, match=r"Resists cannot be split at fc: .*py:\d+.* cannot be traced") as caught:
        branch(Resists(), 2, at="fc", example=torch.zeros(2, 3, 8, 8))
    assert "\n" not in str(caught.value)


def test_the_models_mode_and_statistics_are_left_alone():
    model = build("resnet8", 6).eval()
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(5)
    state = torch.get_rng_state()
    branch(model, 1, example=torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    assert not model.training
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    assert state.shape == torch.get_rng_state().shape
