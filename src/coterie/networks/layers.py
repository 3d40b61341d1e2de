"""Which layers of a network are its classifier."""

from typing import Any, cast

from torch import nn

LAYERS = (nn.Linear, nn.Conv2d)  # what a classifier is


def classifiers(model: nn.Module) -> list[str]:
    """Paths of the layers that give the logits: distilled transformers have two heads.

    What timm calls a model's classifier; else the last linear layer or convolution, with those before it that have as
    many outputs.
    """
    paths = {module: path for path, module in model.named_modules()}
    named = cast(Any, model).get_classifier() if is_of("timm", model) and hasattr(model, "get_classifier") else None
    heads = [named] if isinstance(named, nn.Module) else list(named) if isinstance(named, (tuple, list)) else []
    layers = [layer for head in heads for layer in head.modules() if isinstance(layer, LAYERS) and layer in paths]
    if not layers:
        rest = [module for module in model.modules() if isinstance(module, LAYERS)]
        while rest and (not layers or rest[-1].weight.shape[0] == layers[0].weight.shape[0]):
            layers.append(rest.pop())
    return [paths[layer] for layer in layers]


def holds_layer(module: nn.Module) -> bool:
    """Whether a module is or holds a linear layer or convolution: the last that does gives the logits."""
    return any(isinstance(part, LAYERS) for part in module.modules())


def is_of(library: str, model: nn.Module) -> bool:
    """Whether a model is one of a library's, ``timm`` or ``torchvision``."""
    return type(model).__module__.startswith(f"{library}.models")
