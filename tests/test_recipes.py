"""Recipes: what a rule chooses, rates by depth, drop path, and which recipe is taken where none is named."""

import pytest
import timm
import torch
import yaml
from timm.layers import DropPath
from torch import nn

import coterie
import coterie.cli
from coterie.methods import METHODS, Kd, One, Vanilla
from coterie.networks import Backbone
from coterie.networks.depth import find_depths
from coterie.networks.weights import portable
from coterie.recipes import RECIPES, Finetune, Modern, Recipe, TrainingFacts, default_recipe, recipe_class
from coterie.training.before.preflight import check_soft_targets
from resuming import resumes_exactly
from toys import go


def facts(**changes):
    return TrainingFacts(
        **({"images": 1500, "epochs": 100, "batch_size": 128, "parameters": 270_000, "batch_norm": True} | changes)
    )


# Epochs that the rule is told to read, and those of the training: the network alone, and ONE for its FLOPs.
RULED = [(None, 80), (None, 49), (80, 49)]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_leaves_nothing_open_once_it_is_fitted(name):
    recipe = recipe_class(name)().fit_to(facts())
    open_fields = [field for field, value in vars(recipe).items() if value is None]
    assert open_fields in ([], ["clip_norm"])
    assert type(recipe)(**vars(recipe)).fit_to(facts(epochs=7, batch_size=4)) == recipe


def test_modern_is_the_stronger_the_longer_the_training_and_the_larger_the_network():
    short = Modern().fit_to(facts(epochs=10))
    small = Modern().fit_to(facts(parameters=80_000))
    medium = Modern().fit_to(facts())
    strong = Modern().fit_to(facts(epochs=300, parameters=11_000_000))
    for weak in (short, small):  # a small network under-fits mixed images, see benchmarks/candidates.json
        assert not weak.mixing.mixes
        assert (weak.label_smoothing, weak.policy, weak.average) == (0.1, "none", "ema")
    assert (medium.policy, strong.policy) == ("trivial-augment", "trivial-augment")
    assert small.policy_strength < medium.policy_strength < strong.policy_strength
    assert small.erasing < medium.erasing < strong.erasing
    assert medium.mix_probability < strong.mix_probability
    assert strong.mixup > medium.mixup == 0


def test_trainings_of_other_lengths_have_one_recipe_where_the_rule_reads_the_same_epochs():
    alone, fewer, told = (Modern(strength_epochs=read).fit_to(facts(epochs=epochs)) for read, epochs in RULED)
    assert told == alone
    assert alone.mixing.mixes
    assert not fewer.mixing.mixes


@pytest.mark.parametrize("name", METHODS.own)
def test_no_method_refuses_the_default_recipe(name):
    recipe = recipe_class(default_recipe(False))().fit_to(facts(epochs=300, parameters=10**7))
    assert recipe.mixing.mixes
    check_soft_targets(METHODS[name](network="resnet8"), recipe)


@pytest.mark.parametrize("kind", [Modern, Finetune])
def test_a_part_is_switched_off_alone(kind):
    assert kind().fit_to(facts()).deliver == "average"
    assert kind(average="none").fit_to(facts()).deliver == "last"
    assert kind(deliver="last").fit_to(facts()).deliver == "last"


def test_what_the_user_says_is_not_chosen_again():
    recipe = Modern(erasing=0.4, policy="none", learning_rate=0.03).fit_to(facts(epochs=300, parameters=10**7))
    assert (recipe.erasing, recipe.policy, recipe.learning_rate) == (0.4, "none", 0.03)
    assert recipe.policy_strength == 1.0


def test_a_network_without_batch_norms_gets_adamw():
    with_norms, without = (Modern().fit_to(facts(batch_norm=there)) for there in (True, False))
    assert (with_norms.optimiser, with_norms.learning_rate, with_norms.weight_decay) == ("sgd", 0.8, 5e-4)
    assert (without.optimiser, without.learning_rate, without.weight_decay) == ("adamw", 0.0007, 0.05)


@pytest.mark.parametrize(
    ("optimiser", "batch_norm", "rate", "decay"),
    [("sgd", False, 0.2, 5e-4), ("adamw", True, 0.0007, 0.05), ("adam", True, 0.0007, 5e-4)],
)
def test_the_rate_and_the_decay_are_those_of_the_optimiser_that_is_named(optimiser, batch_norm, rate, decay):
    recipe = Modern(optimiser=optimiser).fit_to(facts(batch_norm=batch_norm))
    assert (recipe.optimiser, recipe.learning_rate, recipe.weight_decay) == (optimiser, rate, decay)


def test_a_training_of_few_steps_gets_a_quarter_of_the_rate():
    enough, few = (Modern().fit_to(facts(epochs=epochs)).learning_rate for epochs in (17, 16))  # of 12 steps
    assert enough == 4 * few
    assert Modern().fit_to(facts(epochs=16, images=1600)).learning_rate == enough


def test_the_facts_of_a_network_are_read_off_it():
    of = TrainingFacts.of(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), 1500, 100, 128)
    assert of == TrainingFacts(1500, 100, 128, 2 * 9 + 2 + 4, batch_norm=True)
    normed = TrainingFacts.of(nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3)), 1, 1, 1)
    assert (normed.batch_norm, normed.layer_norm) == (False, True)


@pytest.mark.parametrize(
    ("name", "optimiser"),
    [("resnet18", "sgd"), ("mobilenetv3_small_050", "sgd"), ("mobilevit_xxs", "adamw"), ("convnext_atto", "adamw")],
)
def test_networks_with_layer_norms_are_not_trained_as_those_with_batch_norms(name, optimiser):
    seen = TrainingFacts.of(timm.create_model(name), 1500, 100, 128)
    assert Modern().fit_to(seen).optimiser == optimiser


@pytest.mark.parametrize(("kind", "rate"), [(Modern, 0.8), (Finetune, 2e-3)])
def test_the_peak_rate_grows_with_the_square_root_of_the_batch(kind, rate):
    rates = [kind().fit_to(facts(batch_size=size)).learning_rate for size in (32, 128, 512)]
    assert rates == pytest.approx([rate / 2, rate, 2 * rate])


@pytest.mark.parametrize(
    ("method", "read"),
    [(Vanilla(network="resnet8", epochs={"train": 3}), 3), (Kd(network="resnet8", epochs={"student": 2}), 2)],
    ids=["one-stage", "a-teacher-first"],
)
def test_the_rule_reads_the_length_of_the_stage_that_is_delivered(method, read, digits, tmp_path):
    run = go(method, digits, tmp_path / "run", recipe=Modern(), epochs=1)
    assert run.config["recipe"]["strength_epochs"] == read


def test_a_fitted_recipe_is_written_down_and_resumes_exactly(digits, tmp_path):
    def make():
        return Vanilla(network="resnet8")

    assert resumes_exactly(make, digits, tmp_path, "train", 3, recipe=Modern(), epochs=3)
    written = yaml.safe_load((tmp_path / "whole" / "config.yaml").read_text())["recipe"]
    assert written["name"] == "modern"
    assert written["policy"] == "none"
    assert written["mix_probability"] == 0.0
    assert written["learning_rate"] > 0


NETWORKS = ["resnet20", "timm/vit_tiny_patch16_224", "timm/tf_efficientnet_lite0", "timm/resnet18"]


@pytest.mark.parametrize("name", NETWORKS)
def test_depths_rise_from_the_images_to_the_answer(name):
    size = (32, 32)
    network = Backbone(name).build(7, 3, size).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    depths = find_depths(network, torch.randn(2, 3, *size))
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    names = {parameter: key for key, parameter in network.named_parameters()}
    assert set(names) == set(depths)
    first = next(key for key in names.values() if "conv" in key or "patch_embed" in key)
    weights = dict(network.named_parameters())
    head = [key for key in weights if key.startswith(("fc", "head", "classifier"))]
    assert depths[weights[first]] <= 1 / 12
    assert {depths[weights[key]] for key in head} == {1.0}
    blocks = [
        depths[p] for key, p in weights.items() if key.endswith(("conv1.weight", "attn.qkv.weight", "conv_pw.weight"))
    ]
    assert blocks == sorted(blocks)
    assert 2 <= len(set(depths.values())) <= 13


def test_branches_are_as_deep_as_each_other():
    net = coterie.branch(coterie.networks.build("resnet20", 7), 3, example=torch.zeros(2, 3, 16, 16))
    depths = find_depths(net, torch.randn(2, 3, 16, 16))
    heads = [
        depths[module.weight] for module in net.modules() if isinstance(module, nn.Linear) and module.out_features == 7
    ]
    assert heads == [1.0, 1.0, 1.0]
    own = {parameter: depth for parameter, depth in find_depths(net.target, torch.randn(2, 3, 16, 16)).items()}
    assert all(abs(depths[parameter] - depth) < 0.1 for parameter, depth in own.items())


def test_rates_fall_geometrically_towards_the_images(digits, tmp_path, monkeypatch):
    seen = []
    make = Recipe.make_optimiser

    def looking(self, parameters, factors=None):
        optimiser = make(self, parameters, factors)
        seen.append(optimiser)
        return optimiser

    monkeypatch.setattr(Recipe, "make_optimiser", looking)
    method = Vanilla(network="resnet8")
    run = go(method, digits, tmp_path / "run", epochs=1, recipe=Recipe(learning_rate=0.1, first_layer_rate=0.01))
    peaks = sorted({group["initial_lr"] for group in seen[0].param_groups})
    assert peaks[0] == pytest.approx(0.001)
    assert peaks[-1] == pytest.approx(0.1)
    assert len(peaks) > 4
    depths = {12 * (2 + torch.tensor(rate / 0.1).log10().item()) / 2 for rate in peaks}
    assert all(depth == pytest.approx(round(depth), abs=1e-3) for depth in depths)
    assert run.metrics


@pytest.mark.parametrize("method", [Vanilla, One, Kd])
def test_rates_by_depth_change_what_every_kind_of_method_trains(method, digits, tmp_path):
    runs = [
        go(method(network="resnet8"), digits, tmp_path / str(rate), epochs=1, recipe=Recipe(first_layer_rate=rate))
        for rate in (1.0, 0.01)
    ]
    assert runs[0].metrics[-1]["loss"] != runs[1].metrics[-1]["loss"]


def test_drop_path_reaches_networks_that_have_it_and_no_others():
    drops = [
        m.drop_prob
        for m in Backbone("timm/vit_tiny_patch16_224", drop_path=0.2).build(3, 3, (32, 32)).modules()
        if isinstance(m, DropPath)
    ]
    assert max(drops) == pytest.approx(0.2)
    plain = Backbone("timm/vit_tiny_patch16_224").build(3, 3, (32, 32))
    assert not [module for module in plain.modules() if isinstance(module, DropPath) and module.drop_prob]
    assert isinstance(Backbone("timm/vgg11", drop_path=0.2).build(3, 3, (32, 32)), nn.Module)
    assert isinstance(Backbone("resnet8", drop_path=0.2).build(3, 3, (32, 32)), nn.Module)


def test_a_recipes_drop_path_trains_and_its_run_opens(tmp_path):
    digits = coterie.data.load("digits", train_samples=40, test_samples=20, image_size=32)
    method = Vanilla(network="timm/convnext_atto")
    run = go(method, digits, tmp_path / "run", epochs=1, recipe=Recipe(drop_path=0.3))
    assert run.config["network"]["drop_path"] == 0.3
    assert not run.network().training
    again = go(Vanilla(network=Backbone("timm/convnext_atto", drop_path=0.0)), digits, tmp_path / "other", epochs=1)
    assert again.metrics[-1]["loss"] != run.metrics[-1]["loss"]


def test_trained_weights_are_fine_tuned_where_no_recipe_is_named(digits, tmp_path, capsys):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file(portable(Backbone("resnet8").build(10, 1).state_dict()), tmp_path / "weights.safetensors")
    network = Backbone("resnet8", weights=str(tmp_path / "weights.safetensors"))
    run = coterie.train(Vanilla(network=network), digits, out=tmp_path / "run", epochs=1)
    assert run.config["recipe"]["name"] == "finetune"
    assert (
        "recipe 'finetune' (the network starts from trained weights; recipe takes others): adamw"
        in capsys.readouterr().err
    )
    named = go(Vanilla(network=network), digits, tmp_path / "named", epochs=1, recipe=Recipe())
    assert named.config["recipe"]["name"] == "short"
    again = go(Vanilla(network=network), digits, named.path, epochs=1, resume=True, recipe=None)
    assert again.config["recipe"]["name"] == "short"
    options = ["--network", "resnet8", "--data", "digits", "--data.train_samples", "160", "--epochs", "1"]
    weights = ["--network.weights", str(tmp_path / "weights.safetensors")]
    coterie.cli.main(["train", *options, *weights, "--out", str(tmp_path / "shell")])
    assert coterie.Run(tmp_path / "shell").config["recipe"]["name"] == "finetune"
    coterie.cli.main(["train", *options, "--out", str(tmp_path / "fresh")])
    assert coterie.Run(tmp_path / "fresh").config["recipe"]["name"] == "modern"
    coterie.cli.main(["train", *options, *weights, "--recipe", "short", "--out", str(tmp_path / "asked")])
    assert coterie.Run(tmp_path / "asked").config["recipe"]["name"] == "short"


def test_the_listing_shows_every_field_of_every_recipe(capsys):
    coterie.cli.main(["list", "recipes"])
    said = capsys.readouterr().out
    rows = {
        line.split("│")[1].strip(): [cell.strip() for cell in line.split("│")[2:-1]]
        for line in said.splitlines()
        if "│" in line
    }
    assert rows.keys() == vars(Recipe()).keys()
    names = list(RECIPES)
    assert rows["learning_rate"][names.index("short")] == "0.1"
    assert rows["erasing"][names.index("modern")] == "chosen"
    assert rows["first_layer_rate"][names.index("finetune")] == "0.3"
    assert rows["clip_norm"][names.index("short")] == "none"
    assert "modern" in said.splitlines()[1]
