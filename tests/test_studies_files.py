"""The study files of the published papers: everything they name exists, and their figures are the published ones."""

import inspect
from pathlib import Path

import pytest

from coterie.data import DATASETS, load
from coterie.networks import NETWORKS, libraries
from coterie.studies.analyses import CURVES, MEASURES
from coterie.studies.claims import Side
from coterie.studies.experiments import EXPERIMENTS
from coterie.studies.reading import load_study, study_names
from coterie.studies.study import locate_run
from coterie.studies.trial import method_of, recipe_of

STUDIES = study_names()
PAPERS = [name for name in ("one", "oem", "srm", "meal", "compact", "online") if name in STUDIES]
# From the surest to the least sure; the evidence of a figure begins with one of them.
EVIDENCE = ("paper", "official code", "secondary", "derived", "unverified")


def scales(study):
    return [(scale, study.scales[scale]) for scale in study.scales]


def sure(evidence):
    """The place of a figure's evidence among EVIDENCE, by the first word."""
    return next(place for place, word in enumerate(EVIDENCE) if evidence.startswith(word))


def figures(study, **wanted):
    """The published figures with these attributes."""
    found = [each for _, scale in scales(study) for table in scale.tables for each in table.published]
    return [each for each in found if all(getattr(each, name) == value for name, value in wanted.items())]


def test_the_papers_are_there():
    assert PAPERS == ["one", "oem", "srm", "meal", "compact", "online"]


@pytest.mark.parametrize("name", STUDIES)
def test_every_trial_names_what_exists(name):
    for _, scale in scales(load_study(name)):
        for trial in {(trial.arm, trial.network, trial.data): trial for trial in scale.trials()}.values():
            config = trial.configuration
            if "experiment" in config:
                assert config["experiment"]["name"] in EXPERIMENTS
                continue
            method = method_of(config)
            assert set(method.epochs) <= set(method.stage_names()), trial.name
            library, _, network = method.network.source.rpartition("/")
            assert network in NETWORKS if not library else libraries.is_known(library, network), trial.name
            assert method.network.preprocessing() is not None or not method.network.pretrained, trial.name
            recipe_of(config)  # a wrong option is refused
            inspect.signature(load).bind(**config["data"])
            assert config["data"]["name"] in DATASETS
            assert set(trial.measures) <= {*MEASURES, CURVES}
            assert set(config) <= {
                *("method", "network", "data", "seed", "epochs", "batch_size", "recipe", "threads", "precision"),
                *("compile", "test_every"),
            }
            assert config["epochs"] > 0


@pytest.mark.parametrize("name", STUDIES)
def test_published_figures_stand_beside_a_arm_of_their_table(name):
    for _, scale in scales(load_study(name)):
        for table in scale.tables:
            for each in table.published:
                assert each.arm in table.arms, (table.name, each.arm)
                assert each.evidence.startswith(EVIDENCE), each
                assert isinstance(each.value, float | int)
                if each.metric.endswith("error"):
                    assert 0 < each.value < 100
            places = [(each.arm, each.part, each.of, each.metric, each.where) for each in table.published]
            assert len(set(places)) == len(places), table.name


@pytest.mark.parametrize("name", STUDIES)
def test_claims_compare_arms_that_stand_together(name):
    study = load_study(name)
    assert study.claims or any(scale.frontiers for _, scale in scales(study))
    for claim in study.claims:
        assert claim.evidence.startswith(EVIDENCE) or claim.published is None, claim.says
        sides = [side.arm for side in (claim.by, claim.than) if isinstance(side, Side)]
        for scale_name, scale in scales(study):
            data = {
                arm: {where for table in scale.tables if arm in table.arms for where in table.data} for arm in sides
            }
            if all(data.values()):
                assert set.intersection(*data.values()), (claim.says, scale_name)
        tables = [table for _, scale in scales(study) for table in scale.tables]
        assert all(any(arm in table.arms for table in tables) for arm in sides), claim.says


def test_the_small_scales_fit_two_cores_and_one_evening():
    minutes = {}
    for name in STUDIES:
        study = load_study(name)
        if "small" in study.scales:
            small = study.scales["small"]
            assert small.seeds >= 5
            for trial in small.trials():
                assert trial.configuration.get("threads", 1) == 1
                minutes[locate_run(trial, Path("runs"))] = trial.minutes  # what studies share is trained once
    assert max(minutes.values()) < 5
    assert 300 < sum(minutes.values()) <= 400


def test_studies_share_the_trials_they_have_in_common():
    found = {}
    for name in PAPERS:
        study = load_study(name)
        if "small" in study.scales:
            for trial in study.scales["small"].trials():
                if trial.arm in ("alone", "ensemble-3"):
                    found.setdefault(trial.key, []).append(trial.configuration)
    shared = {key: trials for key, trials in found.items() if len(trials) > 1}
    assert len(shared) >= 5
    assert all(each == trials[0] for trials in shared.values() for each in trials)


# Typed from the papers' specifications, apart from the files: study, arm, part, of, metric, value, evidence.
CHECKS = [
    ("one", "alone", "target", "CIFAR-10, ResNet-32", "error", 6.93, "secondary"),
    ("one", "one", "target", "CIFAR-10, ResNet-32", "error", 5.99, "secondary"),
    ("one", "alone", "target", "CIFAR-100, ResNet-32", "error", 31.18, "secondary"),
    ("one", "one", "target", "CIFAR-100, ResNet-32", "error", 26.61, "secondary"),
    ("one", "one", "target", "CIFAR-100, ResNet-110", "error", 21.62, "secondary"),
    ("one", "one", "target", "CIFAR-100, DenseNet-BC 190-40", "error", 16.35, "unverified"),
    ("one", "one-svhn", "target", "SVHN, ResNet-32", "error", 1.83, "secondary"),
    ("one", "alone-svhn", "target", "SVHN, ResNet-32", "error", 2.11, "unverified"),
    ("one", "alone-imagenet", "target", "ImageNet, ResNet-18", "error", 30.48, "secondary"),
    ("one", "one-imagenet", "target", "ImageNet, ResNet-18", "error", 29.45, "secondary"),
    ("one", "one-imagenet", "target", "ImageNet, ResNet-18", "top5_error", 10.41, "unverified"),
    ("one", "one-imagenet", "target", "ImageNet, SE-ResNet-18", "error", 29.02, "unverified"),
    ("one", "kd", "target", "CIFAR-100, ResNet-32", "error", 28.83, "unverified"),
    ("one", "dml", "target", "CIFAR-100, ResNet-110", "error", 24.10, "secondary"),
    ("one", "one", "training", "CIFAR-100, ResNet-110", "flops", 8.29e8, "secondary"),
    ("one", "ensemble-3", "ensemble", "CIFAR-100, ResNet-32", "error", 25.14, "unverified"),
    ("one", "snapshot", "ensemble", "CIFAR-100, ResNet-32", "error", 27.12, "secondary"),
    ("one", "one", "ensemble", "CIFAR-100, ResNet-110", "error", 21.03, "unverified"),
    ("one", "one-without-kl", "target", "CIFAR-100, ResNet-110", "error", 24.73, "secondary"),
    ("one", "one-without-sharing", "target", "CIFAR-100, ResNet-110", "error", 22.45, "secondary"),
    ("one", "one-4", "target", "CIFAR-100, ResNet-32", "error", 26.80, "official code"),
    ("one", "one-4", "target", "CIFAR-100, ResNet-32", "error", 26.58, "unverified"),
    ("one", "one-2", "ensemble", "CIFAR-100, ResNet-32", "error", 25.94, "official code"),
    ("oem", "alone-350", "target", "CIFAR-10, ResNet-20", "error", 8.66, "paper"),
    ("oem", "oem-350", "student5", "CIFAR-10, ResNet-110", "error", 6.72, "paper"),
    ("oem", "student5-alone", "student5-alone", "CIFAR-100, ResNet-110", "error", 57.74, "paper"),
    ("oem", "oem", "student5", "CIFAR-100, ResNet-110", "error", 53.24, "paper"),
    ("oem", "oem", "student3", "CIFAR-100, DenseNet-BC 100-12", "error", 29.91, "paper"),
    ("oem", "oem-50", "student4", "SVHN, ResNet-32", "error", 4.97, "paper"),
    ("oem", "student2-alone-100", "student2-alone", "ImageNet, ResNet-50", "error", 24.57, "paper"),
    ("oem", "oem-100", "student5", "ImageNet, ResNeXt-50 32x4d", "error", 31.52, "paper"),
    ("oem", "oem", "ensemble", "CIFAR-100, ResNet-32", "error", 26.09, "paper"),
    ("oem", "oem-alpha-0.3", "student4", "CIFAR-100, ResNet-110", "error", 44.36, "paper"),
    ("oem", "oem-beta-0.20", "ensemble", "CIFAR-100, ResNet-110", "error", 30.36, "paper"),
    ("oem", "oem-t-6", "student2", "CIFAR-100, ResNet-110", "error", 33.72, "paper"),
    ("srm", "srm-imagenet", "target", "ImageNet, ResNet-18", "error", 28.79, "official code"),
    ("meal", "meal", "target", "ImageNet, ResNet-50", "error", 21.79, "paper"),
    ("meal", "alone", "target", "ImageNet, ResNet-50", "top5_error", 7.13, "official code"),
    ("meal", "meal-v2", "target", "ImageNet, ResNet-50", "error", 19.33, "official code"),
    ("meal", "meal-v2-200", "target", "ImageNet, MobileNetV3-Small 0.75", "top5_error", 12.77, "official code"),
    ("meal", "meal-v2-380", "target", "ImageNet, ResNet-50, 380 pixels", "error", 18.28, "official code"),
    ("online", "one", "target", "CIFAR-100, ResNet-32", "error", 26.21, "secondary"),
    ("online", "pcl", "average", "CIFAR-100, ResNet-110", "error", 20.02, "secondary"),
    ("online", "kdcl", "target", "CIFAR-10, ResNet-110", "error", 4.89, "secondary"),
    ("online", "one-b", "ensemble", "CIFAR-100, ResNet-110", "error", 20.23, "secondary"),
    ("online", "dml-b", "target", "CIFAR-100, ResNet-32", "error", 24.92, "secondary"),
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: "-".join(map(str, check)))
def test_figures_are_the_published_ones(check):
    study, arm, part, of, metric, value, evidence = check
    found = figures(load_study(study), arm=arm, part=part, of=of, metric=metric)
    assert any(each.value == pytest.approx(value) and each.evidence.startswith(evidence) for each in found), found


def test_a_spread_is_the_published_one():
    (one,) = figures(load_study("one"), arm="one-without-sharing", metric="error")
    assert (one.value, one.std) == (22.45, 0.52)
    assert "± unverified" in one.evidence
    (pcl,) = figures(load_study("online"), arm="pcl", of="CIFAR-100, ResNet-32")
    assert pcl.std == 0.16


# A claim's difference, from two figures, and the less sure evidence of both: study, place of the claim, its sides.
DIFFERENCES = [
    ("one", 0, ("CIFAR-100, ResNet-32", 26.61, 31.18)),
    ("one", 1, ("CIFAR-100, ResNet-32", 26.61, 29.03)),
    ("one", 2, ("CIFAR-100, ResNet-32", 26.61, 28.83)),
    ("one", 3, ("CIFAR-100, ResNet-110", 21.62, 24.73)),
    ("one", 4, ("CIFAR-100, ResNet-110", 21.62, 22.26)),
    ("one", 5, ("CIFAR-100, ResNet-110", 21.62, 22.45)),
    ("one", 6, ("CIFAR-100, ResNet-32", 26.68, 27.28)),
    ("one", 7, ("CIFAR-100, ResNet-32", 24.63, 26.68)),
    ("one", 8, ("CIFAR-100, ResNet-32", 24.63, 25.14)),
    ("oem", 3, ("CIFAR-100, ResNet-110", 100 - 72.51, 100 - 71.25)),
    ("meal", 0, ("ImageNet, ResNet-50", 21.79, 23.85)),
    ("online", 0, ("CIFAR-100, ResNet-32", 25.86, 26.21)),
    ("online", 1, ("CIFAR-100, ResNet-32", 25.86, 26.32)),
    ("online", 2, ("CIFAR-100, ResNet-32", 25.74, 28.91)),
    ("online", 3, ("CIFAR-100, ResNet-110", 22.14, 23.79)),
    ("online", 4, ("CIFAR-100, ResNet-110", 21.17, 23.79)),
    ("online", 5, ("CIFAR-100, ResNet-110", 21.72, 23.79)),
    ("online", 6, ("CIFAR-100, ResNet-110", 21.46, 23.79)),
    ("online", 7, ("CIFAR-100, ResNet-110", 22.78, 23.79)),
    ("online", 8, ("CIFAR-100, ResNet-110", 20.02, 23.79)),
]


@pytest.mark.parametrize(("name", "place", "sides"), DIFFERENCES)
def test_a_claims_difference_is_that_of_its_figures(name, place, sides):
    study = load_study(name)
    claim, (of, lower, higher) = study.claims[place], sides
    assert claim.published == pytest.approx(higher - lower, abs=1e-6)
    least = max(
        min(
            sure(each.evidence)
            for each in figures(study, arm=side.arm, part=side.part, of=of)
            if each.value == pytest.approx(value)
        )
        for side, value in zip((claim.by, claim.than), (lower, higher), strict=True)
    )
    assert sure(claim.evidence) >= least
