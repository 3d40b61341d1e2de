"""Each published online method's loss against plain arithmetic on lists."""

import pytest
import torch

import coterie
from coterie import UserError
from coterie.methods import METHODS, ClIlr, Dml, Ffl, Kdcl, OkdDip, Pcl, Task
from coterie.outputs import PeerOutput
from coterie.peers.combine import FusedFeatures, FusedMaps
from coterie.training import Recipe
from peers import LABELS, LOGITS, ce, kl, mean, over_batch, softmax, terms
from toys import go

TASK = Task(10, 1, (8, 8), 1)
ENSEMBLE = torch.tensor([[0.2, 0.1, 1.1], [0.9, -0.4, 0.3]], dtype=torch.float64)


def near(value):
    return pytest.approx(value, abs=1e-12)


def supervised(logits):
    return over_batch(lambda z, y: sum(ce(peer, y) for peer in z), logits, LABELS)


def test_dml_averages_the_pairwise_divergences_at_temperature_one():
    logits = LOGITS[:, :3]
    _, got = terms(Dml(num_peers=3), logits)

    def rule(z):
        return sum(kl(z[j], z[k], 1.0) for k in range(3) for j in range(3) if j != k) / 2

    assert got["distillation"].item() == near(over_batch(rule, logits))
    assert got["cross_entropy"].item() == near(supervised(logits))
    assert set(got.terms) == {"cross_entropy", "distillation"}


def test_cl_ilr_teaches_each_head_by_the_mean_of_the_others():
    def rule(z):
        return sum(kl(mean([z[j] for j in range(4) if j != h]), z[h], 2.0) for h in range(4))

    _, paper = terms(ClIlr(), LOGITS)
    assert paper["cross_entropy"].item() == near(0.5 * supervised(LOGITS))
    assert paper["distillation"].item() == near(0.5 * over_batch(rule, LOGITS))
    _, other = terms(ClIlr(beta=0.2), LOGITS)
    assert other["distillation"].item() == near(0.8 * over_batch(rule, LOGITS))
    _, code = terms(ClIlr(weights="okddip-code"), LOGITS, progress=0.1)
    ramp = coterie.functional.ramp_up(0.1, 80 / 300)
    assert code["cross_entropy"].item() == near(supervised(LOGITS))
    assert code["distillation"].item() == near(4 * ramp * over_batch(rule, LOGITS))


@pytest.mark.parametrize("teacher", ["naive", "min-logit"])
def test_kdcl_teaches_all_from_one(teacher):
    logits = LOGITS[:, :2]

    def soft(z, y):
        if teacher == "naive":
            return min(z, key=lambda peer: ce(peer, y))
        return [min(peer[c] - peer[y] for peer in z) for c in range(3)]

    def rule(z, y):
        return sum(kl(soft(z, y), peer, 2.0) for peer in z)

    _, got = terms(Kdcl(teacher=teacher, weight=0.7), logits)
    assert got["distillation"].item() == near(0.7 * 4 * over_batch(rule, logits, LABELS))
    assert got["cross_entropy"].item() == near(supervised(logits))


def test_kdcls_general_teacher_renews_its_weights_on_validation(digits, tmp_path):
    with pytest.raises(UserError, match="validation"):
        go(Kdcl(network="resnet8", teacher="general"), digits, tmp_path / "none", epochs=1)
    data = coterie.data.load("digits", train_samples=160, test_samples=50, validation=0.2)
    stage = next(Kdcl(network="resnet8", teacher="general").stages(TASK))
    assert stage.hooks.after_validation is not None
    run = go(Kdcl(network="resnet8", teacher="general"), data, tmp_path / "run", epochs=2)
    state = coterie.training.folder.checkpoint.load(run.path / "checkpoints" / "last.safetensors")
    weights = state["modules"]["turn0"]["loss.targets.0.weights"]
    assert weights.sum().item() == pytest.approx(1, abs=1e-5)
    assert not torch.equal(weights, torch.full((2,), 0.5))


def test_okddips_auxiliaries_learn_by_attention_and_its_leader_from_their_mean():
    torch.manual_seed(0)
    features = tuple(torch.randn(2, 16, dtype=torch.float64) for _ in range(4))
    loss, got = terms(OkdDip(), LOGITS, features=features)
    attention = loss.targets[0]
    query, key = attention.query.weight.tolist(), attention.key.weight.tolist()

    def project(matrix, vector):
        return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]

    def rule(z, *h):
        total = 0.0
        for a in (1, 2, 3):
            q = project(query, h[a])
            scores = [sum(x * y for x, y in zip(q, project(key, h[b]), strict=True)) for b in (1, 2, 3)]
            weights = softmax(scores)
            soft = [sum(w * z[b][c] for w, b in zip(weights, (1, 2, 3), strict=True)) for c in range(3)]
            total += kl(soft, z[a], 3.0)
        return total

    assert got["distillation1_attention"].item() == near(9 * over_batch(rule, LOGITS, *features))
    leader = over_batch(lambda z: kl(mean(z[1:]), z[0], 3.0), LOGITS)
    assert got["distillation2_mean"].item() == near(9 * leader)
    got.total.backward()
    assert attention.query.weight.grad.abs().sum() > 0  # targets are not detached: only so does attention learn
    held, fixed = terms(OkdDip(detach_teacher=True), LOGITS.clone().requires_grad_(), features=features)
    fixed.total.backward()
    assert held.targets[0].query.weight.grad is None


def test_okddip_deploys_its_leader_from_branches_or_networks(digits):
    for share in (True, False):
        stage = next(OkdDip(network="resnet8", share=share).stages(TASK))
        peers = stage.network.peers
        assert stage.deliver["target"] is peers.target
        loss = stage.turns[0].module.loss
        assert [targets.teachers for targets in loss.targets] == [(1, 2, 3)] * 2
        assert [targets.students for targets in loss.targets] == [(1, 2, 3), (0,)]
    with pytest.raises(UserError, match="num_peers is 2.*leader"):
        OkdDip(num_peers=2)


def test_ffl_teaches_both_ways():
    logits = LOGITS[:, :2]
    _, got = terms(Ffl(), logits, ensemble=ENSEMBLE)
    down = over_batch(lambda z, f: sum(kl(f, peer, 3.0) for peer in z), logits, ENSEMBLE)
    up = over_batch(lambda z, f: kl(mean(z), f, 3.0), logits, ENSEMBLE)
    assert got["distillation1_ensemble"].item() == near(9 * down)
    assert got["distillation2_mean"].item() == near(9 * up)
    assert got["cross_entropy_ensemble"].item() == near(over_batch(lambda f, y: ce(f, y), ENSEMBLE, LABELS))


def test_ffls_fusion_is_the_published_module_with_a_decay_of_its_own():
    torch.manual_seed(0)
    stage = next(Ffl(network="resnet8").stages(TASK))
    fusion = stage.network.combiner
    assert isinstance(fusion, FusedMaps)
    shapes = [tuple(layer.weight.shape) for layer in (fusion.depthwise, fusion.pointwise, fusion.fc)]
    assert shapes == [(128, 1, 3, 3), (64, 128, 1, 1), (10, 64)]
    maps = tuple(torch.randn(4, 64, 2, 2) for _ in range(2))
    output = PeerOutput(torch.zeros(4, 2, 10), maps=maps)
    fusion.eval()
    expected = fusion.norm2(fusion.pointwise(fusion.norm1(fusion.depthwise(torch.cat(maps, 1))).relu())).relu()
    torch.testing.assert_close(fusion(output), fusion.fc(expected.mean((2, 3))))
    groups = Recipe(weight_decay=1e-4).make_optimiser(stage.turns[0].parameters).param_groups
    assert sorted(group["weight_decay"] for group in groups) == pytest.approx([1e-5, 1e-4])
    small = next(group for group in groups if group["weight_decay"] < 5e-5)["params"]
    assert {id(p) for p in small} == {id(p) for p in fusion.parameters()}


def test_ffl_fuses_tokens_and_maps_of_other_sizes():
    tokens = tuple(torch.randn(2, 5, 12) for _ in range(2))
    example = PeerOutput(torch.zeros(2, 2, 4), maps=tokens)
    assert FusedMaps(example)(example).shape == (2, 4)
    mixed = PeerOutput(torch.zeros(2, 2, 4), maps=(torch.randn(2, 8, 4, 4), torch.randn(2, 6, 2, 2)))
    assert FusedMaps(mixed)(mixed).shape == (2, 4)
    last = PeerOutput(torch.zeros(2, 2, 4), maps=tuple(torch.randn(2, 5, 5, 12) for _ in range(2)))
    fused = FusedMaps(last, channels_last=True)
    assert fused.depthwise.in_channels == 24
    assert fused(last).shape == (2, 4)
    with pytest.raises(UserError, match="feature maps"):
        FusedMaps(PeerOutput(torch.zeros(2, 2, 4)))


def test_pcls_peers_learn_from_the_fused_ensemble_and_from_averages():
    logits, averages = LOGITS[:, :3], LOGITS[:, 1:].flip(2)
    _, got = terms(Pcl(), logits, ensemble=ENSEMBLE, from_ema=PeerOutput(averages), progress=0.1)
    ramp = coterie.functional.ramp_up(0.1, 80 / 300)
    down = over_batch(lambda z, e: sum(kl(e, peer, 3.0) for peer in z), logits, ENSEMBLE)

    def rule(z, old):
        return sum(kl(old[k], z[j], 3.0) for j in range(3) for k in range(3) if k != j) / 2

    assert got["distillation1_ensemble"].item() == near(9 * ramp * down)
    assert got["distillation2_each"].item() == near(9 * over_batch(rule, logits, averages))  # no ramp


def test_pcls_ensemble_reads_all_peers_features():
    stage = next(Pcl(network="resnet8").stages(TASK))
    combiner = stage.network.combiner
    assert isinstance(combiner, FusedFeatures)
    assert combiner.fc.weight.shape == (10, 3 * 64)
    assert stage.views == 3
    output = stage.network.eval()(torch.randn(4, 1, 8, 8))
    torch.testing.assert_close(output.ensemble, combiner.fc(torch.cat(output.features, 1)))


def test_peers_may_be_other_networks():
    for kind in (Dml, Kdcl):
        stage = next(kind(network="resnet8", networks=("resnet14",)).stages(TASK))
        first, second = stage.network.peers.networks
        assert sum(p.numel() for p in second.parameters()) > sum(p.numel() for p in first.parameters())
    with pytest.raises(UserError, match="names 2 networks, and the target has 1"):
        next(Dml(network="resnet8", networks=("resnet8", "resnet8")).stages(TASK))


def test_peers_start_apart_and_every_branch_is_its_own():
    for name in ("dml", "cl-ilr", "okddip", "ffl", "pcl"):
        torch.manual_seed(0)
        stage = next(METHODS[name](network="resnet8").stages(TASK))
        logits = stage.network.eval()(torch.randn(4, 1, 8, 8)).logits
        for peer in range(1, logits.shape[1]):
            assert not torch.equal(logits[:, 0], logits[:, peer])
        tensors = [tensor.data_ptr() for tensor in stage.network.state_dict().values() if tensor.dim()]
        assert len(tensors) == len(set(tensors))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Dml(num_peers=1), "'each' needs two peers"),
        (lambda: Dml(temperature=0), "temperature is 0"),
        (lambda: Dml(updates="sequental"), "did you mean 'sequential'"),
        (lambda: ClIlr(beta=2), "beta is 2"),
        (lambda: ClIlr(weights="code"), "unknown weights"),
        (lambda: Kdcl(teacher="linaer"), "did you mean 'linear'"),
        (lambda: Kdcl(weight=-1), "weight is -1"),
        (lambda: Ffl(num_peers=1), "num_peers is 1"),
        (lambda: Pcl(num_branches=1), "num_branches is 1"),
        (lambda: Pcl(ema_decay=2), "ema_decay is 2"),
    ],
)
def test_options_that_cannot_be_are_refused_in_one_line(make, message):
    with pytest.raises(UserError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
