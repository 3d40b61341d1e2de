"""What was trained on: images as the first epoch gave them, varied and mixed as the run's recipe says."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from coterie.console.terminal import printable
from coterie.data import ImageData, Streaming, batches_per_epoch, training_batches
from coterie.data.mixing import Mixing, draw_mixtures
from coterie.data.policies import Variation
from coterie.errors import UserError
from coterie.recipes import RECIPES, Recipe
from coterie.reports.drawing.plots import make_thumbnail
from coterie.reports.groups import FREE_OF_DATA
from coterie.reports.measured import Experiment, Measured

_PICTURES = 12
_SIDE = 160  # of a picture, in pixels


@dataclass(frozen=True)
class Augmented:
    """Training images under one heading.

    Attributes:
        title: The heading.
        text: How they were varied, in words.
        pictures: They, in the order of training.
    """

    title: str
    text: str
    pictures: Sequence["Picture"]


class Picture(NamedTuple):
    """A training image.

    Attributes:
        url: A data URL.
        classes: Names of the classes that are mixed in it, the heaviest first, with their shares; of a single class
            without.
    """

    url: str
    classes: Sequence[tuple[str, str]]


def show_augmented(experiments: Sequence[Experiment]) -> list[Augmented]:
    """Twelve training images for each data set and way of varying it; none of runs whose images cannot be had."""
    alike: dict[str, list[Experiment]] = {}
    for experiment in experiments:
        recipe = _recipe(experiment.first)
        if recipe is not None:
            alike.setdefault(_key(experiment.first, recipe), []).append(experiment)
    drawn = []
    for group in alike.values():
        first, recipe = group[0].first, _recipe(group[0].first)
        assert recipe is not None
        assert first.data is not None
        pictures = _draw(first, first.data, recipe)
        if pictures:
            names = ", ".join(experiment.group.name for experiment in group)
            title = "What was trained on" + (f": {names}" if len(alike) > 1 else "")
            drawn.append(Augmented(title, _describe(first, first.data, recipe, len(pictures)), pictures))
    return drawn


def _recipe(run: Measured) -> Recipe | None:
    """The recipe of a run whose images are at hand, as its configuration has it; None where they are not."""
    config: Mapping[str, Any] = run.run.config
    recorded = config.get("recipe")
    if run.data is None or config["data"] is None or not isinstance(recorded, dict):
        return None
    kind = RECIPES.get(str(recorded.get("name")))
    if kind is None or not isinstance(config.get("batch_size"), int):
        return None
    known = {field.name for field in fields(kind)}
    try:
        return kind(**{name: value for name, value in recorded.items() if name in known})
    except UserError:  # written by another version
        return None


def _key(run: Measured, recipe: Recipe) -> str:
    """Equal for runs on the same data that are varied alike, whatever their seeds."""
    recorded = run.run.config["data"] or {}
    data = {name: value for name, value in recorded.items() if name not in (*FREE_OF_DATA, "seed")}
    return repr((sorted(data.items()), recipe.mixing, recipe.variation))


def _draw(run: Measured, data: ImageData, recipe: Recipe) -> list[Picture]:
    """The images; none where there are no two training images now."""
    if isinstance(data.train, Streaming):  # a few images need no processes of their own
        data = replace(data, train=replace(data.train, workers=0))
    config: Mapping[str, Any] = run.run.config
    size, seed = min(config["batch_size"], len(data.train)), config["seed"]
    if size < 2:
        return []
    mixing = replace(recipe.mixing, label_smoothing=0.0, weighs=False)  # what is mixed shows, not what is smoothed
    pictures: list[Picture] = []
    try:
        for step, places in _places(data, mixing, size, seed).items():
            batches = training_batches(
                data,
                batch_size=size,
                seed=seed,
                stage=0,
                epoch=0,
                start=step,
                mixing=mixing,
                variation=recipe.variation,
            )
            batch = next(batches)
            pixels = _pixels(batch.images[places], data)
            labels = [_name_label(batch.labels[place], data.classes) for place in places]
            urls = [make_thumbnail(image.numpy(), _SIDE) for image in pixels]
            pictures += map(Picture, urls, labels)
    except UserError:  # too few images, or files that are gone by now
        return []
    return pictures


def _places(data: ImageData, mixing: Mixing, batch_size: int, seed: int) -> dict[int, list[int]]:
    """Which images of which batches are shown: the epoch's first, as many mixed in each way and not mixed."""
    steps = batches_per_epoch(len(data.train), batch_size)
    kinds = draw_mixtures(mixing, steps, data.image_size, seed, stage=0, epoch=0, progress=0.0).kind
    counted = Counter[int]()
    pairs = []  # that are mixed with one another
    for step, kind in enumerate(kinds.tolist()):
        count = min(batch_size, len(data.train) - step * batch_size)
        for place in range(0, count, 2):
            if counted[kind] == _PICTURES:
                break
            pairs.append((counted[kind], step, [each for each in (place, place + 1) if each < count]))
            counted[kind] += 1
    chosen: dict[int, list[int]] = {}
    for _, step, places in sorted(sorted(pairs)[: _PICTURES // 2], key=lambda pair: pair[1:]):
        chosen.setdefault(step, []).extend(places)
    return chosen


def _pixels(images: Tensor, data: ImageData) -> Tensor:
    """Normalised images (B, channels, H, W) as uint8 (B, H, W, channels)."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (data.mean, data.std))
    return ((images * std + mean) * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()


def _name_label(label: Tensor, classes: Sequence[str]) -> list[tuple[str, str]]:
    """A class, or those of a distribution (C,) with their shares."""
    if label.dim() == 0:
        return [(printable(classes[int(label)]), "")]
    shares, indices = label.sort(descending=True, stable=True)
    parts = [
        (printable(classes[index]), f"{100 * share:.0f}\N{NO-BREAK SPACE}%")
        for share, index in zip(shares.tolist(), indices.tolist(), strict=True)
        if share >= 0.005
    ]
    return parts if len(parts) > 1 else [(parts[0][0], "")]


def _describe(run: Measured, data: ImageData, recipe: Recipe, count: int) -> str:
    how = [_describe_augment(data), *([] if data.augment == "none" else _describe_variation(recipe.variation))]
    how += _describe_mixing(recipe.mixing)
    many = "Twelve" if count == _PICTURES else str(count)
    smoothed = ", before it is smoothed" if recipe.label_smoothing > 0 else ""
    return (
        f"{many} training images as the first epoch gave them (seed {run.run.config['seed']}): {'; '.join(how)}. Below "
        f"each is the label that is learned{smoothed}."
    )


def _describe_augment(data: ImageData) -> str:
    if data.augment == "none":
        return "as they are"
    words = {
        "crop": "moved by up to an eighth of the side",
        "crop-flip": "moved by up to an eighth of the side",
        "random-resized-crop": "8 to 100 % of the area, resized",
    }
    mirrored = data.augment != "crop" if data.flip is None else data.flip
    return words[data.augment] + (", half of them mirrored" if mirrored else ", none mirrored")


def _describe_variation(variation: Variation) -> list[str]:
    words = []
    policies = {"trivial-augment": "TrivialAugment", "rand-augment": "RandAugment"}
    if variation.policy in policies and variation.strength > 0:
        words.append(f"{policies[variation.policy]} at {100 * variation.strength:g} % of its strength")
    if variation.jitter > 0:
        words.append(f"colours jittered by {variation.jitter:g}")
    if variation.erasing > 0:
        words.append(f"a box erased of {100 * variation.erasing:g} % of them")
    return words


def _describe_mixing(mixing: Mixing) -> list[str]:
    words = []
    if mixing.mixes:
        kinds = " or ".join(kind for kind in ("mixup", "cutmix") if getattr(mixing, kind) > 0)
        until = "" if mixing.until == 1 else f", until {100 * mixing.until:g} % of the epochs"
        words.append(f"mixed in pairs by {kinds} in {100 * mixing.probability:g} % of the batches{until}")
    if mixing.label_smoothing > 0:
        words.append(f"labels smoothed by {mixing.label_smoothing:g}")
    return words
