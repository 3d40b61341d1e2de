"""What is found before a training begins rather than in it, or at its end."""

from collections.abc import Set
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from coterie.data import ImageData
from coterie.data.transforms import normalise, resized
from coterie.errors import UserError, unknown_name
from coterie.functional import check_soft_labels
from coterie.methods import Method, OnlineMethod, Stage, Task
from coterie.networks.fitting import check_logits, check_writable
from coterie.networks.parameters import matching, own_parameters
from coterie.networks.zoo import Backbone
from coterie.recipes import Recipe
from coterie.training.options import TrainingOptions

_IMAGES = 4


def check_first_stage(stage: Stage, data: ImageData) -> None:
    """Ask a stage's network about a few training images, and whether what it delivers can be written to a file.

    Nothing is changed: no weight, buffer, mode or random generator.

    Args:
        stage: The first one.
        data: What it is trained on.

    Raises:
        UserError: The logits do not fit the classes or are not finite; or a network holds what no file of weights can.
    """
    if stage.network is not None:
        count = min(_IMAGES, len(data.train))
        pixels = resized(data.train.pixels(np.arange(count)), data.image_size)
        check_logits(stage.network, normalise(pixels, data.mean, data.std), len(data.classes))
    for network in stage.deliver.values():
        check_writable(network)


def check_soft_targets(method: Method, recipe: Recipe) -> None:
    """Refuse a distillation that needs one true class an image under a recipe that smooths or mixes labels.

    Raises:
        UserError: Names the options of both.
    """
    if not recipe.mixing.softens:
        return
    names = [getattr(method, "divergence", "kl")]
    if isinstance(method, OnlineMethod):
        names = [distillation.loss for distillation in method.config().distillations]
    for name in names:
        check_soft_labels(name)


def check_capture(options: TrainingOptions, method: Method) -> None:
    """Refuse to capture steps that compute parts again in their backward, with the random numbers of the forward.

    Raises:
        UserError: Names the options of both.
    """
    if options.capture and Backbone.of(method.network).checkpoint_activations:
        raise UserError("⟨capture⟩ does not record ⟨network.checkpoint_activations⟩; leave one of both out")


def check_patience(options: TrainingOptions, recipe: Recipe) -> None:
    """Refuse to end a training early whose average begins late.

    Raises:
        UserError: Names the options of both.
    """
    if options.patience is not None and recipe.average == "tail":
        raise UserError(
            "⟨recipe.average tail⟩ averages the last epochs, which ⟨patience⟩ may leave out; use ⟨recipe.average ema⟩"
        )


def check_stage_names(method: Method) -> None:
    """Refuse epochs of a stage that the method does not have.

    Raises:
        UserError: Names the nearest stage.
    """
    for name in method.epochs:
        if name not in method.stage_names():
            raise unknown_name(f"stage in ⟨method.epochs⟩ (of method '{method.name}')", name, method.stage_names())


def handed_back(stage: Stage, method: Method, task: Task) -> nn.Module:
    """The network that is delivered in the end, whatever a first stage trains: a teacher, or a teacher's probe."""
    delivered = next(iter(stage.deliver.values()), None)
    return _own_network(method, task) if delivered is None else delivered


def names_for_rates(method: Method, task: Task, recipe: Recipe) -> Set[str]:
    """The names of the parameters of the method's network, where the recipe has rates for some of them; else none.

    Raises:
        UserError: A pattern of the recipe matches no parameter.
    """
    if not recipe.layer_rates:
        return frozenset()
    parameters = own_parameters(_own_network(method, task))
    for pattern in recipe.layer_rates:
        matching(parameters, pattern, "⟨recipe.layer_rates⟩")
    return frozenset(parameters)


def _own_network(method: Method, task: Task) -> nn.Module:
    """The method's network as it is before training: one of the user's own, or another one like it."""
    backbone = Backbone.of(method.network)
    if isinstance(backbone.source, nn.Module):
        return backbone.source
    with torch.random.fork_rng(devices=[]):
        return backbone.build_fresh(task.num_classes, task.channels, task.image_size)


def with_drop_path(method: Method, recipe: Recipe) -> Method:
    """The method, its network with the recipe's drop path where the user has not said another."""
    network = Backbone.of(method.network)
    named = isinstance(network.source, str) and network.source.startswith("timm/")  # no others have it
    if recipe.drop_path == 0 or network.drop_path is not None or not named:
        return method
    return replace(method, network=replace(network, drop_path=recipe.drop_path))
