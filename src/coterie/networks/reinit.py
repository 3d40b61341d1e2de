"""Networks of the same architecture as a given one, newly initialised."""

import copy
import inspect
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from coterie.errors import UserError
from coterie.networks.layers import LAYERS, classifiers, is_of

Init = Literal["fresh", "copy", "clone"]

_ENOUGH = 256  # numbers of which a spread can be told
_APART = 1.5  # times as wide


def reinitialise(
    model: nn.Module,
    init: Init,
    factory: Callable[[], nn.Module] | None = None,
    held: Callable[[str], bool] | None = None,
) -> nn.Module:
    """Another network of the same architecture, on the model's device, drawn from torch's random generator.

    ``"fresh"`` takes the initial values of a newly built network: the factory's; else of the model's own name in timm
    or torchvision, where what is built has tensors of the same names and shapes; else each layer's own
    ``reset_parameters`` and after it the model's own initialiser: ``_init_weights(module)``, as Hugging Face's have
    it, and timm's ``init_weights()``. Parameters without any of these stay copies, and layers of another spread than
    the model's keep PyTorch's: a warning names both.
    ``"copy"`` keeps all values but the classifier's; ``"clone"`` keeps all.

    Args:
        model: Left as it is.
        init: How the other one starts.
        factory: Makes a newly initialised model.
        held: Tells of a parameter's name whether it is used, for the warnings; None for all.
    """
    if init not in get_args(Init):
        raise UserError(f"init is {init!r}; give one of {', '.join(map(repr, get_args(Init)))}")
    if init == "fresh" and factory is not None:
        return factory()
    twin = copy.deepcopy(model)
    if init == "clone":
        return twin
    built = factory() if factory is not None else _build_anew(model)
    if init == "copy":
        for path in classifiers(twin):
            _take_or_reset(twin.get_submodule(path), built.get_submodule(path) if built is not None else None)
    elif built is not None:
        twin.load_state_dict(built.state_dict())
    else:
        _reset(twin, model, held or (lambda name: True))
    return twin


def _take_or_reset(layer: nn.Module, other: nn.Module | None) -> None:
    if other is not None and _list_shapes(layer) == _list_shapes(other):
        layer.load_state_dict(other.state_dict())
    else:
        cast(Any, layer).reset_parameters()


def _reset(twin: nn.Module, model: nn.Module, held: Callable[[str], bool]) -> None:
    """Let every layer of a copy initialise itself, and then the model all that it has an initialiser for."""
    raw: dict[str, nn.Parameter] = {}
    for path, module in twin.named_modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
        else:
            raw |= {f"{path}.{name}".lstrip("."): p for name, p in module.named_parameters(recurse=False)}
    # An initialiser that sets a parameter to what it is already leaves its values, but not its version.
    before = {name: (parameter._version, parameter.detach().clone()) for name, parameter in twin.named_parameters()}
    _initialise(twin)
    left = [
        name
        for name, parameter in twin.named_parameters()
        if parameter._version == before[name][0] and torch.equal(parameter, before[name][1])
    ]
    copies = [name for name in left if name in raw and held(name)]
    if copies:
        shown = ", ".join(copies[:6]) + (f" and {len(copies) - 6} more" if len(copies) > 6 else "")
        warnings.warn(
            f"these parameters have no initialiser (no reset_parameters) and start as copies: {shown}; "
            "give branch() a factory that builds the model anew",
            stacklevel=4,
        )
    theirs = dict(model.named_parameters())
    others = [name for name in left if name not in raw and held(name) and _spread_apart(twin, name, theirs[name])]
    if others:
        shown = f"{others[0]} with a spread of {twin.get_parameter(others[0]).std():.3f}, where the model's has"
        shown += f" {theirs[others[0]].std():.3f}" + (f", and {len(others) - 1} more" if len(others) > 1 else "")
        warnings.warn(
            f"fresh branches start as PyTorch initialises their layers, not as the model did: {shown}; give branch() "
            "a factory that builds the model anew, or init='copy' where it is trained",
            stacklevel=4,
        )


def _initialise(module: nn.Module, by: Callable[..., Any] | None = None) -> None:
    """Run the initialisers that models bring with them, each on its own part, from the inside out.

    Args:
        module: A model, or a part of one.
        by: The initialiser of what it is a part of.
    """
    again = getattr(module, "init_weights", None)
    if is_of("timm", module) and callable(again) and _takes(again):
        again()
        return
    own = getattr(module, "_init_weights", None)
    if callable(own) and _takes(own, module):
        by = own
    for child in module.children():
        _initialise(child, by)
    if by is not None:
        with torch.no_grad():
            by(module)


def _spread_apart(twin: nn.Module, name: str, theirs: Tensor) -> bool:
    """Whether a layer's weight starts with another spread than the model's has, beyond chance and some training."""
    owner, _, kind = name.rpartition(".")
    ours = twin.get_parameter(name).detach()
    if kind != "weight" or not isinstance(twin.get_submodule(owner), LAYERS) or ours.numel() < _ENOUGH:
        return False
    ratio = ours.std().item() / max(theirs.detach().std().item(), 1e-12)
    return not 1 / _APART < ratio < _APART


def _takes(function: Callable[..., Any], *arguments: Any) -> bool:
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    return True


def _build_anew(model: nn.Module) -> nn.Module | None:
    """The model built again by its name in its library; None where none gives tensors of the same shapes."""
    wanted = _list_shapes(model)
    for build in _list_builders(model):
        try:  # its name alone does not tell: the user may have changed layers since
            same = _list_shapes(build_on_meta(build)) == wanted
        except Exception:  # this name does not take these options
            continue
        if same:
            return build()
    return None


def build_on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """What a function builds, on the meta device; a few networks read values while they are built, and move there."""
    try:
        with torch.device("meta"):
            return build()
    except NotImplementedError:
        return build().to("meta")


def _list_shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def _list_builders(model: nn.Module) -> Iterator[Callable[[], nn.Module]]:
    """What might have built a model of timm's or torchvision's."""
    heads = classifiers(model)
    classes = len(cast(Tensor, model.get_submodule(heads[0]).weight)) if heads else 0
    stem = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if is_of("timm", model):
        import timm

        name = (getattr(model, "pretrained_cfg", None) or {}).get("architecture", "")
        options: dict[str, Any] = {"num_classes": classes, "in_chans": stem.in_channels if stem is not None else 3}
        size = getattr(getattr(model, "patch_embed", None), "img_size", None)
        for extra in ({}, {"img_size": size}) if size else ({},):
            if timm.is_model(name):
                yield lambda extra=extra: timm.create_model(name, **options, **extra)  # type: ignore[misc]
    if is_of("torchvision", model):
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
