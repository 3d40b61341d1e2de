"""What is said when a training starts: what was chosen, what it costs, how long it takes, what is odd."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import coterie
from coterie.cli import main
from coterie.console.terminal import options_as_flags, say
from coterie.data import ImageData
from coterie.evaluation.costs import step_flops
from coterie.methods import Dml, Ensemble, Kd, One, SelfDistillation, Snapshot, Vanilla
from coterie.networks import Backbone
from coterie.recipes import Finetune, Modern, Recipe, Transformer
from coterie.training.before import pace
from coterie.training.before.advice import advised_batch, warn_of_batch, warn_of_length, warn_of_rate, warn_of_size
from coterie.training.before.announce import data_line, recipe_line
from coterie.training.before.pace import duration, time_line
from resuming import stopping
from toys import go, same

PLAIN, TRAINED = Backbone("resnet8"), Backbone("resnet8", weights="file.safetensors")
PUBLISHED = Backbone("timm/resnet18", pretrained=True)  # 224 pixels
STAGE = SimpleNamespace(schedule=None, deliver={}, selects=True)


def lines(text):
    """What was said, but for the epochs."""
    return [line for line in text.splitlines() if " loss " not in line]


def announced(method, data, out, capsys, **options):
    go(method, data, out, **({"progress": True, "epochs": 1, "threads": 1} | options))
    return lines(capsys.readouterr().err)


# What was chosen


def test_method_data_recipe_and_course_are_said_before_the_first_epoch(digits, tmp_path, capsys):
    recipe = Modern(mix_probability=0.5, jitter=0.1, policy="rand-augment", policy_strength=0.3, erasing=0.25)
    said = announced(
        One(network="resnet8"), digits, tmp_path / "run", capsys, recipe=recipe, epochs=2, precision="fp32"
    )
    assert said[:4] == [
        "method 'one', network 'resnet8'; 3 branches from 'layer3' on",
        "data 'digits': 160 training images of 8x8 pixels; 10 classes: 0, 1, 2 and 7 more; augmented by crop",
        "recipe 'modern': sgd, peak rate 0.1, one-cycle, labels smoothed by 0.1, cutmix in 50% of the batches, "
        "rand-augment at 30% strength, colours jittered by 0.1, a box erased of 25% of the images, "
        "averaged weights (ema) delivered",
        "2 epochs of 5 steps, batches of 32; on cpu in fp32, 1 thread",
    ]


def test_methods_of_several_stages_and_peers_name_them(digits, tmp_path, capsys):
    said = announced(Kd(network="resnet8", epochs={"teacher": 2}), digits, tmp_path / "kd", capsys)
    assert said[0] == "method 'kd', network 'resnet8'; 2 stages: teacher, student"
    assert said[3].startswith("stage 'teacher': 2 epochs of 5 steps, batches of 32; on cpu")
    said = announced(Dml(network="resnet8"), digits, tmp_path / "dml", capsys)
    assert said[0] == "method 'dml', network 'resnet8'; peers: target, peer1"
    own = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    said = announced(Vanilla(network=own), digits, tmp_path / "own", capsys, batch_size=None)
    assert said[0] == "method 'vanilla', network of your own"
    assert "1 epoch of 2 steps, batches of 128;" in said[3]


def test_data_say_what_chooses_the_epoch_and_how_images_are_mirrored(digits):
    data = replace(digits, validation=digits.test, augment="crop-flip", flip=False)
    assert "8x8 pixels, 100 to choose the epoch by; 10 classes" in data_line(data)
    assert data_line(data).endswith("; augmented by crop-flip, none mirrored")
    assert data_line(replace(digits, augment="none")).endswith("; not augmented")
    cropped = replace(digits, crop_ratio=0.875, interpolation="bilinear")
    assert data_line(cropped).endswith("; measured on the middle 87.5 %, bilinear")


def test_batches_of_all_images_are_named_as_such(tmp_path, capsys):
    few = coterie.data.load("digits", train_samples=40, test_samples=20)
    said = announced(Vanilla(network="resnet8"), few, tmp_path / "few", capsys, batch_size=None)
    assert said[3].startswith("1 epoch of 1 step, batches of 40, all the images; on cpu")


def test_a_recipe_is_what_is_switched_on_alone():
    assert recipe_line(Recipe(), PLAIN, STAGE) == "recipe 'short': sgd, peak rate 0.1, one-cycle"
    own = SimpleNamespace(**{**vars(STAGE), "schedule": lambda optimiser, steps: None})
    assert recipe_line(Recipe(), PLAIN, own) == "recipe 'short': sgd, peak rate 0.1, a schedule of the method's own"
    both = Recipe(mixup=0.2, cutmix=1, mix_until=0.8, average="tail")
    assert recipe_line(both, PLAIN, STAGE).endswith(
        ", mixup or cutmix in 100% of the batches until 80% of the epochs, averaged weights (tail) beside"
    )
    tuned = Finetune(learning_rate=1e-3, deliver="average")
    text = recipe_line(tuned, replace(PUBLISHED, drop_path=0.1), STAGE)
    assert text.startswith(
        "recipe 'finetune' (the network starts from trained weights; ⟨recipe⟩ takes others): adamw, "
    )
    assert "peak rate 0.001, one-cycle, the first layer at 0.3 of it, " in text
    assert ", drop path 0.1, " in text
    assert "starts from trained" not in recipe_line(tuned, PLAIN, STAGE)
    assert ", averaged weights (ema) delivered" in text
    assert ", averaged weights (ema) or the last, as validation says" in recipe_line(
        tuned, PLAIN, STAGE, validated=True
    )


def test_averages_are_beside_what_is_delivered_where_that_is_collected(digits, tmp_path, capsys):
    options = {"recipe": Modern(), "epochs": 2}
    snapshot = announced(Snapshot(network="resnet8", cycles=2), digits, tmp_path / "snapshot", capsys, **options)
    assert snapshot[2].endswith(", averaged weights (ema) beside")
    assert coterie.Run(tmp_path / "snapshot").card["deliverables"][0] == "ensemble"
    alone = announced(Vanilla(network="resnet8"), digits, tmp_path / "alone", capsys, **options)
    assert alone[2].endswith(", averaged weights (ema) delivered")
    assert coterie.Run(tmp_path / "alone").card["deliverables"][0] == "target-average"


def test_options_are_named_as_the_caller_gives_them(capsys):
    say("see ⟨recipe⟩ and ⟨data.image_size 224⟩")
    with options_as_flags():
        say("see ⟨recipe⟩ and ⟨data.image_size 224⟩")
    assert capsys.readouterr().out == "see recipe and image_size=224\nsee --recipe and --data.image_size 224\n"


def test_the_command_line_names_flags(tmp_path, capsys):
    options = ["--network", "resnet8", "--data", "digits", "--data.train_samples", "160", "--epochs", "1"]
    main(["train", "--method", "vanilla", *options, "--out", str(tmp_path / "run")])
    assert "large for 160 images; use --batch_size 16" in capsys.readouterr().err


def test_who_wants_no_progress_or_goes_on_is_told_nothing(digits, tmp_path, capsys):
    assert announced(One(network="resnet8"), digits, tmp_path / "silent", capsys, progress=False) == []
    with pytest.raises(coterie.training.Interrupted):
        go(stopping(One(network="resnet8"), "train", 3), digits, tmp_path / "run", epochs=2, threads=1)
    said = announced(One(network="resnet8"), digits, tmp_path / "run", capsys, resume=True, epochs=2)
    assert said == []
    said = announced(One(network="resnet8"), digits, tmp_path / "new", capsys, resume=True)
    assert said[1].startswith("method 'one'")  # there was nothing to go on with, which the line before says


# What it costs


@pytest.mark.parametrize("name", ["resnet8", "timm/mobilenetv3_small_050"])
def test_a_step_of_the_network_alone_is_counted_as_its_training_counts_it(name, digits, tmp_path):
    data = (
        digits if name == "resnet8" else coterie.data.load("digits", train_samples=64, test_samples=20, image_size=32)
    )
    run = go(Vanilla(network=name), data, tmp_path / "run", epochs=1)
    network = Backbone(name).build(10, 1, data.image_size).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    generator = torch.get_rng_state()
    assert step_flops(network, 1, data.image_size) * len(data.train) == run.metrics[0]["training_flops"]
    assert network.training
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(generator, torch.get_rng_state())


def test_the_cost_over_the_network_alone_is_said_once_and_is_that_of_the_runs(
    digits, tmp_path, capsys, finished, alone
):
    said = announced(One(network="resnet8"), digits, tmp_path / "one", capsys, epochs=2)
    ratio = finished.metrics[0]["training_flops"] / alone.metrics[0]["training_flops"]
    costs = [line for line in said if "costs" in line]
    assert costs == [f"a training step costs {ratio:.2f} times the FLOPs of the network alone"]
    assert ratio > 1.5
    assert not [
        line for line in announced(Vanilla(network="resnet8"), digits, tmp_path / "a", capsys) if "costs" in line
    ]


def test_each_stage_that_trains_the_network_has_its_cost(digits, tmp_path, capsys):
    said = announced(SelfDistillation(network="resnet8"), digits, tmp_path / "run", capsys)
    costs = [line for line in said if "costs" in line]
    assert costs == ["a training step of stage 'generation1' costs 1.33 times the FLOPs of the network alone"]


# How long it takes


class Clock:
    """Goes on by so many seconds whenever it is read."""

    def __init__(self, seconds):
        self.seconds, self.now = seconds, 0.0

    def perf_counter(self):
        self.now += self.seconds
        return self.now


def estimates(method, data, out, capsys, monkeypatch, seconds, **options):
    monkeypatch.setattr(pace, "time", Clock(seconds))
    return [line for line in announced(method, data, out, capsys, **options) if line.startswith("about ")]


def test_the_time_is_said_once_after_ten_steps(digits, tmp_path, capsys, monkeypatch):
    options = {"batch_size": 8, "epochs": 3, "test_every": 2}  # 20 steps an epoch; 8 are timed
    said = estimates(Vanilla(network="resnet8"), digits, tmp_path / "run", capsys, monkeypatch, 80, **options)
    assert said == ["about 10 minutes for the steps; measuring 100 test images 2 times comes on top"]


def test_a_short_epoch_is_timed_as_far_as_it_goes(digits, tmp_path, capsys, monkeypatch):
    options = {"batch_size": 32, "epochs": 3}  # 5 steps an epoch; 3 are timed
    said = estimates(Vanilla(network="resnet8"), digits, tmp_path / "run", capsys, monkeypatch, 300, **options)
    assert said == ["about 25 minutes for the steps; measuring 100 test images 3 times comes on top"]


def test_equal_stages_are_counted_together_and_others_named(digits, tmp_path, capsys, monkeypatch):
    options = {"batch_size": 16}  # 10 steps
    method = Ensemble(network="resnet8", members=3)
    said = estimates(method, digits, tmp_path / "ensemble", capsys, monkeypatch, 80, **options)
    assert said == ["about 5 minutes for the steps; measuring 100 test images 3 times comes on top"]
    method = SelfDistillation(network="resnet8")
    said = estimates(method, digits, tmp_path / "self", capsys, monkeypatch, 80, **options)
    assert [line.partition(";")[0] for line in said] == [
        "about 2 minutes for the steps of stage 'generation0'",
        "about 2 minutes for the steps of stage 'generation1'",
    ]


def test_what_is_over_in_seconds_has_no_estimate_and_no_clock_changes_the_weights(
    digits, tmp_path, capsys, monkeypatch, alone
):
    assert estimates(Vanilla(network="resnet8"), digits, tmp_path / "quick", capsys, monkeypatch, 0.1) == []
    options = {"recipe": Modern(), "batch_size": 8}
    method = One(network="resnet8")
    assert estimates(method, digits, tmp_path / "slow", capsys, monkeypatch, 1e4, **options)
    go(method, digits, tmp_path / "silent", epochs=1, threads=1, **options)
    assert same(coterie.Run(tmp_path / "slow"), coterie.Run(tmp_path / "silent"))


def test_the_validation_images_come_on_top_too(digits):
    text = time_line(3600, "", replace(digits, validation=digits.test), 30, 30)
    assert text.startswith(
        "about 60 minutes for the steps; measuring 100 test images 1 time and 100 validation images "
    )
    assert text.endswith(" 30 times comes on top")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (12, "12 seconds"),
        (89, "89 seconds"),
        (91, "2 minutes"),
        (720, "12 minutes"),
        (5000, "83 minutes"),
        (5400, "1.5 hours"),
        (12 * 3600, "12 hours"),
        (4 * 86400, "4 days"),
    ],
)
def test_times_are_said_in_their_units(seconds, text):
    assert duration(seconds) == text


# What is odd


@pytest.mark.parametrize(
    ("recipe", "network", "warned"),
    [
        (Recipe(), TRAINED, True),
        (Recipe(), PUBLISHED, True),
        (Recipe(learning_rate=0.05), PUBLISHED, True),
        (Recipe(learning_rate=0.01), PUBLISHED, False),
        (Recipe(), PLAIN, False),
        (Transformer(), PUBLISHED, False),
        (Recipe(optimiser="adam"), PUBLISHED, False),  # another mistake
    ],
)
def test_large_rates_on_trained_weights_are_warned_of(recipe, network, warned):
    text = warn_of_rate(recipe, network)
    assert (text is not None) == warned
    assert text is None or "'finetune' (⟨recipe⟩), or lower ⟨recipe.learning_rate⟩" in text


@pytest.mark.parametrize(
    ("batch_size", "images", "advised"),
    [
        (128, 900, 64),  # 8 steps, 7 of them whole
        (128, 160, 16),
        (128, 400, 32),
        (40, 40, 8),
        (512, 1500, 64),
        (128, 1297, None),  # digits
        (128, 1500, None),
        (32, 180, None),  # make demo
        (16, 20, None),
    ],
)
def test_few_steps_an_epoch_are_warned_of(batch_size, images, advised):
    text = warn_of_batch(batch_size, images)
    assert (text is None) == (advised is None)
    assert text is None or text.endswith(f"use ⟨batch_size {advised}⟩")
    assert advised_batch(batch_size, images) == (advised or batch_size)


@pytest.mark.parametrize(
    ("epochs", "batch_size", "images", "network", "warned"),
    [
        (2, 128, 1297, PLAIN, True),
        (1, 32, 3000, PLAIN, True),
        (30, 128, 1297, PLAIN, False),  # digits
        (40, 32, 180, PLAIN, False),  # make demo
        (10, 64, 1294, PLAIN, False),  # the tutorial on a folder
        (5, 32, 320, PUBLISHED, False),
        (2, 32, 320, PUBLISHED, True),
        (1, 128, 1_000_000, PLAIN, False),
    ],
)
def test_short_trainings_are_warned_of(epochs, batch_size, images, network, warned):
    text = warn_of_length(epochs, batch_size, images, network)
    assert (text is not None) == warned
    assert text is None or "raise ⟨epochs⟩" in text


@pytest.mark.parametrize(
    ("size", "network", "warned"),
    [
        ((64, 64), PUBLISHED, True),
        ((64, 224), PUBLISHED, True),
        ((112, 112), PUBLISHED, False),
        ((224, 224), PUBLISHED, False),
        ((64, 64), Backbone("timm/resnet18"), False),
        ((64, 64), Backbone("timm/resnet18", weights="own.safetensors"), False),  # trained at a size of its own
        ((8, 8), TRAINED, False),
        ((64, 64), Backbone("torchvision/resnet18", pretrained=True), True),
    ],
)
def test_small_images_in_networks_of_large_ones_are_warned_of(digits, size, network, warned):
    data: ImageData = replace(digits, image_size=size)
    text = warn_of_size(data, network)
    assert (text is not None) == warned
    assert text is None or text.endswith("use ⟨data.image_size 224⟩")


def test_warnings_are_said_before_training_and_none_of_an_ordinary_one(digits, tmp_path, capsys):
    said = announced(Vanilla(network="resnet8"), digits, tmp_path / "odd", capsys, batch_size=128)
    assert [line for line in said if line.startswith("warning: ")] == [
        "warning: an epoch has 2 steps: batches of 128 are large for 160 images; use batch_size=16",
        "warning: in batches of 16 the training has 10 steps in all, and fewer than 200 are too few to tell much; "
        "raise epochs",
    ]
    said = announced(Vanilla(network="resnet8"), digits, tmp_path / "usual", capsys, batch_size=16, epochs=20)
    assert len(said) == 4
