"""Models that return more than their logits: a dictionary, a tuple, an object."""

import copy
from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
import torchvision
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification

import coterie
from coterie import UserError, branch
from coterie.losses import one
from coterie.networks import Logits
from coterie.recipes import Recipe

IMAGES = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3])
Named = namedtuple("Named", ["features", "out"])


@dataclass
class Held:
    logits: torch.Tensor
    features: torch.Tensor


FORMS = {
    "a key": (lambda logits, features: {"features": features, "logits": logits}, "logits"),
    "torchvision's key": (lambda logits, features: {"out": logits, "aux": features}, "out"),
    "the only table of a dictionary": (
        lambda logits, features: {"scores": logits, "map": features[..., None]},
        "scores",
    ),
    "an attribute": (lambda logits, features: Held(logits, features), "logits"),
    "a named tuple": (lambda logits, features: Named(features, logits), "out"),
    "the first of a tuple": (lambda logits, features: (logits, features), 0),
    "the last of a list": (lambda logits, features: [features, features[..., None], logits], 2),
    "beside a number": (lambda logits, features: (logits, 0), 0),
    "itself": (lambda logits, features: logits, None),
}


class Net(nn.Module):
    def __init__(self, form, channels=3, classes=10, decides=False):
        super().__init__()
        self.stem = nn.Conv2d(channels, 8, 3, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.tail = nn.Sequential(nn.Conv2d(8, 12, 3), nn.ReLU(inplace=True))
        self.fc = nn.Linear(12, classes)
        self.form, self.decides = form, decides

    def forward(self, x):
        x = self.norm(self.stem(x))
        x = x if self.decides and x.sum() == 0 else 1 * x
        features = self.tail(x).mean((2, 3))
        return self.form(self.fc(features), features)


def logits_of(output, at):
    if at is None:
        return output
    return output[at] if isinstance(at, int) or isinstance(output, dict) else getattr(output, at)


@pytest.mark.parametrize("decides", [False, True])
@pytest.mark.parametrize("name", FORMS)
def test_the_common_forms_are_found_and_the_model_keeps_its_own(name, decides):
    form, at = FORMS[name]
    torch.manual_seed(0)
    model = Net(form, decides=decides)
    twin = copy.deepcopy(model)
    net = branch(model, 2, "tail", IMAGES)
    assert net.target is model
    assert bool(net.splits.resists) is decides
    for mode in (True, False):
        output = net.train(mode)(IMAGES)
        expected = twin.train(mode)(IMAGES)
        assert torch.equal(output.logits[:, 0], logits_of(expected, at))
        assert output.features[0].shape == (4, 12)
    assert type(model(IMAGES)) is type(expected)
    one(net.train()(IMAGES), LABELS).total.backward()
    assert model.fc.weight.grad.abs().sum() > 0
    assert list(net.state_dict())[: len(twin.state_dict())] == [f"target.{name}" for name in twin.state_dict()]


@pytest.mark.parametrize("logits", [1, -1, lambda output: output[1]])
def test_what_cannot_be_told_is_named_by_the_user(logits):
    def twice(logits, features):
        return (logits * 2, logits)

    with pytest.raises(UserError, match=r"Net returns a tuple with 2 that may be the logits, 0, 1; say .* logits="):
        branch(Net(twice), 2, "tail", IMAGES)
    model = Net(twice).eval()
    net = branch(model, 2, "tail", IMAGES, logits=logits).eval()
    assert torch.equal(net(IMAGES).logits[:, 0], model(IMAGES)[1])


@pytest.mark.parametrize(
    ("logits", "line"),
    [
        ("scores", r"logits='scores' is not in what Net returns, a dict of 'a', 'b'; name one of these"),
        (3, r"logits=3 is not in what Net returns, a dict of 'a', 'b'; name one of these"),
        ("b", r"logits='b' is an int in what Net returns; name a tensor \(B, C\)"),
        (lambda output: output["c"], r"logits=<lambda> is not in .* KeyError: 'c'; name one of these"),
    ],
)
def test_a_name_that_is_wrong_is_one_line(logits, line):
    with pytest.raises(UserError, match=line) as caught:
        branch(Net(lambda logits, features: {"a": logits, "b": 1}), 2, "tail", IMAGES, logits=logits)
    assert "\n" not in str(caught.value)


def test_logits_of_another_shape_are_one_line():
    model = Net(lambda logits, features: {"logits": logits[..., None, None]})
    with pytest.raises(
        UserError, match=r"Net gives logits of shape \(4, 10, 1, 1\) for 4 images, and \(images, classes"
    ):
        branch(model, 2, "tail", IMAGES)


class InTraining(Net):
    """Gives more in training, as GoogLeNet does."""

    def forward(self, x):
        logits = super().forward(x)
        return {"logits": logits, "auxiliary": logits * 2} if self.training else logits


def test_each_mode_has_a_form_of_its_own():
    torch.manual_seed(0)
    model = InTraining(lambda logits, features: logits)
    net = branch(model, 2, "tail", IMAGES)
    assert torch.equal(net(IMAGES).logits[:, 0], copy.deepcopy(model)(IMAGES)["logits"])
    assert torch.equal(net.eval()(IMAGES).logits[:, 0], model(IMAGES))


def hugging_faces_vit():
    config = ViTConfig(
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=16,
        patch_size=4,
        num_labels=10,
        num_channels=1,
    )
    return ViTForImageClassification(config)


def hugging_faces_resnet():
    return ResNetForImageClassification(
        ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=10, num_channels=1
        )
    )


@pytest.mark.parametrize("make", [hugging_faces_vit, hugging_faces_resnet])
def test_hugging_faces_models_need_no_wrapper(make):
    torch.manual_seed(0)
    model = make()
    images = IMAGES[:, :1]
    net = branch(model, 2, example=images)
    for mode in (True, False):
        net.train(mode)
        twin = copy.deepcopy(model)
        assert torch.equal(net(images).logits[:, 0], twin(images).logits)
    one(net(images), LABELS).total.backward()
    assert model.classifier is not None
    assert next(model.parameters()).grad is not None


def test_torchvisions_googlenet_with_its_auxiliary_heads():
    model = torchvision.models.googlenet(num_classes=10, aux_logits=True, init_weights=False)
    net = branch(model, 2, "inception5a", torch.rand(2, 3, 64, 64), init="copy")
    assert net(torch.rand(2, 3, 64, 64)).logits.shape == (2, 2, 10)


def train(method, digits, out):
    return coterie.train(method, digits, recipe=Recipe(), epochs=1, out=out, progress=False)


def as_dictionary(logits, features):
    return {"features": features, "logits": logits}


def factory(num_classes, in_channels):
    return Net(as_dictionary, in_channels, num_classes)


@pytest.mark.parametrize("own", ["module", "factory", "hugging face"])
@pytest.mark.parametrize("method", ["One", "Vanilla", "Dml"])
def test_it_is_trained_measured_delivered_and_exported(own, method, digits, tmp_path):
    network = {"module": Net(as_dictionary, 1), "factory": factory, "hugging face": hugging_faces_resnet()}[own]
    if method == "Dml" and own == "module":
        network = factory
    options = {"at": "tail"} if method == "One" and own != "hugging face" else {}
    run = train(getattr(coterie.methods, method)(network=network, **options), digits, tmp_path / "run")
    plain = factory(10, 1) if own != "hugging face" else hugging_faces_resnet()
    weights = coterie.files.read_tensors(tmp_path / "run" / "model.safetensors", "")[0]
    plain.load_state_dict(weights)  # under the model's own names
    images = torch.rand(2, 1, *digits.image_size)
    opened = coterie.Run(tmp_path / "run", network=network).model
    expected = plain.eval()(images)["logits"]
    torch.testing.assert_close(opened(images), expected)
    assert run.card["test"]["target"]["error"] < 100
    assert coterie.evaluate(run)["error"] == pytest.approx(run.card["test"]["target"]["error"])
    coterie.export(run, "onnx", tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").is_file()


def test_a_wrapper_names_the_logits_for_a_training(digits, tmp_path):
    def twice(logits, features):
        return logits * 0, logits

    with pytest.raises(UserError, match=r"2 that may be the logits, 0, 1; .* network=coterie.networks.Logits\(model"):
        train(coterie.methods.Vanilla(network=Net(twice, 1)), digits, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    model = Net(twice, 1)
    wrapped = Logits(model, 1)
    assert list(wrapped.state_dict()) == list(model.state_dict())
    before = model.fc.weight.clone()
    run = train(coterie.methods.One(network=wrapped, at="tail"), digits, tmp_path / "run")
    assert not torch.equal(model.fc.weight, before)
    assert torch.equal(run.model(IMAGES[:, :1]), model.eval()(IMAGES[:, :1])[1])
