"""The classifiers of timm and torchvision, for any number of classes and channels.

They are built as their libraries define them: no stem is changed for small images. Both libraries are imported where
they are first needed, since together they take seconds.
"""

import logging
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from coterie.errors import UserError, in_a_line
from coterie.networks.layers import LAYERS, classifiers

log = logging.getLogger("coterie")

_WITH_AUXILIARY_HEADS = ("googlenet", "inception_v3")


@dataclass(frozen=True)
class Preprocessing:
    """What a pretrained network expects of its images.

    Attributes:
        mean: Per channel, of pixels scaled to [0, 1].
        std: Per channel.
        image_size: (height, width) in pixels.
        crop_ratio: The share of an image's shorter side that was measured, in (0, 1].
        interpolation: By which images were resized: ``bicubic`` or ``bilinear``.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: tuple[int, int]
    crop_ratio: float = 1.0
    interpolation: str = "bicubic"


def library_names() -> list[str]:
    """Every network of both libraries, as ``timm/…`` and ``torchvision/…``."""
    import timm

    return [*(f"timm/{name}" for name in timm.list_models()), *(f"torchvision/{name}" for name in _torchvision_names())]


def is_known(library: str, name: str) -> bool:
    """Whether a library has a network; timm's may carry the tag of their weights, as ``resnet18.a1_in1k`` does."""
    if library == "timm":
        import timm

        return timm.is_model(name) and ("." not in name or name in timm.list_pretrained())
    return library == "torchvision" and name in _torchvision_names()


def preprocessing_of(library: str, name: str) -> Preprocessing | None:
    """How images were prepared for a known network's published weights; None where it has none.

    Read from the libraries' own tables: nothing is downloaded. Where timm squashes an image or puts a border around it
    (its ``crop_mode``), the middle is taken here; ratios above 1 are 1.
    """
    if library == "timm":
        import timm

        config = timm.get_pretrained_cfg(name)
        if config is None:
            return None
        size = tuple(config.input_size[1:])
        ratio = min(float(config.crop_pct), 1.0)
        return Preprocessing(tuple(config.mean), tuple(config.std), size, ratio, str(config.interpolation))
    import torchvision

    transforms = torchvision.models.get_model_weights(name)["DEFAULT"].transforms()
    size = transforms.crop_size[0]
    ratio = min(size / transforms.resize_size[0], 1.0)
    interpolation = str(transforms.interpolation.value)
    return Preprocessing(tuple(transforms.mean), tuple(transforms.std), (size, size), ratio, interpolation)


def published_classes(library: str, name: str) -> int | None:
    """How many classes a known network's published weights tell apart; None where it has none."""
    if library == "timm":
        import timm

        config = timm.get_pretrained_cfg(name)
        return None if config is None or not config.has_weights else int(config.num_classes)
    import torchvision

    return len(torchvision.models.get_model_weights(name)["DEFAULT"].meta["categories"])


def make(
    library: str,
    name: str,
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int] | None,
    pretrained: bool,
    drop_path: float = 0.0,
    mend: str = "use ⟨network.weights FILE.safetensors⟩",
) -> nn.Module:
    """Build a known network.

    Args:
        library: ``timm`` or ``torchvision``.
        name: The library's own name.
        num_classes: C; the classifier of published weights is replaced by a fresh one where C differs.
        in_channels: Channels of the images; the first convolution is adapted where they are not three.
        image_size: (height, width) in pixels, for networks of a fixed input size; None for the library's default.
        pretrained: Start from the library's published weights, downloaded unless cached.
        drop_path: Share of the images that skip the last residual block in training, where the network has that.
        mend: What the user can do where the weights cannot be had; ends the error's line.

    Raises:
        UserError: The network cannot be built for images of this size, or the weights cannot be had.
    """
    build = partial(_timm, drop_path=drop_path) if library == "timm" else _torchvision
    try:
        network = build(name, num_classes, in_channels, image_size, pretrained)
    except UserError:
        raise
    except (OSError, RuntimeError, ValueError, AssertionError, ZeroDivisionError) as error:
        if pretrained and isinstance(error, (OSError, RuntimeError)):
            raise UserError(
                f"network '{library}/{name}': its published weights cannot be had ({in_a_line(error)}); {mend}"
            ) from error
        if image_size is None or isinstance(error, OSError):
            raise
        raise _wrong_size(library, name, image_size, error) from error
    if image_size is not None:
        try:
            _try(network, in_channels, image_size)
        except (RuntimeError, ValueError, AssertionError) as error:
            raise _wrong_size(library, name, image_size, error) from error
    return network


def _try(network: nn.Module, in_channels: int, image_size: tuple[int, int]) -> None:
    # Pools and strides that leave nothing of a small image show only in a forward, which would else be training's.
    images = torch.zeros(1, in_channels, *image_size, device=next(network.parameters()).device)
    with torch.no_grad():
        network.eval()(images)
    network.train()


def _wrong_size(library: str, name: str, image_size: tuple[int, int], error: Exception) -> UserError:
    return UserError(
        f"network '{library}/{name}' cannot take images of {image_size[0]}x{image_size[1]} pixels "
        f"({in_a_line(error)}); set another ⟨data.image_size⟩"
    )


def _timm(
    name: str,
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int] | None,
    pretrained: bool,
    drop_path: float = 0.0,
) -> nn.Module:
    import timm

    options: dict[str, Any] = {"num_classes": num_classes, "in_chans": in_channels, "pretrained": pretrained}
    try:
        network = _timm_of_size(name, image_size, options | ({"drop_path_rate": drop_path} if drop_path else {}))
    except TypeError as error:  # it has none
        if "drop_path_rate" not in str(error):
            raise
        network = _timm_of_size(name, image_size, options)
    config = timm.get_pretrained_cfg(name)
    if pretrained and config is not None:
        _say_replaced(config.num_classes, num_classes)
    return network


def _timm_of_size(name: str, image_size: tuple[int, int] | None, options: dict[str, Any]) -> nn.Module:
    import timm

    if image_size is not None:
        try:
            return timm.create_model(name, **options, img_size=image_size)
        except TypeError as error:  # most networks take any size and have no such option
            if "img_size" not in str(error):
                raise
    return timm.create_model(name, **options)


def _torchvision(
    name: str, num_classes: int, in_channels: int, image_size: tuple[int, int] | None, pretrained: bool
) -> nn.Module:
    import torchvision

    options: dict[str, Any] = {"weights": "DEFAULT"}
    if not pretrained:
        options = plain_arguments("torchvision", name, num_classes, in_channels, image_size)
    elif image_size is not None:
        options |= _fixed_size(name, image_size, pretrained)
    network: nn.Module = torchvision.models.get_model(name, **options)
    if name in _WITH_AUXILIARY_HEADS and pretrained:
        _drop_auxiliary_heads(network, in_channels)
    if pretrained:
        _fit_classifier(network, num_classes)
    if in_channels != 3:
        _fit_stem(network, in_channels, pretrained)
    return network


def plain_arguments(
    library: str, name: str, num_classes: int, in_channels: int, image_size: tuple[int, int] | None
) -> dict[str, Any]:
    """What a library's function takes to build what :func:`make` built; timm's of a fixed size take ``img_size`` too.

    torchvision's first convolution is to be replaced afterwards where there are not three channels.
    """
    if library == "timm":
        return {"num_classes": num_classes, "in_chans": in_channels}
    heads = {"aux_logits": False, "init_weights": True} if name in _WITH_AUXILIARY_HEADS else {}
    size = {} if image_size is None else _fixed_size(name, image_size, pretrained=False)
    return {"num_classes": num_classes, **heads, **size}


def _torchvision_names() -> list[str]:
    import torchvision

    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return names


def _fixed_size(name: str, image_size: tuple[int, int], pretrained: bool) -> dict[str, Any]:
    # Only these two families of torchvision's are built for one size of image.
    if not name.startswith(("vit_", "maxvit_")):
        return {}
    height, width = image_size
    if pretrained:
        import torchvision

        trained = tuple(torchvision.models.get_model_weights(name)["DEFAULT"].meta["min_size"])
        if image_size != trained:
            raise UserError(
                f"network 'torchvision/{name}': its published weights are for {trained[0]}x{trained[1]} pixels, "
                f"not {height}x{width}; set ⟨data.image_size {trained[0]}⟩"
            )
        return {}
    if name.startswith("maxvit_"):
        return {"input_size": image_size}
    if height != width:
        raise UserError(
            f"network 'torchvision/{name}' takes square images, not {height}x{width} pixels; "
            f"set ⟨data.image_size {max(image_size)}⟩, or use one of timm's"
        )
    return {"image_size": height}


def _drop_auxiliary_heads(network: nn.Module, in_channels: int) -> None:
    # The published weights load only with these heads; in training they would return a tuple.
    network.aux_logits = False  # type: ignore[assignment]
    for part in ("aux1", "aux2", "AuxLogits"):
        if hasattr(network, part):
            setattr(network, part, None)
    if in_channels != 3:
        network.transform_input = False  # type: ignore[assignment]  # it picks the channels 0, 1 and 2


def _fit_classifier(network: nn.Module, num_classes: int) -> None:
    path = classifiers(network)[0]
    old = network.get_submodule(path)
    assert isinstance(old, LAYERS)
    classes = old.weight.shape[0]
    if classes == num_classes:
        return
    _say_replaced(classes, num_classes)
    bias = old.bias is not None
    new: nn.Module
    if isinstance(old, nn.Linear):
        new = nn.Linear(old.in_features, num_classes, bias)
    else:
        new = nn.Conv2d(old.in_channels, num_classes, 1, bias=bias)
    parent, _, name = path.rpartition(".")
    network.get_submodule(parent).add_module(name, new)


def _fit_stem(network: nn.Module, in_channels: int, pretrained: bool) -> None:
    stem = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    if pretrained:
        from timm.models import adapt_input_conv

        weight = adapt_input_conv(in_channels, stem.weight.detach())
    else:  # drawn as widely as the library drew it
        spread = stem.weight.detach().std().item()
        weight = torch.empty(stem.out_channels, in_channels, *stem.kernel_size).normal_(0, spread)
    stem.weight = nn.Parameter(weight)
    stem.in_channels = in_channels


def _say_replaced(theirs: int, ours: int) -> None:
    if theirs != ours:
        log.warning("the published weights' classifier of %d classes is replaced by a fresh one of %d", theirs, ours)
