"""Weights from safetensors files: what fits, what is replaced, what is refused."""

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from coterie import UserError
from coterie.networks import Backbone, build


def tiny(num_classes, in_channels):
    return nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))


@pytest.fixture
def saved(tmp_path):
    """Save a network's weights; gives the file's path."""

    def save(network, **changes):
        path = tmp_path / "weights.safetensors"
        save_file(network.state_dict() | changes, path)
        return str(path)

    return save


@pytest.mark.parametrize("name", ["resnet8", "densenet-bc-100-12", "timm/resnet10t", "torchvision/squeezenet1_1"])
def test_weights_give_the_same_network(name, saved):
    trained = build(name, 10).eval()
    loaded = build(name, 10, weights=saved(trained)).eval()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(images), trained(images))
    fresh = Backbone(name, weights=saved(trained)).build_fresh(10, 3).eval()
    assert not torch.equal(fresh(images), trained(images))


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("resnet8", ["fc"]),
        ("timm/resnet10t", ["fc"]),
        ("torchvision/squeezenet1_1", ["classifier.1"]),
        ("timm/deit_tiny_distilled_patch16_224", ["head", "head_dist"]),
    ],
)
def test_a_classifier_of_another_class_count_is_left_fresh(name, heads, saved, caplog):
    trained = build(name, 10)
    with caplog.at_level(logging.INFO, "coterie"):
        loaded = build(name, 4, weights=saved(trained))
    assert "its classifier of 10 classes is replaced by a fresh one of 4" in caplog.text
    assert len(caplog.records) == 1
    theirs, ours = trained.state_dict(), loaded.state_dict()
    changed = {key.rpartition(".")[0] for key in theirs if not torch.equal(theirs[key], ours[key])}
    assert changed == set(heads)
    assert all(ours[f"{head}.weight"].shape[0] == 4 for head in heads)


def test_factory_takes_weights(saved):
    trained = tiny(5, 3)
    loaded = Backbone(tiny, weights=saved(trained)).build(5, 3)
    assert torch.equal(loaded[3].weight, trained[3].weight)


def test_weights_that_do_not_fit_name_the_first_keys(saved):
    wider = build("resnet8", 10)
    with pytest.raises(UserError, match=r"weights\.safetensors: weights of another network \(.*: conv1\.weight\)"):
        build("resnet8", 10, 1, weights=saved(wider))
    with pytest.raises(UserError, match=r"first mismatches: surplus\)"):
        build("resnet8", 10, weights=saved(wider, surplus=torch.zeros(1)))
    with pytest.raises(UserError, match=r"layer1\.1\.conv1\.weight, layer1\.1\.bn1\.weight, layer1\.1\.bn1\.bias\)"):
        build("resnet14", 10, weights=saved(wider))
    with pytest.raises(UserError, match=r"fc\.weight\)"):  # another width is not another class count
        build("resnet8", 10, weights=saved(wider, **{"fc.weight": torch.zeros(10, 63)}))


def test_damaged_files_are_said(saved, tmp_path):
    content = Path(saved(build("resnet8"))).read_bytes()
    for damaged in (b"", b"PK\x03\x04 not safetensors", content[: len(content) // 2], content[:20]):
        (tmp_path / "damaged.safetensors").write_bytes(damaged)
        with pytest.raises(UserError, match=r"damaged\.safetensors: damaged or no safetensors file") as caught:
            build("resnet8", weights=str(tmp_path / "damaged.safetensors"))
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="none: no such file"):
        build("resnet8", weights=str(tmp_path / "none"))
    with pytest.raises(UserError, match="is no file.*weights"):
        build("resnet8", weights=str(tmp_path))


@pytest.mark.parametrize("name", ["model.pth", "model.pt", "model.pth.tar"])
@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"state_dict": state, "epoch": 3}])
def test_a_state_dict_of_pytorch_gives_the_same_network(name, wrap, tmp_path):
    trained = build("resnet8").eval()
    state = {f"module.{key}": value for key, value in trained.state_dict().items()}  # as DataParallel names them
    torch.save(wrap(state), tmp_path / name)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(build("resnet8", weights=str(tmp_path / name)).eval()(images), trained(images))


class Runs:
    """What runs code wherever it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_no_code_of_a_weights_file_is_run(tmp_path):
    ran = tmp_path / "ran"
    torch.save({"state_dict": build("resnet8").state_dict(), "extra": Runs(ran)}, tmp_path / "model.pth")
    with pytest.raises(UserError, match=r"model\.pth: damaged, or holds more than weights") as caught:
        build("resnet8", weights=str(tmp_path / "model.pth"))
    assert "\n" not in str(caught.value)
    assert not ran.exists()


def test_a_file_of_pytorch_without_weights_is_said(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError, match=r"list\.pth: holds no state dict"):
        build("resnet8", weights=str(tmp_path / "list.pth"))
    (tmp_path / "damaged.pth").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(UserError, match=r"damaged\.pth: damaged, or holds more than weights"):
        build("resnet8", weights=str(tmp_path / "damaged.pth"))
    with pytest.raises(UserError, match=r"none\.pth: no such file"):
        build("resnet8", weights=str(tmp_path / "none.pth"))


def test_a_pickled_file_of_another_name_is_never_loaded(tmp_path):
    path = tmp_path / "model.bin"
    torch.save(build("resnet8").state_dict(), path)
    with pytest.raises(UserError, match="no safetensors file"):
        build("resnet8", weights=str(path))
