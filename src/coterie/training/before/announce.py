"""What is said before a training starts: all that was chosen for the user, a line for each thing.

What only the first steps tell, a step's cost and the time, is said after them (:mod:`coterie.training.before.pace`).
"""

from collections.abc import Iterator
from math import prod

from accelerate import Accelerator
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from coterie.data import ImageData, batches_per_epoch
from coterie.data.balance import balance_lines
from coterie.data.say import list_names, plural
from coterie.methods import Method, Stage
from coterie.networks.zoo import Backbone
from coterie.peers import NativeEnsemble
from coterie.recipes import Recipe, default_recipe
from coterie.training.options import TrainingOptions
from coterie.training.stages import Setting


def opening_lines(method: Method, stage: Stage, setting: Setting) -> list[str]:
    """Method, data, recipe and course of a training, each in a line; and how uneven the classes are, where they are.

    Args:
        method: What is trained.
        stage: Its first one.
        setting: The run's, with nothing left open.
    """
    recipe = setting.recipe
    return [
        method_line(method, stage),
        data_line(setting.data),
        *balance_lines(setting.data, recipe.class_weights == "balanced" or recipe.sampling == "balanced"),
        recipe_line(recipe, Backbone.of(method.network), stage, setting.data.validation is not None),
        course_line(method, stage, setting),
    ]


def method_line(method: Method, stage: Stage) -> str:
    """What is trained, in which stages, and where its branches begin."""
    source = Backbone.of(method.network).source
    network = f"'{source}'" if isinstance(source, str) else "of your own"
    parts = [f"method '{method.name}', network {network}"]
    names = method.stage_names()
    if len(names) > 1:
        parts.append(f"{len(names)} stages: {list_names(names, most=6)}")
    modules: Iterator[nn.Module] = iter(()) if stage.network is None else stage.network.modules()
    branched = next((module for module in modules if isinstance(module, NativeEnsemble)), None)
    if branched is not None:
        count = plural(prod(branched.fans), "branch", "branches")
        cuts = " and ".join(f"'{at}'" for at in branched.at)
        parts.append(f"{count} from {cuts} on" if branched.share else f"{count}, each a whole network")
    elif len(stage.peers) > 1:
        parts.append(f"peers: {list_names(stage.peers, most=6)}")
    return "; ".join(parts)


def data_line(data: ImageData) -> str:
    """Images, their size and classes, and how they are augmented."""
    height, width = data.image_size
    chosen = "" if data.validation is None else f", {len(data.validation):,} to choose the epoch by"
    augmented = "not augmented" if data.augment == "none" else f"augmented by {data.augment}"
    if data.flip is not None and data.augment != "none":
        augmented += ", half of them mirrored" if data.flip else ", none mirrored"
    if (data.crop_ratio, data.interpolation) != (1.0, "bicubic"):
        augmented += f"; measured on the middle {100 * data.crop_ratio:.3g} %, {data.interpolation}"
    return (
        f"data '{data.name}': {len(data.train):,} training images of {height}x{width} pixels{chosen}; "
        f"{plural(len(data.classes), 'class', 'classes')}: {list_names(data.classes)}; {augmented}"
    )


def recipe_line(recipe: Recipe, network: Backbone, stage: Stage, validated: bool = False) -> str:
    """How weights, labels and images are treated, what is switched off left out.

    Args:
        recipe: With nothing left open.
        network: What is trained.
        stage: The first one, which may have a schedule of its own.
        validated: Whether validation images choose what is delivered.
    """
    name = f"recipe '{recipe.name}'"
    if network.starts_trained and recipe.name == default_recipe(True):
        name += " (the network starts from trained weights; ⟨recipe⟩ takes others)"
    schedule = recipe.schedule if stage.schedule is None else "a schedule of the method's own"
    parts = [recipe.optimiser, f"peak rate {recipe.learning_rate:.3g}", schedule]
    if recipe.first_layer_rate < 1:
        parts.append(f"the first layer at {recipe.first_layer_rate:g} of it")
    parts += [f"{pattern} at {factor:g} times it" for pattern, factor in recipe.layer_rates.items()]
    parts += [*_labels(recipe), *_images(recipe)]
    if network.drop_path:
        parts.append(f"drop path {network.drop_path:g}")
    if recipe.average != "none":
        use = "delivered" if recipe.deliver == "average" else "beside"
        if validated and stage.selects:
            use = "or the last, as validation says"
        parts.append(f"averaged weights ({recipe.average}) {use if _delivers_what_it_trains(stage) else 'beside'}")
    return f"{name}: {', '.join(parts)}"


def _delivers_what_it_trains(stage: Stage) -> bool:
    """Whether what is delivered by default, where it is known, has an average: a copy that is only kept has none."""
    delivered = next(iter(stage.deliver.values()), None)
    return delivered is None or stage.trains(delivered)


def _labels(recipe: Recipe) -> list[str]:
    parts = [f"labels smoothed by {recipe.label_smoothing:g}"] if recipe.label_smoothing else []
    if recipe.mixing.mixes:
        kinds = " or ".join(kind for kind in ("mixup", "cutmix") if getattr(recipe, kind) > 0)
        until = "" if recipe.mix_until == 1 else f" until {recipe.mix_until:.0%} of the epochs"
        parts.append(f"{kinds} in {recipe.mix_probability:.0%} of the batches{until}")
    return parts


def _images(recipe: Recipe) -> list[str]:
    parts = []
    if recipe.policy != "none" and recipe.policy_strength:
        parts.append(f"{recipe.policy} at {recipe.policy_strength:.0%} strength")
    if recipe.jitter:
        parts.append(f"colours jittered by {recipe.jitter:g}")
    if recipe.erasing:
        parts.append(f"a box erased of {recipe.erasing:.0%} of the images")
    return parts


def course_line(method: Method, stage: Stage, setting: Setting) -> str:
    """Epochs, steps and batches, and what computes them."""
    count, world = len(setting.data.train), setting.accelerator.num_processes
    steps = batches_per_epoch(count, setting.batch_size, world)
    batches = f"batches of {setting.batch_size}" + (", all the images" if setting.batch_size == count else "")
    if (parts := setting.options.accumulate) != 1:
        batches += " in as few parts as memory holds" if parts == "auto" else f" in {parts} parts"
        if any(isinstance(module, _BatchNorm) for turn in stage.turns for module in turn.module.modules()):
            batches += ", of which batch norm sees one at a time"
    where = f"stage '{stage.name}': " if len(method.stage_names()) > 1 else ""
    epochs = f"{plural(setting.epochs_of(method, stage), 'epoch')} of {plural(steps, 'step')}"
    return f"{where}{epochs}, {batches}; {machine(setting.accelerator, setting.options)}"


def machine(accelerator: Accelerator, options: TrainingOptions) -> str:
    """Device, precision, and threads or processes."""
    parts = [f"on {accelerator.device.type} in {options.precision}"]
    if accelerator.device.type == "cpu" and options.threads is not None:
        parts.append(plural(options.threads, "thread"))
    if accelerator.num_processes > 1:
        parts.append(f"{accelerator.num_processes} processes")
    return ", ".join(parts) + (", compiled" if options.compile else ", captured" if options.capture else "")
