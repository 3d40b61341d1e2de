"""Where a network can be split, and which point is the default."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from coterie import UserError, branch
from coterie.networks import build
from coterie.peers import split_points

# What the field calls each network's last stage; for networks without stages, the last third of the blocks.
DEFAULTS = {
    "timm/resnet18": "layer4",
    "timm/resnet50": "layer4",
    "timm/mobilenetv3_small_100": "blocks.4",
    "timm/efficientnet_b0": "blocks.5",
    "timm/convnext_atto": "stages.3",
    "timm/regnetx_002": "s4",
    "timm/densenet121": "features.transition3",
    "timm/vgg16": "features.24",
    "timm/swin_tiny_patch4_window7_224": "layers.3",
    "timm/vit_tiny_patch16_224": "blocks.8",
    "timm/deit_tiny_patch16_224": "blocks.8",
    "timm/mixer_s32_224": "blocks.5",
    "timm/levit_128s": "stages.2",
    "timm/maxvit_rmlp_pico_rw_256": "stages.3",
    "timm/coatnet_0_rw_224": "stages.3",
    "timm/edgenext_xx_small": "stages.3",
    "timm/coat_tiny": "parallel_blocks.5",
    "timm/pit_ti_224": "transformers.2",
    "timm/cait_xxs24_224": "blocks.16",
    "torchvision/resnet18": "layer4",
    "torchvision/mobilenet_v2": "features.14",
    "torchvision/densenet121": "features.transition3",
    "torchvision/vgg16": "features.24",
    "torchvision/swin_t": "features.6",
    "torchvision/convnext_tiny": "features.6",
    "torchvision/vit_b_16": "encoder.layers.encoder_layer_8",
    "torchvision/squeezenet1_1": "features.9",
    "torchvision/googlenet": "inception5a",
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_default_split_is_the_last_stage(name):
    library, _, bare = name.partition("/")
    with torch.device("meta"):
        if library == "timm":
            model = timm.create_model(bare)
        else:
            model = torchvision.models.get_model(bare, **({"aux_logits": False} if bare == "googlenet" else {}))
    points = split_points(model)
    (default,) = (point for point in points if point.default)
    assert default.at == DEFAULTS[name]
    assert 0.05 <= default.flops <= 0.75
    assert 0 < default.parameters <= 1


def test_shares_fall_along_the_forward():
    points = split_points(build("resnet20", 6), torch.zeros(2, 3, 32, 32))
    shares = [point.flops for point in points]
    assert shares == sorted(shares, reverse=True)
    layers = {point.at: point for point in points}
    # 3 stages of 3 blocks of 2 convolutions of equal FLOPs, the first of a later stage with half of them
    assert layers["layer3"].flops == pytest.approx(0.31, abs=0.02)
    model = build("resnet20", 6)
    held = sum(p.numel() for part in (model.layer3, model.fc) for p in part.parameters())
    assert layers["layer3"].parameters == pytest.approx(held / sum(p.numel() for p in model.parameters()))


def test_a_wrong_cut_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="unknown module 'blocks.21'; did you mean 'blocks.2'"):
        branch(Blocks(), 2, at="blocks.21", example=torch.zeros(2, 3, 8, 8))


class Blocks(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(6))
        self.fc = nn.Linear(3, 2)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.fc(x.mean((2, 3)))


def test_without_stages_a_third_of_the_flops():
    assert branch(Blocks(), 2, example=torch.zeros(2, 3, 8, 8)).at == ("blocks.4",)


def test_a_network_that_cannot_be_cut_says_so():
    with pytest.raises(UserError, match="runs no module after another"):
        branch(nn.Linear(8, 2), 2, example=torch.zeros(2, 3, 8, 8))
