"""Activation checkpointing of what is trained: the same weights and statistics, for less memory and more work."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import ViTConfig, ViTForImageClassification

import coterie
from coterie import cli
from coterie.errors import UserError
from coterie.methods import Dml, Kd, Oem, One, Vanilla
from coterie.networks import Backbone
from coterie.networks.checkpointing import checkpoint_activations, checkpoints
from coterie.recipes import Recipe
from coterie.training import Interrupted, TrainingOptions
from coterie.training.before.preflight import check_capture
from coterie.training.modules import keep_buffers
from resuming import stopping
from toys import comparable, go, same


def trained(method, network, data, place, **options):
    """A run, and how many numbers its forwards kept for their backwards."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda x: x):
        run = go(method(network=network), data, place, epochs=1, batch_size=16, precision="fp32", **options)
    return run, sum(kept)


BY_DEPTH = Recipe(first_layer_rate=0.5)
CASES = {
    "vanilla": (Vanilla, "resnet8", BY_DEPTH, 0.4),
    "one": (One, "resnet8", BY_DEPTH, 0.4),
    "dml": (Dml, "resnet8", BY_DEPTH, 0.4),
    "kd": (Kd, "resnet8", BY_DEPTH, 0.4),
    "oem": (Oem, "resnet8", BY_DEPTH, 0.5),
    "allcnn": (Vanilla, "allcnn-0.66", Recipe(average="ema"), 0.2),
    "timm": (One, "timm/resnet10t", BY_DEPTH, 0.2),
    "drop path": (One, "timm/vit_tiny_patch16_224", Recipe(drop_path=0.3, learning_rate=0.01), 0.1),
}


@pytest.mark.parametrize("name", CASES)
def test_weights_and_statistics_are_those_without_to_the_bit(name, tmp_path):
    method, network, recipe, share = CASES[name]
    side = 32 if "timm" in network else 8
    data = coterie.data.load("digits", train_samples=48, test_samples=20, image_size=(side, side))
    plain, everything = trained(method, network, data, tmp_path / "plain", recipe=recipe)
    ours = Backbone(network, checkpoint_activations=True)
    run, kept = trained(method, ours, data, tmp_path / "checkpointed", recipe=recipe)
    assert same(run, plain)
    assert kept < share * everything
    assert run.metrics[-1]["training_flops"] > 1.2 * plain.metrics[-1]["training_flops"]
    assert run.config["network"]["checkpoint_activations"] is True
    assert Backbone.from_record(run.config["network"]).checkpoint_activations
    assert not checkpoints(run.network())  # what is delivered is the plain network
    assert "checkpoint_activations" not in plain.config["network"]


def test_parts_and_frozen_parameters_go_with_it(digits, tmp_path):
    runs = [
        go(
            One(network=Backbone("resnet8", freeze="conv1.*,layer1.*", checkpoint_activations=switch)),
            digits,
            tmp_path / str(switch),
            epochs=1,
            accumulate=2,
        )
        for switch in (False, True)
    ]
    assert same(*runs)


def test_a_run_may_be_resumed_with_it_or_without(digits, tmp_path):
    whole = go(Vanilla(network="resnet8"), digits, tmp_path / "whole", epochs=2)
    for first in (False, True):
        place = tmp_path / f"cut{first}"
        started, then = (
            Vanilla(network=Backbone("resnet8", checkpoint_activations=each)) for each in (first, not first)
        )
        with pytest.raises(Interrupted):
            go(stopping(started, "train", 3), digits, place, epochs=2)
        assert same(go(then, digits, place, epochs=2, resume=True), whole)


OFFER = ["resnet20", "wrn-28-10", "resnext29-8x64d", "densenet-bc-100-12", "densenet121-cifar"]


@pytest.mark.parametrize("name", [*OFFER, "timm/mobilenetv3_small_050", "torchvision/densenet121"])
def test_networks_that_offer_it(name):
    with torch.device("meta"):
        network = coterie.networks.build(name)
        assert not checkpoints(network)
        assert checkpoints(checkpoint_activations(network))


@pytest.mark.filterwarnings("error")
def test_networks_of_hugging_face_offer_it():
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    network = ViTForImageClassification(ViTConfig(**sizes, image_size=8, patch_size=4))
    assert not checkpoints(network)
    assert checkpoints(checkpoint_activations(network))


def test_networks_that_offer_none_are_refused_in_a_line(tmp_path, capsys):
    options = ["--network", "torchvision/resnet18", "--data", "digits", "--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit):
        cli.main(["train", *options, "--network.checkpoint_activations", "true"])
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "--network.checkpoint_activations: " in line
    assert "offers no activation checkpointing; use a network of timm that does" in line
    assert not (tmp_path / "run").exists()


def test_steps_are_not_captured_with_it():
    with pytest.raises(UserError, match="leave one of both out"):
        check_capture(TrainingOptions(capture=True), Vanilla(network=Backbone("resnet8", checkpoint_activations=True)))


class Own(nn.Module):
    """A network of one's own that checkpoints by itself."""

    def __init__(self, switch):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3)
        self.body = nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3), nn.Conv2d(8, 8, 3))
        self.fc = nn.Linear(8, 10)
        self.grad_checkpointing = switch

    def forward(self, x):
        x = self.stem(x)
        x = checkpoint(self.body, x, use_reentrant=False) if self.grad_checkpointing else self.body(x)
        return self.fc(x.mean((2, 3)))


def test_a_module_of_ones_own_that_says_it_checkpoints_counts_a_batch_once_too(digits, tmp_path):
    runs = []
    for switch in (False, True):
        torch.manual_seed(0)
        runs.append(go(Vanilla(network=Own(switch)), digits, tmp_path / str(switch), epochs=2))
    assert same(*runs)
    assert comparable(runs[0].metrics)[-1]["loss"] == comparable(runs[1].metrics)[-1]["loss"]


def test_buffers_are_the_same_tensors_after_the_block():
    norm = nn.BatchNorm2d(3)
    both = nn.ModuleDict({"a": norm, "b": norm})
    before = {name: (buffer, buffer.clone()) for name, buffer in both.named_buffers()}
    with keep_buffers(both):
        norm(torch.randn(4, 3, 2, 2))
        assert int(norm.num_batches_tracked) == 1
    for name, buffer in both.named_buffers():
        assert buffer is before[name][0]
        assert torch.equal(buffer, before[name][1])
