"""The README of an exported folder: what the network is, written from its Run."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from coterie.deploy.formats.base import Deliverable
from coterie.evaluation.figures import intervals_of
from coterie.records import Card

_MEASURES = {
    "error": ("test error", "%"),
    "top5_error": ("test error, top 5", "%"),
    "nll": ("negative log-likelihood", " nats"),
    "ece": ("expected calibration error", ""),
}


def model_card(deliverable: Deliverable, name: str, licence: str) -> str:
    """Markdown with the header that the Hugging Face Hub reads.

    Args:
        deliverable: What was exported; its card says how it was checked.
        name: Of the folder.
        licence: Of the weights, as the Hub names it.
    """
    card = deliverable.card
    head = {
        "tags": ["image-classification", "timm"],
        "pipeline_tag": "image-classification",
        "library_name": "timm",
        "license": licence,
    }
    parts = [
        "---\n" + "".join(f"{key}: {json.dumps(value)}\n" for key, value in head.items()) + "---",
        f"# {name}",
        f"`{card['network'] or type(deliverable.network).__name__}`, trained with "
        f"coterie {card.get('coterie', '')}".rstrip()
        + ".",
        "## How to load",
        _loading(card, name),
        "## Training",
        _list(_training(deliverable)),
        "## Metrics",
        _metrics(deliverable),
        "## Images",
        _list(_images(card)),
        "## Limits",
        _list(_limits(deliverable)),
    ]
    return "\n\n".join(parts) + "\n"


def _loading(card: Card, name: str) -> str:
    return f"""```python
import timm, torch
from PIL import Image

model = timm.create_model("local-dir:{name}", pretrained=True).eval()  # or hf-hub:OWNER/{name}
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
image = Image.open("photo.jpg").convert("{"L" if card["channels"] == 1 else "RGB"}")
with torch.inference_mode():
    probabilities = model(transform(image)[None]).softmax(1)[0]
print(model.pretrained_cfg["label_names"][int(probabilities.argmax())])
```"""


def _training(deliverable: Deliverable) -> Iterable[tuple[str, str]]:
    card, config = deliverable.card, deliverable.run.config
    data = deliverable.data
    yield "method", f"`{card['method']}` {_options(card['options'])}".rstrip()
    yield "deliverable", f"`{deliverable.student}`, epoch {card.get('epoch', '?')} ({card.get('selected', 'last')})"
    yield "data", f"`{card['data']}`: {len(data.train)} training and {len(data.test)} test images"
    recipe = config.get("recipe")
    if isinstance(recipe, Mapping):
        yield "recipe", f"`{recipe.get('name', '')}` {_options(recipe)}".rstrip()
    training = {name: config.get(name) for name in ("epochs", "batch_size", "precision", "seed")}
    yield "length", ", ".join(f"{name} {value}" for name, value in training.items() if value is not None)
    record = config["network"]
    if record is not None and (record.get("pretrained") or record.get("weights")):
        yield "began from", "the library's published weights" if record.get("pretrained") else str(record["weights"])
    flops = card.get("training_flops")
    cost = [
        f"{card['seconds']:.0f} seconds" if "seconds" in card else "",
        "" if flops is None else f"{flops:.3g} FLOPs",
    ]
    yield "training cost", ", ".join(filter(None, cost)) or "not known"
    if (running := card["cost"].get(deliverable.student)) is not None:
        yield "cost to run", f"{running['parameters']:,} parameters, {running['flops']:.3g} FLOPs an image"


def _options(options: Mapping[str, Any]) -> str:
    shown = [f"{name}={value}" for name, value in options.items() if value is not None and name != "name"]
    return f"({', '.join(shown)})" if shown else ""


def _metrics(deliverable: Deliverable) -> str:
    figures = deliverable.card["test"].get(deliverable.student, {})
    intervals = intervals_of(figures, len(deliverable.data.test))
    rows = ["| on the test images | | 95 % interval |", "|---|---|---|"]
    for name, (words, unit) in _MEASURES.items():
        if name in figures:
            ends = intervals.get(name)
            interval = "" if ends is None else f"{ends[0]:.2f} to {ends[1]:.2f} %"
            rows.append(f"| {words} | {figures[name]:.4g}{unit} | {interval} |")
    return "\n".join(rows)


def _images(card: Card) -> Iterable[tuple[str, str]]:
    height, width = card["image_size"]
    yield "size", f"{height}x{width} pixels, {card['channels']} channels"
    yield "mean, std", f"{list(card['mean'])}, {list(card['std'])}"
    yield "crop ratio, interpolation", f"{card.get('crop_ratio', 1.0):g}, {card.get('interpolation', 'bicubic')}"
    yield "beforehand", "turned upright by their EXIF orientation, transparency on white"


def _limits(deliverable: Deliverable) -> Iterable[tuple[str, str]]:
    card = deliverable.card
    yield (
        "classes",
        f"it names one of {len(card['classes'])} classes for any image, also for one that shows none of them",
    )
    yield "images", "it was measured on images like those that it was trained on, and on no others"
    yield "intervals", "they hold for the test images drawn anew, not for another training"
    checked = card.get("checked")
    if checked is not None:
        yield (
            "these files",
            f"opened again by timm alone on {checked['images']} test images: largest difference of the logits "
            f"{checked['difference']:.2g}, top-1 agrees on {100 * checked['agreement']:.4g} %, error changed by "
            f"{checked['error_change']:+.2f} points",
        )


def _list(items: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"- **{name}**: {text}" for name, text in items)
