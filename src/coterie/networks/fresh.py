"""Networks of the same architecture as a given one, newly initialised."""

import copy
import inspect
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from coterie.networks.graph import LAYERS

Init = Literal["fresh", "copy"]


def untrained(model: nn.Module, init: Init, factory: Callable[[], nn.Module] | None = None) -> nn.Module:
    """Another network of the same architecture, on the model's device, drawn from torch's random generator.

    ``"fresh"`` takes the initial values of a newly built network: the factory's; else of the model's own name in timm
    or torchvision, where what is built has tensors of the same names and shapes; else each layer's own
    ``reset_parameters``, and timm's ``init_weights``. Parameters without any of these stay copies, with a warning.
    ``"copy"`` keeps all values but the classifier's.

    Args:
        model: Left as it is.
        init: How the other one starts.
        factory: Makes a newly initialised model.
    """
    if init == "fresh" and factory is not None:
        return factory()
    twin = copy.deepcopy(model)
    built = factory() if factory is not None else _built_anew(model)
    if init == "copy":
        for path in classifiers(twin):
            _take_or_reset(twin.get_submodule(path), built.get_submodule(path) if built is not None else None)
    elif built is not None:
        twin.load_state_dict(built.state_dict())
    else:
        _reset(twin)
    return twin


def classifiers(model: nn.Module) -> list[str]:
    """Paths of the layers that give the logits: distilled transformers have two heads.

    What timm calls a model's classifier; else the last linear layer or convolution, with those before it that have as
    many outputs.
    """
    paths = {module: path for path, module in model.named_modules()}
    found = cast(Any, model).get_classifier() if _is_of("timm", model) and hasattr(model, "get_classifier") else None
    heads = [found] if isinstance(found, nn.Module) else list(found) if isinstance(found, (tuple, list)) else []
    layers = [layer for head in heads for layer in head.modules() if isinstance(layer, LAYERS) and layer in paths]
    if not layers:
        every = [module for module in model.modules() if isinstance(module, LAYERS)]
        while every and (not layers or every[-1].weight.shape[0] == layers[0].weight.shape[0]):
            layers.append(every.pop())
    return [paths[layer] for layer in layers]


def _take_or_reset(layer: nn.Module, other: nn.Module | None) -> None:
    if other is not None and _shapes(layer) == _shapes(other):
        layer.load_state_dict(other.state_dict())
    else:
        cast(Any, layer).reset_parameters()


def _reset(twin: nn.Module) -> None:
    """Let every layer of a copy initialise itself."""
    raw: dict[str, nn.Parameter] = {}
    for path, module in twin.named_modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
        else:
            raw |= {f"{path}.{name}".lstrip("."): p for name, p in module.named_parameters(recurse=False)}
    before = {name: parameter.detach().clone() for name, parameter in raw.items()}
    again = getattr(twin, "init_weights", None)
    if _is_of("timm", twin) and callable(again) and _takes_nothing(again):
        again()
    copies = [name for name, parameter in raw.items() if torch.equal(parameter, before[name])]
    if copies:
        shown = ", ".join(copies[:6]) + (f" and {len(copies) - 6} more" if len(copies) > 6 else "")
        warnings.warn(
            f"these parameters have no initialiser (no reset_parameters) and start as copies: {shown}; "
            "give branch() a factory that builds the model anew",
            stacklevel=5,
        )


def _takes_nothing(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind()
    except TypeError:
        return False
    return True


def _built_anew(model: nn.Module) -> nn.Module | None:
    """The model built again by its name in its library; None where none gives tensors of the same shapes."""
    wanted = _shapes(model)
    for build in _builders(model):
        try:
            same = _shapes(without_memory(build)) == wanted
        except Exception:  # this name does not take these options
            continue
        if same:
            return build()
    return None


def without_memory(build: Callable[[], nn.Module]) -> nn.Module:
    """What a function builds, on the meta device; a few networks read values while they are built, and move there."""
    try:
        with torch.device("meta"):
            return build()
    except NotImplementedError:
        return build().to("meta")


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def _builders(model: nn.Module) -> Iterator[Callable[[], nn.Module]]:
    """What might have built a model of timm's or torchvision's."""
    heads = classifiers(model)
    classes = len(cast(Tensor, model.get_submodule(heads[0]).weight)) if heads else 0
    stem = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if _is_of("timm", model):
        import timm

        name = (getattr(model, "pretrained_cfg", None) or {}).get("architecture", "")
        options: dict[str, Any] = {"num_classes": classes, "in_chans": stem.in_channels if stem is not None else 3}
        size = getattr(getattr(model, "patch_embed", None), "img_size", None)
        for extra in ({}, {"img_size": size}) if size else ({},):
            if timm.is_model(name):
                yield lambda extra=extra: timm.create_model(name, **options, **extra)  # type: ignore[misc]
    if _is_of("torchvision", model):
        from torchvision import models

        auxiliary = {"aux_logits": getattr(model, "aux_logits", None), "init_weights": True}
        auxiliary = auxiliary if auxiliary["aux_logits"] is not None else {}
        side = getattr(model, "image_size", None)
        for name in models.list_models(module=models):
            if models.get_model_builder(name).__module__ == type(model).__module__:
                for extra in (auxiliary, {"image_size": side}) if side else (auxiliary,):
                    yield lambda name=name, extra=extra: models.get_model(  # type: ignore[misc]
                        name, num_classes=classes, **extra
                    )


def _is_of(library: str, model: nn.Module) -> bool:
    return type(model).__module__.startswith(f"{library}.models")
