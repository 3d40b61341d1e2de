import pytest
import torch
from safetensors.torch import save_file

from coterie import UserError, branch
from coterie.evaluation import cost
from coterie.networks import NETWORKS, Backbone, build
from coterie.networks.zoo import Backbone as ZooNetwork

# Parameters in millions and FLOPs in 1e8 at 100 classes: papers/ONE's cost model.
PUBLISHED = {
    "resnet32": (0.473, 1.383, 1.193, 2.285),
    "resnet110": (1.737, 5.063, 4.380, 8.419),
    "resnet110-bottleneck": (1.727, 4.953, 4.363, 8.289),
    "resnet110-bottleneck12": (1.171, 3.349, 2.962, 5.615),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_costs_are_the_published_ones(name):
    parameters, flops, one_parameters, one_flops = PUBLISHED[name]
    model = build(name, 100)
    alone = cost(model, 3, (32, 32))
    assert alone.parameters / 1e6 == pytest.approx(parameters, rel=0.005)
    assert alone.flops / 1e8 == pytest.approx(flops, rel=0.005)
    branched = cost(branch(model, 3, example=torch.zeros(2, 3, 32, 32)), 3, (32, 32))
    assert branched.parameters / 1e6 == pytest.approx(one_parameters, rel=0.005)
    assert branched.flops / 1e8 == pytest.approx(one_flops, rel=0.005)


@pytest.mark.parametrize(
    ("name", "classes", "millions"),
    [
        ("resnext29-8x64d", 10, 34.4),
        ("densenet-bc-190-40", 10, 25.6),
        ("densenet-bc-100-12", 10, 0.8),
        ("resnet20", 10, 0.27),
    ],
)
def test_parameter_counts_are_the_published_ones(name, classes, millions):
    count = sum(parameter.numel() for parameter in build(name, classes).parameters())
    digits = len(str(millions).split(".")[1])
    assert round(count / 1e6, digits) == millions


@pytest.mark.parametrize("name", NETWORKS)
def test_full_size_forward_of_every_paper_network(name):
    with torch.no_grad():
        assert build(name, 100).eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 100)


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 8, 8), (3, 28, 28), (4, 33, 17), (2, 9, 64)])
def test_any_channels_and_size(channels, height, width):
    for name in ("resnet8", "densenet-bc-100-12"):
        assert build(name, 7, channels)(torch.randn(2, channels, height, width)).shape == (2, 7)


def test_the_110_layer_networks_have_the_layers_they_say():
    def weighted(name):
        model = build(name)
        return sum(isinstance(m, (torch.nn.Conv2d, torch.nn.Linear)) and "downsample" not in path
                   for path, m in model.named_modules())  # fmt: skip

    assert weighted("resnet110") == 110
    assert weighted("resnet110-bottleneck") == 164
    assert weighted("resnet110-bottleneck12") == 110


def test_unknown_names_list_the_nearest():
    with pytest.raises(UserError, match="timm/resnet18"):
        build("resnet18")
    with pytest.raises(UserError, match="resnet32"):
        build("resnet33")


@pytest.mark.parametrize("name", ["timm/resnet10t", "torchvision/shufflenet_v2_x0_5"])
def test_libraries_networks_take_classes_and_channels(name):
    assert build(name, 5, 1)(torch.randn(2, 1, 64, 64)).shape == (2, 5)


def test_small_images_are_refused():
    with pytest.raises(UserError, match="image_size"):
        Backbone("resnet8").build(10, 3, (4, 4))


def test_weights_load_by_name_and_another_classifier_is_replaced(tmp_path, caplog):
    trained = build("resnet8", 10)
    path = tmp_path / "w.safetensors"
    save_file(trained.state_dict(), path)
    same = build("resnet8", 10, weights=str(path))
    assert all(
        torch.equal(a, b) for a, b in zip(trained.state_dict().values(), same.state_dict().values(), strict=True)
    )
    other = build("resnet8", 4, weights=str(path))
    assert torch.equal(other.conv1.weight, trained.conv1.weight)
    assert other.fc.weight.shape == (4, 64)
    assert "classifier" in caplog.text


def test_bad_weights_are_named(tmp_path):
    path = tmp_path / "w.safetensors"
    with pytest.raises(UserError, match="no such file"):
        build("resnet8", weights=str(path))
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match="damaged"):
        build("resnet8", weights=str(path))
    save_file(build("resnet14").state_dict(), path)
    with pytest.raises(UserError, match=r"another network.*layer1\.1"):
        build("resnet8", weights=str(path))


def test_a_module_of_ones_own_is_given_as_it_is():
    model = torch.nn.Linear(3, 2)
    assert ZooNetwork.of(model).build(2, 3) is model
    with pytest.raises(UserError, match="published weights"):
        Backbone("resnet32", pretrained=True).build(10, 3)
