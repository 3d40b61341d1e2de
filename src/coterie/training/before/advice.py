"""Likely mistakes of a training that can be seen before it starts: said with what mends them, and trained all the same.

The limits are rules of thumb, set so that ordinary small trainings are silent.
"""

from coterie.data import ImageData, batches_per_epoch
from coterie.data.say import plural
from coterie.methods import Method, Stage
from coterie.networks.zoo import Backbone
from coterie.recipes import Recipe
from coterie.training.stages import Setting

_LARGEST_RATE = 0.05  # of SGD, at which trained weights are still trained on and not begun anew
_FEWEST_STEPS = 10  # in an epoch
_SMALL_BATCH = 32  # smaller ones are nobody's mistake
_FEWEST_STEPS_IN_ALL, _FEWEST_FROM_TRAINED = 200, 50
_SMALLEST_SIDE = 0.5  # of that at which published weights were trained


def likely_mistakes(method: Method, stage: Stage, setting: Setting) -> list[str]:
    """A line for each likely mistake of a training.

    Args:
        method: What is trained.
        stage: Its first one.
        setting: The run's, with nothing left open.
    """
    network, images, batch_size = Backbone.of(method.network), len(setting.data.train), setting.batch_size
    others = [method.epochs.get(name, setting.options.epochs) for name in method.stage_names() if name != stage.name]
    epochs = [setting.epochs_of(method, stage), *others]
    lines = (
        warn_of_rate(setting.recipe, network),
        warn_of_batch(batch_size, images),
        warn_of_length(sum(epochs), advised_batch(batch_size, images), images, network),
        warn_of_size(setting.data, network),
    )
    return [f"warning: {line}" for line in lines if line is not None]


def warn_of_rate(recipe: Recipe, network: Backbone) -> str | None:
    """SGD's large rates on weights that were trained before."""
    if recipe.optimiser != "sgd" or recipe.learning_rate < _LARGEST_RATE or not network.starts_trained:
        return None
    return (
        f"sgd with a peak rate of {recipe.learning_rate:g} can undo weights that were trained before; use the "
        "recipe 'finetune' (⟨recipe⟩), or lower ⟨recipe.learning_rate⟩"
    )


def warn_of_batch(batch_size: int, images: int) -> str | None:
    """Batches so large that an epoch has only a few steps."""
    advised = advised_batch(batch_size, images)
    if advised == batch_size:
        return None
    steps = plural(batches_per_epoch(images, batch_size), "step")
    return f"an epoch has {steps}: batches of {batch_size} are large for {images:,} images; use ⟨batch_size {advised}⟩"


def advised_batch(batch_size: int, images: int, steps: int = _FEWEST_STEPS) -> int:
    """A batch size with which an epoch has so many steps: the one that there is, or a smaller power of two."""
    if batch_size <= _SMALL_BATCH or batches_per_epoch(images, batch_size) >= steps:
        return batch_size
    return next((size for size in (64, 32, 16) if images // size >= steps and size < batch_size), 8)


def warn_of_length(epochs: int, batch_size: int, images: int, network: Backbone) -> str | None:
    """A training that ends before it has begun.

    Args:
        epochs: Of all stages.
        batch_size: In a step; where it is itself too large, what is advised.
        images: To train on.
        network: Trained weights need fewer steps.
    """
    count = epochs * batches_per_epoch(images, batch_size)
    fewest = _FEWEST_FROM_TRAINED if network.starts_trained else _FEWEST_STEPS_IN_ALL
    if count >= fewest:
        return None
    return (
        f"in batches of {batch_size} the training has {plural(count, 'step')} in all, and fewer than {fewest} are too "
        "few to tell much; raise ⟨epochs⟩"
    )


def warn_of_size(data: ImageData, network: Backbone) -> str | None:
    """Images much smaller than those that published weights know."""
    published = network.preprocessing() if network.pretrained else None  # a file's weights may know other sizes
    if published is None or min(data.image_size) >= _SMALLEST_SIDE * min(published.image_size):
        return None
    (height, width), side = data.image_size, min(published.image_size)
    return (
        f"the published weights were trained on images of {side} pixels, and these have {height}x{width}; use "
        f"⟨data.image_size {side}⟩"
    )
