"""How auxiliary branches start, and what the gate reads."""

import warnings

import pytest
import timm
import torch
import torchvision
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

from coterie import UserError, branch
from coterie.methods import One, Task
from coterie.networks import NETWORKS, build
from coterie.networks.layers import classifiers
from coterie.networks.reinit import reinitialise
from coterie.networks.shapes import example_images, layout


def spreads(module):
    return {name: (p.mean().item(), p.std().item()) for name, p in module.named_parameters() if p.numel() > 500}


@pytest.mark.parametrize(
    "make",
    [
        lambda: timm.create_model("vit_tiny_patch16_224", num_classes=7, img_size=32, depth=2, drop_rate=0.2),
        lambda: timm.create_model("convnext_atto", num_classes=7, in_chans=1),
        lambda: torchvision.models.mobilenet_v3_small(num_classes=7),
        lambda: torchvision.models.vit_b_16(num_classes=7, image_size=32),
    ],
)
def test_a_librarys_own_object_starts_as_the_library_initialises_it(make):
    torch.manual_seed(0)
    model = make()
    trained = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(3.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        twin = reinitialise(model, "fresh")
    assert all(bool((p == 3).all()) for p in model.parameters())
    assert type(twin) is type(model)
    for name, value in twin.state_dict().items():
        if not value.is_floating_point() or value.numel() < 500:
            continue
        assert value.mean().item() == pytest.approx(trained[name].float().mean().item(), abs=0.02), name
        assert value.std().item() == pytest.approx(trained[name].float().std().item(), rel=0.2, abs=1e-6), name


def test_branches_differ_and_the_seed_decides():
    model = timm.create_model("vit_tiny_patch16_224", num_classes=7, img_size=32, depth=3)
    tails = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        tails.append([b.state_dict() for b in branch(model, 3, at="blocks.1").branches])
    key = "blocks.2.mlp.fc1.weight"
    assert not torch.equal(tails[0][0][key], tails[0][1][key])
    assert not torch.equal(tails[0][0][key], model.state_dict()[key])
    assert all(torch.equal(a[key], b[key]) for a, b in zip(tails[0], tails[1], strict=True))
    assert not torch.equal(tails[0][0][key], tails[2][0][key])


class Raw(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.block = nn.Conv2d(4, 4, 3)
        self.scale = nn.Parameter(torch.rand(4, 1, 1))
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc((self.block(self.stem(x)) * self.scale).mean((2, 3)))


def test_raw_parameters_of_a_users_own_model_are_copied_and_named():
    model = Raw()
    with pytest.warns(UserWarning, match="start as copies: scale;"):
        net = branch(model, 2, at="block", example=torch.zeros(2, 3, 8, 8))
    assert torch.equal(net.branches[0].scale, model.scale)
    assert net.branches[0].scale is not model.scale
    assert not torch.equal(net.branches[0].block.weight, model.block.weight)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        branch(model, 2, at="block", example=torch.zeros(2, 3, 8, 8), factory=Raw)


@pytest.mark.parametrize(
    ("make", "heads"),
    [
        (
            lambda: timm.create_model("deit_tiny_distilled_patch16_224", num_classes=7, img_size=32),
            ["head", "head_dist"],
        ),
        (lambda: timm.create_model("crossvit_tiny_240", num_classes=7), ["head.0", "head.1"]),
        (lambda: timm.create_model("mobilenetv3_small_050", num_classes=7), ["classifier"]),
        (lambda: torchvision.models.squeezenet1_1(num_classes=7), ["classifier.1"]),
        (lambda: torchvision.models.resnet18(num_classes=7), ["fc"]),
        (lambda: build("resnet8", 6), ["fc"]),
    ],
)
def test_a_copy_has_fresh_classifiers_and_nothing_else(make, heads):
    model = make()
    assert sorted(classifiers(model)) == heads
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(3.0)
    twin = reinitialise(model, "copy")
    fresh = {name for name, p in twin.named_parameters() if not bool((p == 3).all())}
    assert fresh == {f"{head}.{part}" for head in heads for part in ("weight", "bias")}


def test_layouts_are_told_by_what_moves_with_the_images():
    images = torch.zeros(2, 3, 32, 64)
    # channels last though the map is square in another pair of axes
    assert layout(torch.zeros(2, 8, 16, 16), images, torch.zeros(2, 4, 8, 16)) == (16, True)
    assert layout(torch.zeros(2, 16, 8, 16), images, torch.zeros(2, 16, 4, 8)) == (16, False)
    # a fixed size: by the images' proportions
    assert layout(torch.zeros(2, 7, 14, 768), torch.zeros(2, 3, 112, 224)) == (768, True)
    assert layout(torch.zeros(2, 14, 7, 768), torch.zeros(2, 3, 224, 112)) == (768, True)
    assert layout(torch.zeros(2, 768, 14, 7), torch.zeros(2, 3, 224, 112)) == (768, False)
    assert layout(torch.zeros(2, 7, 7, 768), torch.zeros(2, 3, 224, 224)) == (768, True)
    assert layout(torch.zeros(2, 197, 192), images) == (192, False)


@pytest.mark.parametrize(
    ("name", "at", "width", "size"),
    [
        ("swin_tiny_patch4_window7_224", "layers.3", 384, (112, 56)),
        ("convnext_atto", "stages.3", 160, (96, 64)),
        ("vit_tiny_patch16_224", "blocks.1", 192, (64, 32)),
        ("vit_srelpos_small_patch16_224", "blocks.1", 384, (32, 32)),
    ],
)
def test_the_gate_reads_maps_tokens_and_channels_last_maps(name, at, width, size):
    shallow = {"depth": 2} if "vit" in name else {"depths": (1, 1, 1, 1)}
    fixed = {} if "convnext" in name else {"img_size": size}
    model = timm.create_model(name, num_classes=5, **shallow, **fixed)
    net = branch(model, 2, at=at, example=torch.zeros(2, 3, *size))
    assert net.gate.linear.in_features == width
    output = net(torch.rand(3, 3, *size))
    assert output.weights.shape == (3, 2)
    # what is pooled away are the places: a gate in evaluation mode does not care in which order they come
    net.eval()
    features = net(torch.rand(3, 3, *size)).trunk
    turned = features.flip(1 if features.dim() == 3 else (1, 2) if net.gate.channels_last else (2, 3))
    torch.testing.assert_close(net.gate(turned), net.gate(features))
    assert net(torch.rand(1, 3, *size)).weights.shape == (1, 2)


def test_an_example_is_found_on_the_model():
    assert example_images(timm.create_model("vit_tiny_patch16_224", img_size=(32, 64)), None).shape == (2, 3, 32, 64)
    assert example_images(torchvision.models.vit_b_16(image_size=64), None).shape == (2, 3, 64, 64)
    assert example_images(timm.create_model("resnet18", in_chans=1), None).shape == (2, 1, 224, 224)
    assert example_images(Raw().double(), torch.zeros(1, 3, 8, 8)).shape == (2, 3, 8, 8)
    assert example_images(Raw().double(), torch.zeros(1, 3, 8, 8)).dtype == torch.float64


@pytest.mark.parametrize("share", [True, False])
def test_clones_answer_as_the_target_does(share):
    torch.manual_seed(0)
    model, images = build("resnet8", 6), torch.randn(4, 3, 16, 16)
    model(images)  # statistics that are no longer the initial ones
    net = branch(model, 3, example=images, init="clone", share=share)
    for mode in (True, False):
        logits = net.train(mode)(images).logits
        assert torch.equal(logits, logits[:, :1].expand_as(logits))
    assert net.branches[0].fc.weight is not model.fc.weight
    tree = branch(model, (2, 2), ("layer2", "layer3"), images, init="clone").eval()
    assert torch.equal(tree(images).logits, model.eval()(images)[:, None].expand(4, 4, 6))


def test_a_method_may_start_from_clones():
    method = One(network="resnet8", init="clone")
    (stage,) = method.stages(Task(10, 1, (16, 16)))
    logits = stage.network.eval()(torch.randn(4, 1, 16, 16)).logits
    assert torch.equal(logits, logits[:, :1].expand_as(logits))


def test_an_unknown_start_is_one_line():
    with pytest.raises(UserError, match="unknown init 'cloned'; did you mean 'clone'"):
        branch(build("resnet8", 6), 2, example=torch.zeros(2, 3, 16, 16), init="cloned")


class Logits(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model(pixel_values=images).logits


@pytest.mark.libraries
def test_hugging_faces_models_start_as_they_initialise_themselves():
    config = ViTConfig(
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=96,
        image_size=16,
        patch_size=4,
        num_labels=6,
    )
    model = Logits(ViTForImageClassification(config))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = branch(model, 2, "model.vit.layers.1", torch.zeros(2, 3, 16, 16))
        whole = reinitialise(model, "fresh")
    for twin in (net.branches[0], whole):
        for name, parameter in twin.named_parameters():
            if parameter.numel() > 500:
                assert parameter.std().item() == pytest.approx(0.02, rel=0.2), name
                assert not torch.equal(parameter, model.get_parameter(name))
    assert not torch.equal(whole.model.vit.embeddings.cls_token, model.model.vit.embeddings.cls_token)


class Kaiming(nn.Module):
    """Initialises its layers where it is built, and nowhere else."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(16))
        self.stem = nn.Conv2d(3, 16, 3)
        self.block = nn.Conv2d(16, 16, 3)
        self.fc = nn.Linear(16, 6)
        nn.init.kaiming_normal_(self.block.weight)

    def forward(self, x):
        return self.fc(self.block(self.stem(x) + self.table[:, None, None]).relu().mean((2, 3)))


class Initialises(Kaiming):
    def _init_weights(self, module):
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)


def test_where_layers_start_as_pytorchs_it_is_said_and_nowhere_else():
    example = torch.zeros(2, 3, 16, 16)
    with pytest.warns(UserWarning, match=r"not as the model did: block.weight with a spread of 0.04\d") as caught:
        branch(Kaiming(), 2, "block", example)
    assert caught[0].filename == __file__
    assert len(caught) == 1  # nothing of the table, which no branch holds
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = branch(Initialises(), 2, "block", example)
        branch(build("resnet8", 6), 2, example=torch.zeros(2, 3, 16, 16), factory=lambda: build("resnet8", 6))
    assert net.branches[0].block.weight.std().item() == pytest.approx((2 / 144) ** 0.5, rel=0.2)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in ("wrn-28-10", "densenet-bc-190-40")])
def test_our_own_networks_start_as_newly_built_ones_without_a_factory(name):
    torch.manual_seed(0)
    model = build(name, 10, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        twin = reinitialise(model, "fresh")
    for parameter, (_, spread) in spreads(model).items():
        weight = twin.get_parameter(parameter)
        assert weight.std().item() == pytest.approx(spread, rel=0.2, abs=1e-6), parameter
        assert spread == 0 or not torch.equal(weight, model.get_parameter(parameter))
