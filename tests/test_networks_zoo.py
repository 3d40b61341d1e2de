"""Networks by name: names, libraries, weights files, errors. Nothing here reaches for the network."""

import logging
import runpy
import sys
import urllib.error

import pytest
import timm
import torch
import torchvision
from torch import nn

from coterie import UserError
from coterie.data.transforms import before_crop
from coterie.networks import NETWORKS, Backbone, build, libraries, names, zoo
from coterie.networks.zoo import Preprocessing

pytestmark = pytest.mark.libraries


def tiny(num_classes, in_channels):
    return nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))


def published(monkeypatch, network):
    """Let torchvision "download" the weights of ``network``."""
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *a, **k: network.state_dict())
    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", lambda *a, **k: network.state_dict())


# Names


def test_names():
    assert names() == list(NETWORKS)
    everything = names(everything=True)
    assert {"resnet32", "timm/resnet18", "torchvision/resnet18", "timm/vit_tiny_patch16_224"} <= set(everything)
    assert len(everything) == len(set(everything))
    assert not [name for name in everything if "fasterrcnn" in name or "video" in name or "raft" in name]
    assert all("\n" not in entry.summary and entry.summary for entry in NETWORKS.values())


@pytest.mark.parametrize(
    ("wrong", "suggestions"),
    [
        ("resnet18", ["'timm/resnet18'", "'torchvision/resnet18'", "'resnet8'"]),
        ("resnet33", ["'resnet32'"]),
        ("densenet-bc-100", ["'densenet-bc-100-12'"]),
        ("timm/resnet32", ["'resnet32'"]),
        ("timm/resnet18x", ["'timm/resnet18'"]),
        ("resnt18", ["'timm/resnet18'", "'torchvision/resnet18'", "'resnet8'"]),
        ("mobilenetv3_lage_100", ["'timm/mobilenetv3_large_100'"]),
        ("torchvision/resnet81", ["'torchvision/resnet18'"]),
        ("timm/resnet18.no_such_tag", ["'timm/resnet18"]),
        ("elsewhere/resnet18", ["'timm/resnet18'"]),
    ],
)
def test_unknown_names_suggest_the_nearest(wrong, suggestions):
    with pytest.raises(UserError) as caught:
        build(wrong)
    message = str(caught.value)
    assert message.startswith(f"unknown network '{wrong}'; did you mean ")
    assert "\n" not in message
    assert all(suggestion in message for suggestion in suggestions)


def test_a_name_like_no_other_lists_some():
    with pytest.raises(UserError, match="known: .*densenet-bc-100-12"):
        build("~")


@pytest.mark.parametrize("module", [libraries, zoo])
def test_the_libraries_are_not_imported_before_they_are_needed(module, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)  # an import of it now fails
    monkeypatch.setitem(sys.modules, "torchvision", None)
    runpy.run_path(module.__file__)
    assert build("resnet8").fc.out_features == 10


# The user's own


def test_a_factory_is_called_with_classes_and_channels():
    network = Backbone.of(tiny)
    first, second = network.build(6, 2), network.build_fresh(6, 2)
    assert first(torch.zeros(1, 2, 8, 8)).shape == (1, 6)
    assert not torch.equal(first[0].weight, second[0].weight)


def test_own_module_is_given_as_it_is_and_cannot_be_built_anew():
    model = tiny(2, 3)
    assert Backbone.of(model).build(2, 3, (8, 8)) is model
    with pytest.raises(UserError, match="give a factory"):
        Backbone.of(model).build_fresh(2, 3)


def test_of_leaves_a_network_as_it_is():
    network = Backbone("resnet8", weights="some.safetensors")
    assert Backbone.of(network) is network
    assert Backbone.of("resnet8") == Backbone("resnet8")


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Backbone(7), "neither a name, a module nor a factory"),
        (Backbone(lambda num_classes, in_channels: "net"), "gave a str"),
        (Backbone(lambda classes: tiny(classes, 3)), "let it take num_classes= and in_channels="),
        (Backbone(tiny, pretrained=True), "no published weights"),
        (Backbone(tiny(2, 3), pretrained=True), "no published weights"),
        (Backbone(tiny(2, 3), weights="w.safetensors"), "load it into the module"),
        (Backbone("resnet8", pretrained=True), "'resnet8' has no published weights; use weights='FILE.safetensors'"),
        (Backbone("timm/resnet18", pretrained=True, weights="w.safetensors"), "exclude each other"),
    ],
)
def test_what_cannot_be_built_is_said(network, message):
    with pytest.raises(UserError, match=message) as caught:
        network.build(2, 3)
    assert "\n" not in str(caught.value)


# timm and torchvision


@pytest.mark.parametrize(
    ("name", "image_size"),
    [
        ("timm/resnet10t", (33, 17)),
        ("timm/resnet18.a1_in1k", (32, 32)),
        ("timm/vit_tiny_patch16_224", (32, 48)),
        ("torchvision/resnet18", (28, 28)),
        ("torchvision/squeezenet1_1", (32, 32)),
        ("torchvision/shufflenet_v2_x0_5", (33, 17)),
        ("torchvision/vit_b_32", (32, 32)),
    ],
)
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_library_networks_take_classes_channels_and_size(name, image_size, channels):
    model = build(name, 7, channels, image_size=image_size)
    assert model(torch.randn(2, channels, *image_size)).shape == (2, 7)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_heads_are_left_out(name):
    model = build(f"torchvision/{name}", 4, 1).train()
    logits = model(torch.randn(2, 1, 80, 80))
    assert logits.shape == (2, 4)
    assert not [key for key in model.state_dict() if key.lower().startswith("aux")]


def test_library_networks_are_the_libraries_own():
    ours, theirs = build("timm/resnet18", 10), timm.create_model("resnet18", num_classes=10)
    assert type(ours) is type(theirs)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    ours, theirs = build("torchvision/resnet18", 10, 1), torchvision.models.resnet18(num_classes=10)
    assert type(ours) is type(theirs)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert ours.conv1.in_channels == 1
    assert ours.conv1.weight.std().item() == pytest.approx(theirs.conv1.weight.std().item(), rel=0.1)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("torchvision/vit_b_16", (32, 64), "square images.*image_size=64"),
        ("torchvision/vit_b_16", (40, 40), "40x40 pixels .*; set another image_size"),
        ("torchvision/maxvit_t", (100, 100), "100x100 pixels .*; set another image_size"),
        ("torchvision/alexnet", (32, 32), "32x32 pixels .*; set another image_size"),
        ("timm/botnet26t_256", (28, 28), "28x28 pixels .*; set another image_size"),
        ("timm/resnet18", (4, 4), "too small"),
    ],
)
def test_sizes_that_do_not_fit_are_said(name, size, message):
    with pytest.raises(UserError, match=message) as caught:
        build(name, image_size=size)
    assert "\n" not in str(caught.value)


# Published weights


def test_published_weights_take_another_classifier_and_other_channels(monkeypatch, caplog):
    theirs = torchvision.models.shufflenet_v2_x0_5()
    published(monkeypatch, theirs)
    with caplog.at_level(logging.INFO, "coterie"):
        grey = build("torchvision/shufflenet_v2_x0_5", 6, 1, pretrained=True)
    assert "1000 classes is replaced by a fresh one of 6" in caplog.text
    assert grey.fc.out_features == 6
    assert torch.equal(grey.stage2[0].branch1[0].weight, theirs.stage2[0].branch1[0].weight)
    torch.testing.assert_close(grey.conv1[0].weight, theirs.conv1[0].weight.sum(1, keepdim=True))
    four = build("torchvision/shufflenet_v2_x0_5", 6, 4, pretrained=True)
    torch.testing.assert_close(four.conv1[0].weight[:, 3], theirs.conv1[0].weight[:, 0] * 3 / 4)
    caplog.clear()
    same = build("torchvision/shufflenet_v2_x0_5", 1000, pretrained=True)
    assert torch.equal(same.fc.weight, theirs.fc.weight)
    assert caplog.text == ""
    fresh = Backbone("torchvision/shufflenet_v2_x0_5", pretrained=True).build_fresh(1000, 3)
    assert not torch.equal(fresh.fc.weight, theirs.fc.weight)


def test_published_convolutional_classifier_is_replaced(monkeypatch):
    published(monkeypatch, torchvision.models.squeezenet1_1())
    model = build("torchvision/squeezenet1_1", 6, pretrained=True)
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 6)


def test_published_inception_is_for_training_on_grey_images(monkeypatch):
    published(monkeypatch, torchvision.models.googlenet(init_weights=False))
    model = build("torchvision/googlenet", 6, 1, pretrained=True).train()
    assert model(torch.randn(2, 1, 64, 64)).shape == (2, 6)


def test_published_weights_of_a_fixed_size():
    with pytest.raises(UserError, match="for 224x224 pixels, not 32x32; set image_size=224"):
        build("torchvision/vit_b_16", image_size=(32, 32), pretrained=True)


def unreachable(*arguments, **options):
    raise urllib.error.URLError("no route to host")


def test_weights_that_cannot_be_fetched(monkeypatch):
    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", unreachable)
    with pytest.raises(UserError, match=r"'torchvision/resnet18'.*no route.*weights='FILE") as caught:
        build("torchvision/resnet18", pretrained=True)
    assert "\n" not in str(caught.value)


def test_weights_of_timm_that_cannot_be_fetched(monkeypatch):
    def silent(*arguments, **options):
        raise OSError  # with no message at all

    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_hf", silent)
    with pytest.raises(UserError, match=r"'timm/resnet18'.*\(OSError\).*weights='FILE"):
        build("timm/resnet18", pretrained=True)


def test_weights_that_were_never_published():
    with pytest.raises(UserError, match="cannot be had .RuntimeError: No pretrained weights exist"):
        build("timm/cspresnet50d", pretrained=True)


def test_published_weights_of_timm(monkeypatch, caplog):
    theirs = timm.create_model("resnet10t")
    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_hf", lambda *a, **k: theirs.state_dict())
    model = build("timm/resnet10t", 6, 1, pretrained=True, image_size=(32, 32))
    assert torch.equal(model.layer1[0].conv1.weight, theirs.layer1[0].conv1.weight)
    assert model.fc.out_features == 6
    assert "1000 classes is replaced by a fresh one of 6" in caplog.text


def test_preprocessing_without_a_download(monkeypatch):
    mean_and_std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", unreachable)

    def looked_up(name):
        return Backbone(name, pretrained=True).preprocessing()

    assert looked_up("torchvision/resnet18") == Preprocessing(*mean_and_std, (224, 224), 0.875, "bilinear")
    resnet50 = looked_up("torchvision/resnet50")
    assert resnet50.crop_ratio == pytest.approx(224 / 232)
    assert before_crop(resnet50.image_size, resnet50.crop_ratio) == (232, 232)
    assert looked_up("torchvision/swin_t").interpolation == "bicubic"
    assert looked_up("torchvision/inception_v3").image_size == (299, 299)
    assert looked_up("timm/resnet18.a1_in1k") == Preprocessing(*mean_and_std, (224, 224), 0.95, "bicubic")
    assert looked_up("timm/resnet18.tv_in1k") == Preprocessing(*mean_and_std, (224, 224), 0.875, "bilinear")
    assert looked_up("timm/convnext_tiny.fb_in22k_ft_in1k_384").crop_ratio == 1
    assert looked_up("timm/volo_d5_512.sail_in1k").crop_ratio == 1  # 1.15: a border of its own
    assert looked_up("timm/vit_tiny_patch16_224").mean == (0.5, 0.5, 0.5)
    weights = Backbone("timm/resnet18", weights="w.safetensors")
    assert weights.preprocessing() == looked_up("timm/resnet18.a1_in1k")
    for network in ("resnet32", "timm/resnet18", tiny, tiny(2, 3), Backbone("resnet32", weights="w.safetensors")):
        assert Backbone.of(network).preprocessing() is None
    with pytest.raises(UserError, match="did you mean"):
        Backbone("torchvision/resnet81", pretrained=True).preprocessing()
