"""What cannot be trained or delivered is found before anything is written."""

import importlib
import re
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import coterie
from coterie import Interrupted, UserError
from coterie.methods import Dml, Hooks, One, Srm, Vanilla
from toys import go, interrupting


class Net(nn.Module):
    def __init__(self, classes=10, channels=1):
        super().__init__()
        self.stem = nn.Conv2d(channels, 8, 3, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.tail = nn.Conv2d(8, 8, 3)
        self.fc = nn.Linear(8, classes)

    def forward(self, x):
        return self.fc(self.tail(self.norm(self.stem(x))).mean((2, 3)))


class AsMap(Net):
    def forward(self, x):
        return super().forward(x)[:, :, None, None]


class OfTheBatch(Net):
    def forward(self, x):
        return super().forward(x).mean(0, keepdim=True)


class Labels(Net):
    def forward(self, x):
        return super().forward(x).argmax(1, keepdim=True).expand(-1, 10)


class Cut(Net):
    def forward(self, x):
        return super().forward(x).detach()


class Lazy(Net):
    def __init__(self):
        super().__init__()
        self.fc = nn.LazyLinear(10)


def broken():
    net = Net()
    nn.init.constant_(net.fc.bias, float("nan"))
    return net


def table_of_a_size():
    net = Net()
    net.fc = nn.Linear(3, 10)
    return net


MISFITS = {
    "few": (
        partial(Net, 5),
        "network Net gives 5 outputs, and the data have 10 classes; give its last layer 10 outputs",
    ),
    "many": (partial(Net, 20), "network Net gives 20 outputs, and the data have 10 classes"),
    "colour": (
        partial(Net, 10, 3),
        "network Net takes images of 3 channels, and the data have 1; use channels 3",
    ),
    "half": (
        lambda: Net().half(),
        r"network Net has float16 weights, and the images are float32; call .float\(\) on it",
    ),
    "double": (lambda: Net().double(), "network Net has float64 weights"),
    "a map": (
        AsMap,
        r"gives logits of shape \(2, 10, 1, 1\) for 2 images, and \(2, 10\) is expected, \(images, classes\)",
    ),
    "one row": (OfTheBatch, r"gives logits of shape \(1, 10\) for 2 images"),
    "labels": (Labels, "gives torch.int64 where logits are expected; return them before any argmax"),
    "lazy": (Lazy, "network Lazy has lazy layers without weights; give it one batch"),
    "not finite": (broken, "network Net answers NaN before any training, in training mode"),
    "cut off": (Cut, "network Cut gives logits that no weight can learn from: .* its forward cuts them off"),
    "frozen": (
        lambda: Net().requires_grad_(False),
        "network Net gives logits that no weight can learn from: all its w",
    ),
    "meta": (lambda: Net().to("meta"), "network Net is on the meta device, where weights have no values"),
    "inside": (table_of_a_size, r"network Net cannot take images of 1x8x8, channels x height x width \(RuntimeError: "),
}


@pytest.mark.parametrize("method", [Vanilla, One])
@pytest.mark.parametrize("name", MISFITS)
def test_a_network_that_does_not_fit_the_data_is_one_line(name, method, digits, tmp_path):
    make, line = MISFITS[name]
    with pytest.raises(UserError, match=line) as caught:
        go(method(network=make()), digits, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_factory_that_does_not_listen_is_one_line(digits, tmp_path):
    with pytest.raises(UserError, match=r"gives 5 outputs, and the data have 10 classes; .*\(a factory is told"):
        go(Dml(network=lambda num_classes, in_channels: Net(5)), digits, tmp_path / "run")


def test_the_check_changes_nothing(digits, tmp_path, monkeypatch):
    """The same training without it gives the same weights."""

    def trained(name):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Dropout(0.1), Net())
        run = go(Vanilla(network=network), digits, tmp_path / name, epochs=1)
        return load_file(run.path / "model.safetensors")

    with_check = trained("with")
    module = importlib.import_module("coterie.training.loop")  # the package's `train` is the function
    monkeypatch.setattr(module, "check_first_stage", lambda *_: None)
    monkeypatch.setattr("coterie.networks.zoo.fit", lambda network, *_: network)
    without = trained("without")
    assert all(torch.equal(with_check[key], without[key]) for key in without)


class Twice(nn.Module):
    """One module under two names, and two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2), nn.ReLU())
        self.one = nn.Linear(8, 8)
        self.other = nn.Linear(8, 8)
        self.other.weight = self.one.weight
        self.fc = nn.Linear(8, 10)
        self.again = self.fc

    def forward(self, x):
        return self.again(self.other(self.one(self.stem(x).mean((2, 3))).relu()))


@dataclass(kw_only=True)
class Stopping(Vanilla):
    stop: int | None = None

    def stages(self, task):
        for stage in super().stages(task):
            object.__setattr__(stage, "hooks", Hooks(after_step=interrupting(self.stop)))
            yield stage


@pytest.mark.parametrize("stop", [None, 3])
def test_what_is_registered_twice_is_delivered(stop, digits, tmp_path):
    out = tmp_path / "run"
    torch.manual_seed(0)
    model = Twice()
    if stop is not None:
        with pytest.raises(Interrupted):
            go(Stopping(network=model, stop=stop), digits, out, epochs=2)
        config = out / "config.yaml"
        config.write_text(re.sub(r"stop: \d+", "stop: null", config.read_text()))
        model = Twice()
    run = go(Stopping(network=model), digits, out, epochs=2, resume=stop is not None)
    weights = load_file(out / "model.safetensors")
    assert torch.equal(weights["one.weight"], weights["other.weight"])
    assert torch.equal(weights["fc.bias"], weights["again.bias"])
    plain = Twice()
    plain.load_state_dict(weights)
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(plain.eval()(images), model.eval()(images))
    assert run.card["deliverables"] == ["target"]
    branched = go(One(network=Twice(), at="one"), digits, tmp_path / "one", epochs=1)
    coterie.export(branched, "safetensors", tmp_path / "out.safetensors")


class Remembers(Net):
    def get_extra_state(self):
        return {"seen": 3}

    def set_extra_state(self, state):
        pass


class Counted(Remembers):
    """Its extra state is a tensor, which a file of weights does hold."""

    seen = 3

    def get_extra_state(self):
        return torch.tensor([self.seen])

    def set_extra_state(self, state):
        self.seen = int(state)


class Sparse(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.eye(3).to_sparse())


@pytest.mark.parametrize(
    ("method", "make", "line"),
    [
        (Vanilla, Remembers, r"'_extra_state' is a dict that Remembers keeps in its state \(get_extra_state\)"),
        (One, Remembers, r"'_extra_state' is a dict that Remembers keeps in its state .*; make it a buffer"),
        (Vanilla, Sparse, "'table', a tensor of Sparse, cannot be written to a file of weights .*; keep it as a dense"),
    ],
)
def test_a_state_that_no_file_of_weights_holds_is_one_line(method, make, line, digits, tmp_path):
    with pytest.raises(UserError, match=line) as caught:
        go(method(network=make()), digits, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_first_stage_without_a_classifier_is_looked_at_too(digits, tmp_path, alone):
    """What it trains is delivered by a later stage."""
    with pytest.raises(UserError, match=r"_extra_state' is a dict that Remembers keeps in its state"):
        go(Srm(network=Remembers(), teacher=str(alone.path)), digits, tmp_path / "run")


def test_a_group_is_no_network(digits, tmp_path):
    group = coterie.branch(Net(), 2, "tail", torch.zeros(2, 1, 8, 8))
    with pytest.raises(UserError, match=r"network NativeEnsemble gives logits of shape \(2, 2, 10\) for 2 images"):
        go(Vanilla(network=group), digits, tmp_path / "run")


def test_an_extra_state_of_tensors_is_delivered(digits, tmp_path):
    model = Counted()
    model.seen = 7
    run = go(Vanilla(network=model), digits, tmp_path / "run", epochs=1)
    fresh = Counted()
    opened = coterie.Run(run.path, network=fresh).model
    assert opened.seen == 7
