"""Learning rates by layers' names."""

from itertools import chain

import pytest
import torch
from torch import nn

import coterie
from coterie import cli
from coterie.console.progress import Reporter
from coterie.data import ImageData
from coterie.errors import UserError
from coterie.methods import METHODS, Dml, Kd, One, Vanilla
from coterie.networks import Backbone
from coterie.recipes import Recipe
from coterie.training.distribution import make_accelerator
from coterie.training.loop import settle
from coterie.training.options import TrainingOptions
from coterie.training.stages import Setting, StageRun
from resuming import resumes_exactly
from toys import go, same, weights

RATES = {"fc.*": 10, "*.weight": 0.5, "layer3.0.conv1.*": 3}


def rates(method, data: ImageData, recipe: Recipe, stage: int = 0) -> tuple[StageRun, dict[nn.Parameter, float]]:
    """A stage about to be trained, and the peak rate of each parameter in its first optimiser."""
    options = TrainingOptions(epochs=1, device="cpu", precision="fp32", batch_size=32).fit_to(data)
    setting = Setting(data, make_accelerator(options), recipe, options, Reporter(False))
    _, first, later, setting = settle(method, setting)
    run = StageRun([first, *later][stage], stage, 1, setting)
    groups = run.optimisers[0].param_groups
    return run, {parameter: group["initial_lr"] for group in groups for parameter in group["params"]}


def expected(name: str) -> float:
    factor = 10.0 if name.startswith("fc.") else 1.0
    factor *= 0.5 if name.endswith(".weight") else 1.0
    return 0.1 * factor * (3.0 if name == "layer3.0.conv1.weight" else 1.0)


def test_the_network_alone_has_the_rates_of_its_layers(digits):
    run, found = rates(Vanilla(network="resnet8"), digits, Recipe(layer_rates=RATES))
    for name, parameter in run.stage.network.named_parameters():
        assert found[parameter] == pytest.approx(expected(name)), name
    assert len({round(rate, 9) for rate in found.values()}) == 5


def test_each_branch_has_them_and_the_gate_has_not(digits):
    run, found = rates(One(network="resnet8"), digits, Recipe(layer_rates=RATES))
    net = run.stage.network
    for network in (net.target, *net.branches):
        for name, parameter in network.named_parameters():
            assert found[parameter] == pytest.approx(expected(name)), name
    assert {found[parameter] for parameter in net.gate.parameters()} == {0.1}
    assert len(net.branches) == 2


def test_each_peer_has_them_in_its_own_turn(digits):
    run, _ = rates(Dml(network="resnet8"), digits, Recipe(layer_rates=RATES))
    peers = run.stage.network.peers.networks
    assert len(run.optimisers) == len(peers) == 2
    for network, optimiser in zip(peers, run.optimisers, strict=True):
        found = {each: group["initial_lr"] for group in optimiser.param_groups for each in group["params"]}
        for name, parameter in network.named_parameters():
            assert found[parameter] == pytest.approx(expected(name)), name


def test_they_multiply_with_those_by_depth(digits):
    nets, found = [], []
    for more in ({}, {"layer_rates": {"layer*": 4}}):
        run, rates_of_all = rates(One(network="resnet8"), digits, Recipe(first_layer_rate=0.1, **more))
        nets.append(run.stage.network)
        found.append(rates_of_all)
    grown = {p for part in (nets[1].target, *nets[1].branches) for n, p in part.named_parameters() if "layer" in n}
    assert len(set(found[0].values())) > 4
    for (name, before), after in zip(nets[0].named_parameters(), nets[1].parameters(), strict=True):
        assert found[1][after] == pytest.approx(found[0][before] * (4 if after in grown else 1)), name


class Speaking(nn.Module):
    """A network that returns a dictionary, whose parameters are named as the user named them."""

    def __init__(self):
        super().__init__()
        self.body, self.fc = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten()), nn.Linear(144, 10)

    def forward(self, images):
        return {"logits": self.fc(self.body(images))}


@pytest.mark.parametrize("share", [True, False])
def test_a_network_of_the_users_own_goes_by_its_own_names(share, digits):
    model = Speaking()
    method = One(network=Backbone(model, freeze="body.*"), at="fc", gate="uniform", share=share)
    run, found = rates(method, digits, Recipe(layer_rates={"fc.*": 2}))
    assert found[model.fc.weight] == found[model.fc.bias] == 0.2
    assert model.body[0].weight not in found  # frozen, by its own name too
    heads = [
        module for module in run.stage.network.modules() if isinstance(module, nn.Linear) and module.bias is not None
    ]
    assert len({head.weight for head in heads if found[head.weight] == 0.2}) == 3


@pytest.mark.parametrize("name", METHODS)
def test_what_every_method_delivers_has_them(name, digits):
    options = TrainingOptions(epochs=1, device="cpu", precision="fp32", batch_size=32).fit_to(digits)
    setting = Setting(digits, make_accelerator(options), Recipe(layer_rates={"fc.*": 7}), options, Reporter(False))
    _, first, later, setting = settle(METHODS[name](network="resnet8"), setting)
    reached = set()
    for index, stage in enumerate(chain([first], later)):
        run = StageRun(stage, index, 1, setting)
        groups = [group for optimiser in run.optimisers for group in optimiser.param_groups]
        delivered = [pair for network in stage.deliver.values() for pair in network.named_parameters()]
        own = {each for name, each in delivered if name.endswith("fc.weight") and "combiner" not in name}
        reached |= {round(group["initial_lr"], 6) for group in groups if own & set(group["params"])}
    assert reached == {0.7}


def test_training_follows_them(digits, tmp_path):
    still = {"conv1.*": 1e-12, "layer*": 1e-12, "bn1.*": 1e-12}
    recipe = Recipe(layer_rates=still, weight_decay=0.0)
    slow = weights(go(Vanilla(network="resnet8"), digits, tmp_path / "slow", epochs=1, recipe=recipe))
    start = weights(
        go(Vanilla(network="resnet8"), digits, tmp_path / "start", epochs=1, recipe=Recipe(learning_rate=1e-12))
    )
    for name, _ in coterie.networks.build("resnet8").named_parameters():
        key = f"target.{name}"
        assert torch.allclose(slow[key], start[key], atol=1e-6) == (not name.startswith("fc")), name


@pytest.mark.parametrize(("method", "stage"), [(Vanilla, "train"), (One, "train"), (Dml, "train"), (Kd, "student")])
def test_a_stopped_run_ends_as_one_that_was_not(method, stage, digits, tmp_path):
    recipe = Recipe(layer_rates=RATES)
    assert resumes_exactly(lambda: method(network="resnet8"), digits, tmp_path, stage, 3, recipe=recipe)


def test_from_the_shell_and_a_file(digits, tmp_path, capsys):
    line = ["train", "--method", "vanilla", "--network", "resnet8", "--data", "digits", "--data.train_samples", "64"]
    line += ["--epochs", "1", "--batch_size", "32"]
    cli.main([*line, "--recipe.layer_rates", "{fc.*: 10, layer1.*: 0.1}", "--out", str(tmp_path / "a")])
    assert "fc.* at 10 times it, layer1.* at 0.1 times it" in capsys.readouterr().err
    cli.main(["train", "--config", str(tmp_path / "a" / "config.yaml"), "--out", str(tmp_path / "b")])
    cli.main([*line, "--out", str(tmp_path / "c")])
    a, b, c = (coterie.Run(tmp_path / name) for name in "abc")
    assert a.config["recipe"]["layer_rates"] == {"fc.*": 10, "layer1.*": 0.1}
    assert same(a, b)
    assert not same(a, c)
    with pytest.raises(SystemExit):
        cli.main([*line, "--resume", "--recipe.layer_rates", "{fc.*: 5}", "--out", str(tmp_path / "a")])
    assert "--recipe.layer_rates" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"fc": 2}, "layer_rates: no parameter is named 'fc'; they go from .*; near it: 'fc\\.\\*'$"),
        ({"fc.*": 0}, "layer_rates: the factor of .* is 0; use one above 0, or freeze="),
        ({"fc.*": -1}, "is -1; use one above 0"),
        ({"ft.*": 2}, "near it: 'fc"),
        ({"fc.*": "much"}, "layer_rates"),
        ("fc.*", "layer_rates"),
    ],
)
def test_what_is_wrong_is_one_line(given, line, digits, tmp_path):
    with pytest.raises(UserError, match=line):
        go(Vanilla(network="resnet8"), digits, tmp_path / "run", epochs=1, recipe=Recipe(layer_rates=given))
    assert not (tmp_path / "run").exists()
