"""What online methods have in common: losses, gradients, turns, averages; and methods of one's own."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

import coterie
from coterie import UserError
from coterie.cli import main
from coterie.methods import METHODS, Branched, Distillation, Dml, Independent, One, Online, OnlineConfig, Pcl, Task
from coterie.methods.online.loss import Loss
from coterie.methods.online.stage import SequentialStep
from coterie.outputs import PeerOutput
from coterie.peers.independent import Separate, freeze_statistics
from coterie.training import Interrupted
from coterie.training.folder import checkpoint
from peers import LABELS, LOGITS
from toys import comparable, go, same

TASK = Task(10, 1, (8, 8), 1)
NAMES = ("one", "dml", "cl-ilr", "kdcl", "okddip", "ffl", "pcl")


def batch(digits, views=1):
    torch.manual_seed(0)
    return next(coterie.data.training_batches(digits, batch_size=8, seed=0, stage=0, epoch=0, views=views))


@pytest.mark.parametrize("detach", [True, False])
def test_gradients_reach_the_teachers_only_where_targets_are_not_detached(detach):
    logits = LOGITS.clone().requires_grad_()
    distillation = Distillation(source="mean", teachers=(1, 2), students=(0,), detach=detach)
    config = OnlineConfig(
        peers=Branched(num=4), aggregator="mean", distillations=(distillation,), ce_weight=0.0, ensemble_ce_weight=0.0
    )
    output = PeerOutput(logits)
    Loss(config, (0, 1, 2, 3), output)(output, LABELS, 1.0).total.backward()
    reached = logits.grad.abs().sum((0, 2)) > 0
    assert reached.tolist() == [True, not detach, not detach, False]


def test_weights_ramps_and_temperatures_of_a_distillation_override_the_methods():
    def distilled(**distillation):
        config = OnlineConfig(
            peers=Branched(num=4),
            aggregator="mean",
            distillations=(Distillation(source="others", **distillation),),
            rampup=0.5,
        )
        output = PeerOutput(LOGITS)
        return Loss(config, (0, 1, 2, 3), output)(output, LABELS, 0.25)["distillation"]

    plain = distilled(rampup=0.0)
    torch.testing.assert_close(distilled(), plain * coterie.functional.ramp_up(0.25, 0.5))
    torch.testing.assert_close(distilled(rampup=0.0, weight=0.3), 0.3 * plain)
    torch.testing.assert_close(distilled(rampup=0.0, scale_by_t2=False), plain / 9)
    assert not torch.isclose(distilled(rampup=0.0, temperature=1.0), plain)


def test_sequential_peers_learn_from_what_the_others_say_by_then(digits):
    torch.manual_seed(0)
    stage = next(Dml(network="resnet8", num_peers=3).stages(TASK))
    nets, images = stage.network.peers.networks, batch(digits)
    seen = []
    for turn, net in zip(stage.turns, nets, strict=True):
        turn.module.train()
        frozen = [copy.deepcopy(each) for each in nets]
        result = turn.module(images)
        expected = torch.stack([each(images.images) for each in frozen], 1)
        torch.testing.assert_close(result.output.logits, expected)
        result.loss.total.backward()
        own = turn.module.own
        assert nets[own] is net
        others = [p for other, each in enumerate(nets) if other != own for p in each.parameters()]
        assert all(p.grad is None for p in others)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter -= 0.5 * parameter.grad
                parameter.grad = None
        seen.append(expected)
    assert not torch.allclose(seen[0][:, 0], seen[1][:, 0])  # peer 0 spoke anew in turn 1
    assert torch.equal(seen[0][:, 2], seen[1][:, 2])  # peer 2 had not changed yet


def test_every_network_counts_a_batch_once(digits):
    torch.manual_seed(0)
    stage = next(Dml(network="resnet8").stages(TASK))
    nets = stage.network.peers.networks
    twins = [copy.deepcopy(net).train() for net in nets]
    images = batch(digits)
    for turn in stage.turns:
        assert isinstance(turn.module, SequentialStep)
        turn.module.train()(images)
    for net, twin in zip(nets, twins, strict=True):
        twin(images.images)
        assert all(torch.equal(a, b) for a, b in zip(net.buffers(), twin.buffers(), strict=True))
        assert all(norm.track_running_stats for norm in net.modules() if isinstance(norm, nn.BatchNorm2d))


def test_freeze_statistics_normalise_as_in_training():
    norm = nn.BatchNorm1d(3)
    x = torch.randn(8, 3)
    with freeze_statistics(norm):
        frozen = norm(x)
    assert torch.equal(norm.running_mean, torch.zeros(3))
    assert torch.equal(frozen, norm(x))
    assert not torch.equal(norm.running_mean, torch.zeros(3))


def test_simultaneous_and_sequential_agree_for_the_first_peer(digits):
    torch.manual_seed(0)
    together = next(Dml(network="resnet8", updates="simultaneous").stages(TASK))
    torch.manual_seed(0)
    sequential = next(Dml(network="resnet8").stages(TASK))
    images = batch(digits)
    together.turns[0].module.train()(images).loss.total.backward()
    sequential.turns[0].module.train()(images).loss.total.backward()
    ours, theirs = (stage.network.peers.networks[0] for stage in (together, sequential))
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_averages_follow_with_a_growing_decay(digits):
    torch.manual_seed(0)
    stage = next(Pcl(network="resnet8", ema_decay=0.6, ema_steps=None).stages(TASK))
    average = stage.turns[0].module.average
    weight = stage.network.peers.target.fc.weight
    kept = average.module.peers.target.fc.weight
    expected = None
    for update, decay in enumerate((0.0, 0.5, 0.6, 0.6)):
        with torch.no_grad():
            weight += 1.0
        stage.hooks.after_step((update + 1) / 4)
        expected = weight.detach().clone() if update == 0 else decay * expected + (1 - decay) * weight.detach()
        torch.testing.assert_close(kept, expected)
    assert not any(parameter.requires_grad for parameter in average.parameters())
    trained = {id(parameter) for parameter in stage.turns[0].trainable()}
    assert not trained & {id(parameter) for parameter in average.parameters()}
    assert stage.deliver["average"] is average.module.peers.target


def test_peers_see_views_of_their_own(digits):
    torch.manual_seed(0)
    stage = next(
        Online(peers=Independent(num=2), aggregator="mean", view_per_peer=True, network="resnet8").stages(TASK)
    )
    assert stage.views == 2
    images = batch(digits, views=2)
    assert not torch.equal(images.views[0], images.views[1])
    module = stage.turns[0].module.eval()
    said = module(images).output.logits
    for peer, net in enumerate(stage.network.peers.networks):
        torch.testing.assert_close(said[:, peer], net(images.views[peer]))


def test_networks_side_by_side_give_what_their_classifiers_read():
    torch.manual_seed(0)
    nets = [coterie.networks.build(name, 6) for name in ("resnet8", "densenet-bc-100-12")]
    images = torch.randn(2, 3, 16, 16)
    for mode in (True, False):
        output = Separate(nets, features=True, maps=True).train(mode)(images)
        assert [tuple(each.shape) for each in output.features] == [(2, 64), (2, 342)]
        torch.testing.assert_close(nets[1].fc(output.features[1]), output.logits[:, 1])
        torch.testing.assert_close(output.maps[0].mean((2, 3)), output.features[0])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.processor
def test_every_method_resumes_exactly(name, digits, tmp_path, monkeypatch):
    method = METHODS[name](network="resnet8")
    whole = go(method, digits, tmp_path / "whole", epochs=2, batch_size=64)
    real, count = checkpoint.save, 0

    def interrupt(path, state):
        nonlocal count
        real(path, state)
        count += path.name == "last.safetensors"
        if count == 1:
            raise Interrupted(15, "here")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", interrupt)
        with pytest.raises(Interrupted):
            go(METHODS[name](network="resnet8"), digits, tmp_path / "cut", epochs=2, batch_size=64)
    cut = go(METHODS[name](network="resnet8"), digits, tmp_path / "cut", epochs=2, batch_size=64, resume=True)
    assert same(whole, cut)
    assert comparable(whole.metrics) == comparable(cut.metrics)
    names = method.config().peers.names
    assert all(f"test_error_{peer}" in whole.metrics[-1] for peer in (*names, "ensemble"))
    assert whole.card["deliverables"][0] == "target"


def test_a_method_of_ones_own_is_written_down_and_opened_again(tmp_path):
    digits = coterie.data.load("digits", train_samples=100, test_samples=50)
    method = Online(
        network="resnet8",
        peers=Branched(num=3),
        aggregator="mean",
        distillations=(
            Distillation(source="mean", teachers=(1, 2), students=(0,)),
            Distillation(source="mean", teachers=(0,), students=(1, 2), temperature=1, from_ema=True),
        ),
        ema_decay=0.99,
    )
    run = go(method, digits, tmp_path / "run", epochs=1, batch_size=64)
    again = coterie.Run(run.path).method()
    assert replace(again, network="resnet8") == method
    main(["train", "--config", str(run.path / "config.yaml"), "--out", str(tmp_path / "again")])
    assert same(run, coterie.Run(tmp_path / "again"))
    image = torch.randn(2, 1, 8, 8)
    assert run.network("ensemble")(image).logits.shape == (2, 3, 10)
    terms = [name for name in run.metrics[0] if name.startswith("loss_")]
    assert terms == [
        "loss_cross_entropy", "loss_cross_entropy_ensemble", "loss_distillation1_mean", "loss_distillation2_mean",
    ]  # fmt: skip


def test_who_teaches_whom_is_said_by_the_method():
    def arrows(name):
        return {(edge.source, edge.to) for edge in METHODS[name]().teaching() if edge.teaches}

    assert arrows("one") == {("ensemble", peer) for peer in ("target", "branch1", "branch2")}
    assert arrows("dml") == {("target", "peer1"), ("peer1", "target")}
    assert ("target", "branch1") not in arrows("okddip")
    assert {to for _, to in arrows("ffl")} == {"target", "branch1", "ensemble"}
    made = {(edge.source, edge.to) for edge in One().teaching() if not edge.teaches}
    assert made == {(peer, "ensemble") for peer in ("target", "branch1", "branch2")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"peers": Independent(num=2)}, "a gate reads a shared trunk"),
        (
            {"peers": Branched(num=2), "distillations": (Distillation(source="mean", students=(5,)),)},
            "names peer 5, and there are 2",
        ),
        ({"peers": Branched(num=1), "distillations": (Distillation(source="others"),)}, "'others' needs two peers"),
        ({"distillations": (Distillation(source="each", from_ema=True),)}, "moving averages needs ema_decay="),
        ({"distillations": [{"source": "each", "temperature": 0.0}]}, "distillations, temperature is 0.0"),
        (
            {"distillations": [{"source": "mean", "students": [-1]}]},
            "distillations, students, item 1 is -1; use 0 or more",
        ),
        ({"distillations": [{"source": "mean", "rampup": 2.0}]}, "distillations, rampup is 2.0"),
        ({"distillations": [{"source": "enesmble"}]}, "did you mean 'ensemble'"),
        ({"distillations": "each"}, "distillations is 'each'; write a list"),
        ({"peers": 3}, "peers is 3; write a mapping of num"),
        ({"peers": {"kind": "Branchd"}}, "did you mean 'Branched'"),
        ({"sequential": True}, "updated in turn only where they are independent"),
    ],
)
def test_configurations_that_cannot_be_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Online(**options)
