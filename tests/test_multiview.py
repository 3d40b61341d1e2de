"""The multi-view theory's data, network, descent and experiments."""

import pytest
import torch
from torch.nn import functional

from coterie import UserError
from coterie.methods import Online, Task
from coterie.methods.online.peers import Independent
from coterie.outputs import Batch
from coterie.studies.experiments import EXPERIMENTS
from coterie.studies.multiview.descent import Objective, descend
from coterie.studies.multiview.distribution import MultiView, stream
from coterie.studies.multiview.instance import Instance, Problem, both, error, gain, winner
from coterie.studies.multiview.kernels import compute_tangents
from coterie.studies.multiview.networks import MultiViewNetworks, activation, make_networks, sum_networks
from coterie.studies.reading import load_study

SMALL = {"classes": 4, "dimension": 40, "patches": 6}


def drawn(count=300, single=0.5, seed=3, **parameters):
    data = MultiView(**{**SMALL, **parameters})
    features = data.features(seed)
    return features, data.sample(features, count, single, stream(seed, 1))


def networks(count=3, filters=2, power=4.0, dtype=torch.float32, seed=0):
    weight = make_networks(count, 4, filters, 40, 0.1, stream(seed)).to(dtype)
    return MultiViewNetworks(weight, power)


# The distribution


def test_features_are_orthonormal():
    features = MultiView().features(0).flatten(0, 1)
    torch.testing.assert_close(features @ features.T, torch.eye(20), atol=1e-5, rtol=0)


def test_the_same_seed_gives_the_same_samples_and_another_does_not():
    _, first = drawn()
    _, again = drawn()
    _, other = drawn(seed=4)
    for name in ("patches", "labels", "single", "strength"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert not torch.equal(first.patches, other.patches)


def test_streams_of_other_numbers_are_other_draws():
    draws = [torch.rand(1000, generator=stream(*each)) for each in ((0, 1), (1, 0), (0, 2), (2,))]
    for index, draw in enumerate(draws):
        for other in draws[:index]:
            assert abs(torch.corrcoef(torch.stack([draw, other]))[0, 1]) < 0.15


def test_single_view_samples_lack_a_view_of_their_class_and_others_do_not():
    _, samples = drawn()
    own = samples.strength[torch.arange(300), samples.labels]
    weaker, stronger = own.sort(1).values.T
    assert ((stronger >= 1) & (stronger <= 1.4)).all()
    assert (weaker[samples.single] <= 0.05 * 1.4).all()
    assert (weaker[~samples.single] >= 1).all()
    assert 100 < samples.single.sum() < 200
    missing = own[samples.single].argmin(1).double().mean()
    assert 0.35 < missing < 0.65  # either view may be missing


def test_other_features_have_the_strength_of_their_kind_of_sample_and_the_number_said():
    _, samples = drawn(count=2000, off_count=2.0)
    rows = torch.arange(2000)
    off = samples.strength.clone()
    off[rows, samples.labels] = 0
    multi, single = off[~samples.single], off[samples.single]
    assert ((multi == 0) | ((multi >= 0.35) & (multi <= 0.4))).all()
    assert single.unique().tolist() == [0.0, pytest.approx(0.3)]
    # Two of six in the mean; at most four, which have a patch each, lowers it: E[min(X, 4)] of a binomial (6, 1/3).
    assert (off > 0).sum((1, 2)).double().mean().item() == pytest.approx(1.98, abs=0.1)


def test_where_there_are_too_many_others_those_that_stay_away_are_drawn_at_random():
    _, samples = drawn(count=2000, off_count=6.0)
    assert ((samples.strength > 0).sum((1, 2)) == 6).all()
    others = samples.labels == 0
    shares = (samples.strength[others][:, 1:] > 0).double().mean(0)  # four of six features
    assert (shares - 4 / 6).abs().max() < 0.08


def test_every_feature_has_a_patch_of_its_own_and_the_rest_is_noise():
    features, samples = drawn(noise=0.0, background=0.0)
    found = torch.einsum("npd,kld->nkl", samples.patches, features)
    torch.testing.assert_close(found, samples.strength, atol=1e-5, rtol=0)
    assert ((samples.patches.norm(dim=2) > 0.01).sum(1) == (samples.strength > 0).sum((1, 2))).all()
    places = samples.patches.norm(dim=2).argmax(1).bincount(minlength=6)
    assert (places > 25).all()  # at any place


def test_noise_has_the_norms_said():
    _, samples = drawn(main=(0.0, 0.0), off_count=0.0, noise=0.2, background=2.0, dimension=400)
    norms = samples.patches.norm(dim=2).sort(1).values
    torch.testing.assert_close(norms[:, :2].mean(), torch.tensor(0.2), rtol=0.03, atol=0)
    torch.testing.assert_close(norms[:, 2:].mean(), torch.tensor(2.0), rtol=0.03, atol=0)


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({"classes": 1}, "classes"),
        ({"dimension": 7}, "dimension"),
        ({"patches": 1}, "patches"),
        ({"main": (1.4, 1.0)}, "main"),
        ({"off": (-0.1, 1.0)}, "off"),
        ({"off_count": 7.0}, "off_count"),
        ({"weak": -1.0}, "weak"),
        ({"background": float("nan")}, "background"),
    ],
)
def test_bad_parameters_are_named(parameters, name):
    with pytest.raises(UserError, match=name):
        MultiView(**{**SMALL, **parameters})


# The network


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0, 4.0])
def test_activation_is_continuous_and_its_slope_is_its_derivative(power):
    z = torch.linspace(-0.31, 1.29, 33, dtype=torch.float64).requires_grad_()
    value, slope = activation(z, power, 0.5)
    torch.testing.assert_close(torch.autograd.grad(value.sum(), z)[0], slope.detach())
    edge = torch.tensor([0.0, 1e-9, 0.5, 0.5 + 1e-9, 0.8], dtype=torch.float64)
    values, slopes = activation(edge, power, 0.5)
    expected = torch.tensor([0, 0, 0.5 / power, 0.5 / power, 0.8 - (1 - 1 / power) * 0.5], dtype=torch.float64)
    torch.testing.assert_close(values, expected, atol=1e-8, rtol=0)
    torch.testing.assert_close(slopes[2:], torch.ones(3, dtype=torch.float64), atol=1e-7, rtol=0)
    assert slopes[0] == 0


def test_logits_are_the_sum_over_filters_and_patches():
    _, samples = drawn(count=5)
    group = networks()
    expected = torch.zeros(3, 5, 4)
    for net in range(3):
        for label in range(4):
            for filters in group.weight[net, label]:
                expected[net, :, label] += activation(samples.patches @ filters, 4, 0.5)[0].sum(1)
    torch.testing.assert_close(group.logits(samples.patches), expected)


def test_the_gradient_is_autograds_of_the_labels_and_the_squared_temperatures_divergence():
    _, samples = drawn(count=20)
    patches = samples.patches.double()
    group = networks(dtype=torch.float64)
    teacher = torch.randn(3, 20, 4, dtype=torch.float64, generator=stream(7))
    target = (teacher / 4).softmax(2)
    objective = Objective(labels=0.1, soft=1.0, temperature=4.0, target=target)
    response = group.respond(patches)
    got = group.gradient(patches, response.slope, objective.gradient(response.logits, samples.labels))

    weight = group.weight.clone().requires_grad_()
    logits = MultiViewNetworks(weight).logits(patches)
    loss = torch.zeros((), dtype=torch.float64)
    for net in range(3):
        soft = (logits[net] / 4).log_softmax(1)
        loss += 0.1 * functional.cross_entropy(logits[net], samples.labels)
        loss += 16 * functional.kl_div(soft, target[net], reduction="batchmean")
    torch.testing.assert_close(got, torch.autograd.grad(loss, weight)[0])


def test_networks_learn_in_parallel_as_they_do_alone():
    _, samples = drawn(count=40)
    together = descend(networks(), samples, Objective(), 30, 1.0)
    for index in range(3):
        alone = MultiViewNetworks(networks().weight[index : index + 1].clone())
        descend(alone, samples, Objective(), 30, 1.0)
        torch.testing.assert_close(alone.weight[0], together.weight[index], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(together.weight, networks().weight, atol=1e-2)


def test_the_boost_ends_with_the_plateau():
    _, samples = drawn(count=40)
    plain, boosted = (descend(networks(), samples, Objective(), 1, rate, boost) for rate, boost in ((4, 1), (1, 4)))
    torch.testing.assert_close(plain.weight, boosted.weight)
    trained = descend(networks(), samples, Objective(), 200, 1.0)  # by now below the plateau
    weights = [
        descend(MultiViewNetworks(trained.weight.clone()), samples, Objective(), 1, 1.0, boost).weight
        for boost in (1.0, 4.0)
    ]
    assert torch.equal(*weights)


def test_the_sum_of_networks_is_one_network_with_all_their_filters():
    _, samples = drawn(count=10)
    group = networks(count=10)
    joint = MultiViewNetworks(sum_networks(group.weight))
    assert joint.weight.shape == (1, 4, 20, 40)
    torch.testing.assert_close(joint.logits(samples.patches)[0], group.logits(samples.patches).sum(0))


@pytest.mark.parametrize("wrong", [{"power": 0.5}, {"linear_from": 0.0}])
def test_bad_networks_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        MultiViewNetworks(torch.zeros(1, 2, 1, 4), **wrong)


# What is measured


def test_an_ensemble_of_identical_members_is_one_member():
    problem = Problem(Instance(data=MultiView(**SMALL), samples=30, test_single=50, test_multi=40), 0)
    one = problem.networks(1, 4)
    same = problem.holding(one.weight.repeat(4, 1, 1, 1))
    alone = problem.measure(one)
    for size in (None, 2):
        averaged = problem.measure_mean(same, size)
        assert averaged == {name: pytest.approx(alone[name]) for name in averaged}


def test_an_ensemble_of_pairs_averages_within_pairs():
    problem = Problem(Instance(data=MultiView(**SMALL), samples=30, test_single=50, test_multi=40), 0)
    group = problem.networks(5, 4)
    pairs = [problem.measure_mean(problem.holding(group.weight[i : i + 2])) for i in (0, 2)]
    expected = sum(each["single_view_error"] for each in pairs) / 2
    assert problem.measure_mean(group, 2)["single_view_error"] == pytest.approx(expected)


def test_metrics_by_hand():
    logits = torch.tensor([[[0.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]]])
    assert error(logits, torch.tensor([1, 1])) == 75
    seen = torch.tensor([[[1.0, 0.1], [0.3, 1.0], [-1.0, 0.5], [0.21, 1.0]]])
    assert both(seen) == 0.5
    after = torch.tensor([[[0.1, 1.0], [0.3, 1.0], [-1.0, 0.5], [0.21, 1.0]]])
    assert winner(seen, after) == 0.75
    told = gain({"e": 30.0}, {"e": 40.0}, {"e": 20.0}, "e")
    assert told == {"e": 30.0, "gain": 10.0, "kept_gain": 50.0}
    assert gain({"e": 30.0}, {"e": 20.0}, {"e": 20.0}, "e")["kept_gain"] is None


# The experiments, small

TINY = {"data": SMALL, "samples": 40, "test_single": 60, "test_multi": 40}
STUDENTS = {"labels", "labels_matched", "labels_longer", "kd", "kd_t1", "smoothing", "self_kd", "self_kd_later"}


def run(name, **options):
    results = EXPERIMENTS[name](options, 0)
    assert results == EXPERIMENTS[name](options, 0)
    assert results != EXPERIMENTS[name](options, 1)
    for metrics in results.values():
        assert all(0 <= value <= 100 for name, value in metrics.items() if "error" in name)
    return results


def test_theorems_tiny():
    tiny = {**TINY, "members": 4, "students": 3, "steps": 60, "distill_steps": 60}
    results = run("multiview-theorems", **tiny)
    assert set(results) == {"single", "ensemble", "ensemble2", "joint", *STUDENTS}
    assert results["ensemble"]["gain"] > 0
    assert results["ensemble"]["kept_gain"] == pytest.approx(100)
    assert results["labels_matched"]["gain"] == results["labels_longer"]["gain"] == 0
    for name, baseline in (("kd", "labels_matched"), ("self_kd_later", "labels_longer"), ("labels", "single")):
        before, after = results[baseline]["single_view_error"], results[name]["single_view_error"]
        assert results[name]["gain"] == pytest.approx(before - after)
    assert "both" in results["kd"]
    assert "both" not in results["ensemble"]


def test_selection_tiny():
    results = run("multiview-selection", **TINY, steps=60, members=3)
    assert set(results) == {f"{part}_q{power}" for part in ("single", "ensemble") for power in (4, 3, 2)}
    single, ensemble = results["single_q3"], results["ensemble_q3"]
    assert ensemble["gain"] == pytest.approx(single["single_view_error"] - ensemble["single_view_error"])
    assert 0 <= single["winner"] <= 100


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("multiview-random-features", {"features": 30}),
        ("multiview-random-features", {"features": 60}),
        ("multiview-tangent-kernel", {"power": 1}),
        ("multiview-tangent-kernel", {"power": 4}),
    ],
)
def test_kernels_tiny(name, options):
    results = run(name, **TINY, **options, members=3, students=2)
    assert set(results) == {"single", "ensemble", "joint", "labels", "kd"}


def test_the_tangent_features_are_autograds_gradients():
    _, samples = drawn(count=6)
    group = networks(count=1, dtype=torch.float64)
    patches = samples.patches.double()
    weight = group.weight.clone().requires_grad_()
    logits = MultiViewNetworks(weight).logits(patches)[0]
    features = compute_tangents(group, patches)
    for sample in range(6):
        for label in range(4):
            gradient = torch.autograd.grad(logits[sample, label], weight, retain_graph=True)[0][0]
            torch.testing.assert_close(features[label, sample], gradient[label].flatten())
            assert gradient.count_nonzero() == gradient[label].count_nonzero()  # no other class's filters


@pytest.mark.parametrize("labels", ["mixture", "linear", "two-layer"])
def test_gaussian_tiny(labels):
    small = {"samples": 60, "test": 100, "batch": 20, "epochs": 3, "width": 8, "members": 3, "students": 2}
    results = run("multiview-gaussian", labels=labels, **small)
    assert set(results) - {"optimum"} == {"single", "ensemble", "joint", "labels", "kd"}
    assert ("optimum" in results) == (labels == "mixture")
    if labels == "mixture":
        assert results["optimum"]["error"] <= results["single"]["error"]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_unknown_options_are_named(name):
    with pytest.raises(UserError, match="'member'; did you mean 'members'"):
        EXPERIMENTS[name]({"member": 3}, 0)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("multiview-theorems", {"members": "ten"}, "members is 'ten'"),
        ("multiview-theorems", {"members": 2.5}, "whole number"),
        ("multiview-theorems", {"students": 11}, "10 members and 11 students"),
        ("multiview-theorems", {"data": {"patch": 3}}, "'patch'; did you mean 'patches'"),
        ("multiview-theorems", {"data": 3}, "mapping"),
        ("multiview-selection", {"powers": [4, 3]}, "one length"),
        ("multiview-selection", {"powers": 4}, "list of numbers"),
        ("multiview-random-features", {"ridge": 0}, "ridge"),
        ("multiview-gaussian", {"labels": "linea"}, "did you mean 'linear'"),
        ("multiview-gaussian", {"batch": 2000}, "batch is 2000"),
    ],
)
def test_wrong_options_are_told(name, options, says):
    with pytest.raises(UserError, match=says):
        EXPERIMENTS[name](options, 0)


# The study


def test_every_claim_of_the_study_is_of_parts_that_are_measured():
    study = load_study("multiview")
    small = study.scale("small")
    assert {arm["experiment"]["name"] for arm in small.arms.values() if "experiment" in arm} == set(EXPERIMENTS)
    parts = {
        "theorems": {"single", "ensemble", "ensemble2", "joint", *STUDENTS},
        "selection": {f"{part}_q{power}" for part in ("single", "ensemble") for power in (4, 3, 2)},
        "powers": {f"{part}_q{power}" for part in ("single", "ensemble") for power in (4, 2)},
        "kernel": {"single", "ensemble", "joint", "labels", "kd"},
        "method": {"target", "ensemble"},
    }
    for claim in study.claims:
        for side in (claim.by, claim.than):
            if isinstance(side, (int, float)):
                continue
            kind = side.arm if side.arm in parts else "kernel" if "experiment" in small.arms[side.arm] else "method"
            assert side.part in parts[kind], claim.says


def test_the_joint_arm_trains_the_average_alone():
    options = {key: value for key, value in load_study("multiview").scale("small").arms["joint"]["method"].items()}
    assert options.pop("name") == "online"
    method = Online(network="resnet8", **options)
    assert method.peers == Independent(num=5)
    method.peers = Independent(num=2)
    turn = next(iter(method.stages(Task(10, 1, (8, 8), 1)))).turns[0]
    images, labels = torch.randn(6, 1, 8, 8, generator=stream(0)), torch.arange(6)
    turn.module.eval()
    step = turn.module(Batch((images,), labels, torch.arange(6)))
    step.loss.total.backward()
    weights = turn.trainable()
    got = [parameter.grad.clone() for parameter in weights]
    mean = step.output.logits.mean(1)
    expected = 5 * functional.cross_entropy(mean, labels)  # as fast as each alone
    assert step.loss.total.item() == pytest.approx(expected.item())
    turn.module.zero_grad()
    (5 * functional.cross_entropy(turn.module.group(images).logits.mean(1), labels)).backward()
    for gradient, parameter in zip(got, weights, strict=True):
        torch.testing.assert_close(gradient, parameter.grad)
    assert any(gradient.abs().max() > 0 for gradient in got)
