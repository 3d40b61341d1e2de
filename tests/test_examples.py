"""Every script under examples/ runs, trains the user's own object, and leaves a plain model behind."""

import importlib.util
import inspect
from pathlib import Path

import pytest
import timm
import torch

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name):
    task = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(task)
    task.loader.exec_module(module)
    return module


def small_resnet():
    return timm.create_model("resnet10t", num_classes=10, in_chans=1, channels=(16, 32, 64, 128))


def test_no_example_is_left_untested():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {
        *("plain_pytorch", "lightning_module", "hf_trainer", "online_losses")
    }


def test_every_online_method_trains_in_a_loop_of_ones_own(monkeypatch):
    module, states = load("online_losses"), []
    make = module.small_network

    def noted():
        network = make()
        states.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return network

    monkeypatch.setattr(module, "small_network", noted)
    networks = module.main(count=8)
    assert list(networks) == ["dml", "kdcl", "cl_ilr", "okddip", "ffl", "pcl"]
    for network, before in zip(networks.values(), states, strict=True):
        weights = network.state_dict()
        assert weights.keys() == before.keys()
        assert not torch.equal(weights["fc.weight"], before["fc.weight"])
        assert all(tensor.isfinite().all() for tensor in weights.values())


def test_every_online_method_is_shown_in_less_than_twenty_lines():
    for function in load("online_losses").TRAININGS:
        assert len(inspect.getsource(function).splitlines()) < 20


def test_plain_pytorch_saves_a_plain_state_dict(tmp_path, capsys):
    torch.manual_seed(0)
    model = load("plain_pytorch").main(tmp_path / "digits.pt", epochs=2, count=128)
    assert capsys.readouterr().out.count("test accuracy of the target") == 2
    plain = small_resnet()
    before = plain.conv1[0].weight.clone()
    plain.load_state_dict(torch.load(tmp_path / "digits.pt", weights_only=True))
    assert not torch.equal(plain.conv1[0].weight, before)
    images = torch.randn(3, 1, 32, 32)
    assert torch.equal(plain.eval()(images), model.eval()(images))


@pytest.mark.libraries
@pytest.mark.filterwarnings("ignore")  # Lightning's own, of few workers and short epochs
def test_lightning_trains_the_model_itself(tmp_path):
    lightning = load("lightning_module")
    model = lightning.main(
        epochs=2, count=128, default_root_dir=tmp_path, enable_progress_bar=False, enable_model_summary=False
    )
    assert type(model) is type(small_resnet())
    assert model.bn1.num_batches_tracked == 4  # two epochs of two batches, each seen once
    small_resnet().load_state_dict(model.state_dict())


@pytest.mark.libraries
def test_hugging_face_gets_its_model_back_and_reloads_it(tmp_path):
    from transformers import ResNetForImageClassification

    model = load("hf_trainer").main(tmp_path / "resnet", epochs=1, count=128)
    assert type(model) is ResNetForImageClassification
    assert not any("gate" in name or "branches" in name for name in model.state_dict())
    again, report = ResNetForImageClassification.from_pretrained(tmp_path / "resnet", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]  # noqa: PT018
    images = torch.randn(3, 1, 32, 32)
    assert torch.equal(again.eval()(images).logits, model.eval()(images).logits)
    statistics = model.resnet.embedder.embedder.normalization
    assert statistics.num_batches_tracked == 2  # it was trained, two batches of 64
