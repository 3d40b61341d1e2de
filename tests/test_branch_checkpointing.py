"""Activation checkpointing goes on in a branched network: as many gradients, and as little memory for them."""

import copy
from functools import partial

import pytest
import timm
import torch
import torch.utils.checkpoint
import torchvision
from torch import nn
from torch.utils.checkpoint import checkpoint as recomputed
from transformers import ViTConfig, ViTForImageClassification

from coterie import UserError, branch
from coterie.losses import one
from coterie.peers.independent import Separate

SIZE = 32


def images():
    return torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


class Logits(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).logits


def block(width):
    """Its ReLUs work in place, on what the layers before them give."""
    layers = []
    for _ in range(3):
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class Blocks(nn.Module):
    """Its blocks are checkpointed in one of several spellings."""

    def __init__(self, spelling):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.blocks = nn.ModuleList(block(8) for _ in range(4))
        self.fc = nn.Linear(8, 10)
        self.spelling = spelling
        self.held = partial(torch.utils.checkpoint.checkpoint, use_reentrant=False)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            if self.spelling is None or not self.training:
                x = block(x)
            elif self.spelling == "attribute":
                x = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False)
            elif self.spelling == "imported":
                x = recomputed(block, x, use_reentrant=False)
            elif self.spelling == "reentrant":
                x = recomputed(block, x, use_reentrant=True)
            elif self.spelling == "held":
                x = self.held(block, x)
            elif self.spelling == "where gradients are wanted":
                x = recomputed(block, x, use_reentrant=False) if torch.is_grad_enabled() else block(x)
            elif self.spelling == "function":
                x = recomputed(lambda x, block=block: block[3:](block[:3](x)).tanh(), x, use_reentrant=False)
        return self.fc(x.mean((2, 3)))


SPELLINGS = ["attribute", "imported", "reentrant", "held", "where gradients are wanted", "function"]


def kept_by(net):
    """How many numbers a forward keeps for the backward, and the gradients."""
    kept = []
    net.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda x: x):
        loss = one(net(images()), torch.tensor([0, 3, 5, 1])).total
    loss.backward()
    return sum(kept), [parameter.grad for parameter in net.parameters()]


def twins(make, checkpointing, at):
    """A branched network with checkpointing, and the same without."""
    torch.manual_seed(0)
    plain = make()
    model = copy.deepcopy(plain)
    checkpointing(model)
    nets = []
    for each in (model, plain):
        torch.manual_seed(1)
        nets.append(branch(each, 2, at, images(), init="copy").train())
    nets[1].load_state_dict(nets[0].state_dict())
    return nets


def set_spelling(spelling):
    return lambda model: setattr(model, "spelling", spelling)


@pytest.mark.parametrize(
    ("spelling", "at"),
    [*((spelling, "blocks.2") for spelling in SPELLINGS), ("imported", "blocks.2.2"), ("imported", "blocks.2.3")],
)
def test_whatever_the_forward_calls_checkpoint_by(spelling, at):
    net, plain = twins(lambda: Blocks(None), set_spelling(spelling), at)
    if spelling == "function":
        twin = copy.deepcopy(net.target)
        torch.testing.assert_close(net(images()).logits[:, 0], twin(images()))
        kept_by(net)
        return
    (kept, got), (everything, expected) = kept_by(net), kept_by(plain)
    torch.testing.assert_close(got, expected)
    assert kept < 0.4 * everything
    for ours, theirs in zip(net.target.buffers(), plain.target.buffers(), strict=True):
        assert ours.shape == theirs.shape


class Body(nn.Module):
    """One checkpointed sequence, which the root itself calls."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        return self.fc(torch.utils.checkpoint.checkpoint(self.body, self.stem(x), use_reentrant=False).mean((2, 3)))


@pytest.mark.parametrize("at", ["body", "body.1", "body.2", "fc"])
def test_a_cut_inside_a_checkpointed_sequence_that_works_in_place(at):
    torch.manual_seed(0)
    model = Body()
    twin = copy.deepcopy(model)
    net = branch(model, 2, at, images())
    net(images()).logits[:, 0].square().sum().backward()
    twin(images()).square().sum().backward()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def small_densenet(**options):
    return torchvision.models.DenseNet(4, (2, 2, 3, 3), 8, num_classes=10, **options)


def densenets_layers(model):
    for module in model.modules():
        if hasattr(module, "memory_efficient"):
            module.memory_efficient = True


def small_vit():
    return timm.create_model("vit_tiny_patch16_224", num_classes=10, img_size=SIZE, patch_size=4, depth=4)


def hugging_faces_vit():
    config = ViTConfig(
        hidden_size=24,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=48,
        image_size=SIZE,
        patch_size=4,
        num_labels=10,
        attn_implementation="eager",
    )
    return Logits(ViTForImageClassification(config))


def enable(model):
    named = hasattr(model.model, "activation_checkpointing_enable")  # since Transformers 5.24
    getattr(model.model, "activation_checkpointing_enable" if named else "gradient_checkpointing_enable")()


LIBRARIES = {
    "DenseNet": (small_densenet, densenets_layers, "features.denseblock4", 0.9),
    "timm's ViT": (small_vit, lambda model: model.set_grad_checkpointing(), "blocks.2", 0.3),
    "timm's ResNet": (
        lambda: timm.create_model("resnet10t", num_classes=10),
        lambda model: model.set_grad_checkpointing(),
        "layer3",
        0.6,
    ),
    "Hugging Face's ViT": (hugging_faces_vit, enable, "model.vit.layers.2", 0.4),
}


@pytest.mark.libraries
@pytest.mark.parametrize("name", LIBRARIES)
def test_that_of_the_libraries(name):
    make, checkpointing, at, share = LIBRARIES[name]
    net, plain = twins(make, checkpointing, at)
    calls = []
    for module in net.target.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda module, *_: calls.append(module))
    (kept, got), (everything, expected) = kept_by(net), kept_by(plain)
    torch.testing.assert_close(got, expected)
    assert kept < share * everything
    assert max(map(calls.count, calls), default=0) <= 2  # nothing is computed a third time


def test_networks_side_by_side_checkpoint_too():
    torch.manual_seed(0)
    sums = {}
    for spelling in (None, "imported"):
        peers = Separate([Blocks(spelling), Blocks(spelling)], features=True).train()
        kept = []
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda x, kept=kept: kept.append(x.numel()) or x, lambda x: x)
        with hooks:
            output = peers(images())
        output.logits.sum().backward()
        assert output.features[1].shape == (4, 8)
        assert all(parameter.grad is not None for parameter in peers.parameters())
        sums[spelling] = sum(kept)
    assert sums["imported"] < 0.4 * sums[None]


class Decides(Blocks):
    def forward(self, x):
        return super().forward(x) if x.sum() != 0 else self.fc(x.mean((2, 3)))


def test_what_cannot_be_kept_is_refused_in_one_line():
    transformer = hugging_faces_vit()
    enable(transformer)
    inside_layers = {
        "blocks.2": Decides("imported"),
        "features.denseblock4.denselayer2.norm2": small_densenet(memory_efficient=True),
        "model.vit.layers.2.mlp": transformer,
    }
    for at, model in inside_layers.items():
        with pytest.raises(UserError, match="activations are checkpointed around '.*'; switch that off") as caught:
            branch(model, 2, at, images())
        assert "\n" not in str(caught.value)


class OfItself(nn.Sequential):
    """Checkpoints wherever it is called, as Hugging Face's layers did before their fifth version."""

    def __call__(self, x):
        return recomputed(super().__call__, x, use_reentrant=False)


def test_a_module_that_checkpoints_itself_is_computed_twice_and_not_three_times():
    model = Blocks(None)
    model.blocks = nn.ModuleList(OfItself(*each) for each in model.blocks)
    net = branch(model, 2, "blocks.2", images()).train()
    calls = []
    model.blocks[1][0].register_forward_hook(lambda *_: calls.append(1))
    kept, _ = kept_by(net)
    assert len(calls) == 2
    twin = branch(Blocks(None), 2, "blocks.2", images()).train()
    assert kept < 0.4 * kept_by(twin)[0]


def test_compiled_it_computes_the_same():
    torch._dynamo.reset()
    plain = Blocks(None)
    for block in plain.blocks:
        block[1] = block[4] = block[7] = nn.Identity()  # torch itself compiles no batch norm that is checkpointed
    net, _ = twins(lambda: plain, set_spelling("imported"), "blocks.2")
    twin = copy.deepcopy(net)
    _, expected = kept_by(twin)
    net.compile(backend="eager")
    loss = one(net(images()), torch.tensor([0, 3, 5, 1])).total
    loss.backward()
    torch.testing.assert_close([p.grad for p in net.parameters()], expected)
