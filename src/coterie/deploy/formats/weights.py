"""``safetensors``: the weights alone, by the names that the plain network gives them."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from coterie.deploy.formats.base import Deliverable, Logits, Written
from coterie.deploy.formats.fresh import WITH_TIMM, WITH_TORCHVISION, run_afresh
from coterie.networks.libraries import plain_arguments
from coterie.records import AVERAGE
from coterie.run import load_weights, portable_state


def _write(deliverable: Deliverable, path: Path) -> None:
    save_file(portable_state(deliverable.network), path, metadata={"coterie": json.dumps(deliverable.card)})


def _again(deliverable: Deliverable, path: Path) -> Tensor:
    """By its library alone, where the network is a library's; by coterie otherwise."""
    library, name = _library(deliverable)
    if library:
        card = deliverable.card
        size = card["image_size"]
        options: dict[str, Any] = {"name": name, "image_size": size, "channels": card["channels"]}
        options["arguments"] = plain_arguments(library, name, len(card["classes"]), card["channels"], size)
        return run_afresh(WITH_TIMM if library == "timm" else WITH_TORCHVISION, path, deliverable.images, **options)
    again = deliverable.run.network(deliverable.student)
    load_weights(again, path)
    with torch.inference_mode():
        return Logits(again)(deliverable.images)


def _library(deliverable: Deliverable) -> tuple[str, str]:
    """The library and the name there of a network that is still the library's own; empty where it is not."""
    library, _, name = (deliverable.card["network"] or "").partition("/")
    plain = deliverable.student.removesuffix(AVERAGE) == "target" and not deliverable.card.get("pruned", False)
    return (library, name) if plain and library in ("timm", "torchvision") else ("", "")


SAFETENSORS = Written(".safetensors", _write, _again)
