"""Rows whose published figures are a code's train that code's loss: the codes' formulas in plain arithmetic.

What each code computes stands in its repository: Lan1991Xu/ONE_NeurIPS2018, winycg/MCL-OKD, szq0214/MEAL-V2,
AaronHeee/MEAL, viebboy/SRM.
"""

from math import exp, log

import pytest
import torch
from torch import nn

import coterie
from coterie.methods import Task
from coterie.methods.frozen_teacher import Adapted
from coterie.methods.vanilla import CrossEntropyStep
from coterie.outputs import Batch
from coterie.studies.reading import load_study
from coterie.studies.smoke import without_downloads
from coterie.studies.trial import method_of, recipe_of
from peers import LABELS, LOGITS, ce, kl, mean, over_batch, softmax, terms

ENSEMBLE = torch.tensor([[0.2, 0.1, 1.1], [0.9, -0.4, 0.3]], dtype=torch.float64)


def configuration(study, arm):
    """What the first trial of an arm of the paper's scale is trained with."""
    return next(trial.configuration for trial in load_study(study).scale("paper").trials() if trial.arm == arm)


def method(study, arm):
    return method_of(without_downloads(configuration(study, arm)))


def near(value):
    return pytest.approx(value, abs=1e-12)


def total(study, arm, logits, **given):
    """An arm's loss of these answers, at an eighth and at the end of the training."""
    return [terms(method(study, arm), logits, progress=at, **given)[1].total.item() for at in (1 / 8, 1.0)]


def ramp(epoch):
    return exp(-5 * (1 - min(epoch, 80) / 80) ** 2)


def ones(z, e, y, weight):
    """Σ CE + CE of the ensemble + w T² Σ KL(ensemble ‖ branch) at T = 3."""
    taught = sum(kl(e, peer, 3.0) for peer in z)
    return sum(ce(peer, y) for peer in z) + ce(e, y) + weight * 9 * taught


@pytest.mark.parametrize(("arm", "count"), [("one", 3), ("one-2", 2), ("one-4", 4)])
def test_ones_arms_train_what_its_code_does(arm, count):
    logits = LOGITS[:, :count]

    def at(epoch):
        return over_batch(lambda z, e, y: ones(z, e, y, ramp(epoch)), logits, ENSEMBLE, LABELS)

    expected = [at(37.5), at(300)]
    assert total("one", arm, logits, ensemble=ENSEMBLE) == near(expected)
    recipe = recipe_of(configuration("one", arm))
    assert (recipe.momentum, recipe.nesterov, recipe.weight_decay, recipe.drops) == (0.9, False, 1e-4, (0.5, 0.75))


def test_mcl_okds_one_has_no_ramp():
    expected = over_batch(lambda z, e, y: ones(z, e, y, 1.0), LOGITS, ENSEMBLE, LABELS)
    assert total("online", "one-b", LOGITS, ensemble=ENSEMBLE) == near([expected, expected])


def test_mcl_okds_cl_ilr_weighs_a_half_and_a_half_times_four():
    def rule(z, y):
        loss = sum(0.5 * ce(head, y) for head in z)
        for head in range(4):
            others = mean([z[other] for other in range(4) if other != head])
            loss += 0.5 * 2.0**2 * kl(others, z[head], 2.0)
        return loss

    expected = over_batch(rule, LOGITS, LABELS)
    assert total("online", "cl-ilr-b", LOGITS) == near([expected, expected])
    made = method("online", "cl-ilr-b").config()
    # A binary tree whose gradients are halved wherever it branches.
    assert (made.peers.num, made.peers.at, made.peers.rescale) == ((2, 2), ("layer2", "layer3"), True)
    assert made.distillations[0].detach


def test_mcl_okds_dml_averages_the_pairwise_divergences_times_four():
    def rule(z, y):
        pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
        return sum(ce(peer, y) for peer in z) + sum(2.0**2 * kl(z[j], z[i], 2.0) / 3 for i, j in pairs)

    expected = over_batch(rule, LOGITS, LABELS)
    assert total("online", "dml-b", LOGITS) == near([expected, expected])


def test_mcl_okds_okddip_ramps_and_its_leader_learns_from_the_auxiliaries():
    torch.manual_seed(0)
    features = tuple(torch.randn(2, 16, dtype=torch.float64) for _ in range(4))
    for at, epoch in ((1 / 8, 37.5), (1.0, 300)):
        loss, got = terms(method("online", "okddip-b"), LOGITS, features=features, progress=at)
        query, key = (layer.weight.tolist() for layer in (loss.targets[0].query, loss.targets[0].key))

        def rule(z, y, *h, query=query, key=key, epoch=epoch):
            def project(matrix, vector):
                return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]

            loss = sum(ce(peer, y) for peer in z)
            for a in (1, 2, 3):
                q = project(query, h[a])
                weights = softmax([sum(x * k for x, k in zip(q, project(key, h[b]), strict=True)) for b in (1, 2, 3)])
                soft = [sum(w * z[b][c] for w, b in zip(weights, (1, 2, 3), strict=True)) for c in range(3)]
                loss += ramp(epoch) * 9 * kl(soft, z[a], 3.0)
            return loss + ramp(epoch) * 9 * kl(mean(z[1:]), z[0], 3.0)

        assert got.total.item() == near(over_batch(rule, LOGITS, LABELS, *features))


@pytest.mark.parametrize("arm", ["alone-b", "cl-ilr-b", "dml-b", "one-b", "okddip-b"])
def test_mcl_okds_arms_have_its_recipe(arm):
    config = configuration("online", arm)
    recipe = recipe_of(config)
    assert (recipe.learning_rate, recipe.momentum, recipe.nesterov, recipe.weight_decay) == (0.1, 0.9, True, 5e-4)
    assert (recipe.schedule, config["epochs"], config["batch_size"]) == ("cosine", 300, 128)
    assert config["data"]["mean"] == [0.5071, 0.4867, 0.4408]
    assert config["data"]["std"] == [0.2675, 0.2565, 0.2761]


CLASSES = 16


class Answers(nn.Module):
    """A network that answers what it was given."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images):
        return self.logits


def taught(study, arm, teachers):
    """The student's stage of an arm of MEAL's, on two images, with teachers of these answers (t, B, C)."""
    made = method(study, arm)
    made.network = lambda num_classes, in_channels: Answers(student().clone())
    made.teacher, made.teacher_network = [str(number) for number in range(len(teachers))], None
    made.teachers = type(made).teachers

    def opened(name):
        return Adapted(Answers(teachers[int(name)]))

    torch.manual_seed(0)
    *_, stage = made.stages(Task(CLASSES, 3, (8, 8), open=opened))
    stage.turns[0].module.double()
    return stage


def student():
    return torch.randn(2, CLASSES, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def sigmoid(value):
    return 1 / (1 + exp(-value))


def forward(layers, vector, final_relu=True):
    """Fully connected layers with a ReLU behind each, on plain lists."""
    for place, layer in enumerate(layers):
        weight, bias = layer.weight.tolist(), layer.bias.tolist()
        vector = [sum(w * x for w, x in zip(row, vector, strict=True)) + b for row, b in zip(weight, bias, strict=True)]
        if final_relu or place < len(layers) - 1:
            vector = [max(value, 0.0) for value in vector]
    return vector


def discriminated(layers, own, theirs):
    """BCE-with-logits against (1, 0) for the student's rows and (0, 1) for the teacher's: the mean of all 4 B."""
    losses = []
    for vectors, wanted in ((own, (1, 0)), (theirs, (0, 1))):
        for vector in vectors:
            said = zip(forward(layers, vector), wanted, strict=True)
            losses += [-log(sigmoid(value) if is_so else 1 - sigmoid(value)) for value, is_so in said]
    return sum(losses) / len(losses)


@pytest.mark.parametrize(
    ("arm", "drawn", "divisor"),
    [("meal", True, 2), ("meal-v2", False, 8), ("meal-v2-200", False, 8), ("meal-v2-380", False, 8)],
)
def test_meals_arms_train_what_its_codes_do(arm, drawn, divisor):
    generator = torch.Generator().manual_seed(4)
    said = torch.randn(2, 2, CLASSES, generator=generator, dtype=torch.float64)
    stage = taught("meal", arm, said)
    module = stage.turns[0].module
    layers = [layer for layer in module.discriminators[0].layers if isinstance(layer, nn.Linear)]
    widths = [CLASSES // divisor, max(CLASSES // divisor // divisor, 1), 2]
    assert [layer.out_features for layer in layers] == widths
    batch = Batch((torch.zeros(2, 3, 8, 8, dtype=torch.float64),), torch.tensor([0, 1]), torch.arange(2))
    torch.manual_seed(5)
    member = int(torch.randint(2, ())) if drawn else None
    teachers = said if member is None else said[member : member + 1]
    # The student learns from the mean of the teachers' softmax, the discriminator from the mean of their logits.
    soft = [mean([softmax(teacher[image].tolist()) for teacher in teachers]) for image in range(2)]
    own = student().tolist()
    similarity = (
        -sum(p * log(q) for image in range(2) for p, q in zip(soft[image], softmax(own[image]), strict=True)) / 2
    )
    theirs = [mean([teacher[image].tolist() for teacher in teachers]) for image in range(2)]
    torch.manual_seed(5)
    got = module(batch).loss.total.item()
    assert got == pytest.approx(similarity + discriminated(layers, own, theirs), abs=1e-6)


def test_meal_v2s_discriminator_and_schedule_are_those_of_its_released_code():
    for arm, epochs in (("meal-v2", 180), ("meal-v2-200", 200), ("meal-v2-380", 200)):
        config = configuration("meal", arm)
        recipe = recipe_of(config)
        assert (config["epochs"], config["batch_size"]) == (epochs, 512)
        assert (recipe.momentum, recipe.nesterov, recipe.weight_decay) == (0.9, False, 0.0)
        assert method("meal", arm).discriminator_rate == recipe.learning_rate == 0.01  # the code overwrites its own
        optimiser = recipe.make_optimiser([nn.Parameter(torch.zeros(1))])
        steps = 2503  # in an epoch of 1,281,167 images
        schedule = recipe.make_schedule(optimiser, epochs * steps)
        (rate,) = schedule.lr_lambdas
        assert (rate(101 * steps - 1), rate(101 * steps)) == (1, 0.1)
    networks = {name: each["name"] for name, each in load_study("meal").scale("paper").networks.items()}
    assert networks["mobilenetv3-large-pretrained"] == "timm/tf_mobilenetv3_large_100.in1k"
    assert networks["efficientnet-b0-pretrained"] == "timm/tf_efficientnet_b0.aa_in1k"


@pytest.mark.parametrize(("study", "arm"), [("one", "alone"), ("online", "alone-b"), ("meal", "alone")])
def test_networks_alone_learn_from_labels_alone(study, arm):
    made = method(study, arm)
    made.network = lambda num_classes, in_channels: Answers(student().clone())
    (stage,) = made.stages(Task(CLASSES, 3, (8, 8)))
    assert isinstance(stage.turns[0].module, CrossEntropyStep)
    labels = torch.tensor([3, 7])
    batch = Batch((torch.zeros(2, 3, 8, 8),), labels, torch.arange(2))
    assert stage.turns[0].module(batch).loss.total.item() == near(over_batch(ce, student(), labels))


def test_every_arm_with_a_codes_figures_is_compared_here():
    compared = {
        "one": {"alone", "one", "one-2", "one-4", "one-5"},
        "online": {"alone-b", "cl-ilr-b", "dml-b", "one-b", "okddip-b"},
        "meal": {"alone", "meal", "meal-v2", "meal-v2-200", "meal-v2-380"},
        "srm": {"srm-imagenet"},  # in tests/test_methods_srm.py, to the code's own
    }
    for study in coterie.studies.reading.study_names():
        scales = load_study(study).scales.values()
        found = {
            figure.arm
            for scale in scales
            for table in scale.tables
            for figure in table.published
            if figure.evidence.startswith("official code") or "winycg/MCL-OKD" in figure.evidence
        }
        assert found <= compared.get(study, set()), study
