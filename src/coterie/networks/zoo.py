"""Networks by name: the papers' CIFAR families, and everything of timm's and torchvision's."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Union

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from coterie.errors import UserError, unknown_name
from coterie.networks.cifar_resnet import BasicBlock, Bottleneck, CifarResNet
from coterie.networks.densenet import DenseNetBC
from coterie.networks.resnext import ResNeXt29

# timm and torchvision are imported where they are first needed: together they take seconds.

log = logging.getLogger("coterie")

NetworkLike = Union[str, "Network", nn.Module, Callable[..., nn.Module]]


@dataclass(frozen=True)
class Entry:
    """A network written here.

    Attributes:
        make: (num_classes=, in_channels=) to the network.
        summary: One line for listings.
    """

    make: Callable[..., nn.Module]
    summary: str


def _resnets() -> dict[str, Entry]:
    entries = {}
    for depth in (8, 14, 20, 32, 44, 56, 110):
        make = partial(CifarResNet, BasicBlock, (depth - 2) // 6)
        entries[f"resnet{depth}"] = Entry(make, f"CIFAR ResNet of {depth} layers, basic blocks")
    return entries


OWN: dict[str, Entry] = _resnets() | {
    "resnet110-bottleneck": Entry(
        partial(CifarResNet, Bottleneck, 18),
        "what ONE's official code calls ResNet-110: 18 bottlenecks a stage, in fact 164 layers, 1.73 M parameters",
    ),
    "resnet110-bottleneck12": Entry(
        partial(CifarResNet, Bottleneck, 12), "CIFAR ResNet of 110 layers, bottlenecks, 1.17 M parameters (OKDDip)"
    ),
    "resnext29-8x64d": Entry(ResNeXt29, "CIFAR ResNeXt of 29 layers, 8 groups of width 64"),
    "densenet-bc-100-12": Entry(partial(DenseNetBC, 100, 12), "CIFAR DenseNet-BC, L = 100, k = 12"),
    "densenet-bc-190-40": Entry(partial(DenseNetBC, 190, 40), "CIFAR DenseNet-BC, L = 190, k = 40"),
}


@dataclass(frozen=True)
class Preprocessing:
    """What a pretrained network expects of its images.

    Attributes:
        mean: Per channel, of pixels scaled to [0, 1].
        std: Per channel.
        image_size: (height, width).
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: tuple[int, int]


@dataclass(frozen=True)
class Network:
    """A backbone by name, or one of the user's own.

    Attributes:
        name: For example ``resnet32``, ``timm/resnet18``, ``torchvision/resnet18``; or a module; or a factory, called
            with ``num_classes`` and ``in_channels``.
        pretrained: Start from the library's published weights.
        weights: Start from a safetensors file; a classifier of another class count is left fresh, and said.
    """

    name: Any
    pretrained: bool = False
    weights: str | None = None

    @classmethod
    def of(cls, network: NetworkLike) -> "Network":
        """Whatever names a network, as a Network."""
        return network if isinstance(network, Network) else cls(network)

    def build(self, num_classes: int, in_channels: int, image_size: tuple[int, int] | None = None) -> nn.Module:
        """The network, with its weights where it has some. A module of the user's own is given as it is.

        Raises:
            UserError: The name is unknown, the images are too small, or the weights cannot be had or do not fit.
        """
        if isinstance(self.name, nn.Module):
            return self.name
        network = self._make(num_classes, in_channels, image_size, self.pretrained)
        if self.weights is not None:
            load_matching(network, Path(self.weights))
        return network

    def build_fresh(self, num_classes: int, in_channels: int, image_size: tuple[int, int] | None = None) -> nn.Module:
        """The same architecture, newly initialised.

        Raises:
            UserError: The network is a module of the user's own, which only the user can build.
        """
        if isinstance(self.name, nn.Module):
            raise UserError("a module of your own cannot be built anew; give a factory")
        return self._make(num_classes, in_channels, image_size, pretrained=False)

    def preprocessing(self) -> Preprocessing | None:
        """Mean, std and size of a pretrained network, looked up without a download; None without weights."""
        if not isinstance(self.name, str) or not (self.pretrained or self.weights):
            return None
        library, _, name = self.name.partition("/")
        if library == "timm":
            import timm

            config = timm.get_pretrained_cfg(name)
            if config is None:
                return None
            return Preprocessing(tuple(config.mean), tuple(config.std), tuple(config.input_size[1:]))
        if library == "torchvision":
            import torchvision

            transforms = torchvision.models.get_model_weights(name)["DEFAULT"].transforms()
            size = transforms.crop_size[0]
            return Preprocessing(tuple(transforms.mean), tuple(transforms.std), (size, size))
        return None

    def _make(
        self, num_classes: int, in_channels: int, image_size: tuple[int, int] | None, pretrained: bool
    ) -> nn.Module:
        if not isinstance(self.name, str):
            made: nn.Module = self.name(num_classes=num_classes, in_channels=in_channels)
            return made
        if image_size is not None and min(image_size) < 8:
            raise UserError(
                f"images of {image_size[0]}x{image_size[1]} pixels are too small; set --data.image_size 8 or more"
            )
        library, _, name = self.name.partition("/")
        if self.name in OWN:
            if pretrained:
                raise UserError(
                    f"network '{self.name}' has no published weights; use --network.weights FILE.safetensors"
                )
            return OWN[self.name].make(num_classes=num_classes, in_channels=in_channels)
        if self.name not in names(everything=True):
            raise _unknown(self.name)
        try:
            make = _timm if library == "timm" else _torchvision
            return make(name, num_classes, in_channels, image_size, pretrained)
        except (OSError, RuntimeError) as error:
            if not pretrained:
                raise
            reason = str(error).splitlines()[0][:120]
            raise UserError(
                f"network '{self.name}': its published weights cannot be fetched ({reason}); "
                "use --network.weights FILE.safetensors"
            ) from error


def build(
    name: str,
    num_classes: int = 10,
    in_channels: int = 3,
    *,
    image_size: tuple[int, int] | None = None,
    pretrained: bool = False,
    weights: str | None = None,
) -> nn.Module:
    """A network by name.

    Args:
        name: For example ``resnet32``, ``timm/resnet18``, ``torchvision/resnet18``; see :func:`names`.
        num_classes: C.
        in_channels: Channels of the images.
        image_size: (height, width), for networks of a fixed input size.
        pretrained: Start from the library's published weights.
        weights: Start from a safetensors file.

    Raises:
        UserError: The name is unknown, or the weights cannot be had or do not fit.
    """
    return Network(name, pretrained, weights).build(num_classes, in_channels, image_size)


def names(everything: bool = False) -> list[str]:
    """The networks written here, and with ``everything`` all of timm's and torchvision's classifiers too."""
    if not everything:
        return list(OWN)
    import timm
    import torchvision

    vision = torchvision.models.list_models(module=torchvision.models)
    return [*OWN, *(f"timm/{name}" for name in timm.list_models()), *(f"torchvision/{name}" for name in vision)]


def _unknown(name: str) -> UserError:
    known = names(everything=True)
    bare = name.rpartition("/")[2]
    same = [each for each in known if each.rpartition("/")[2] == bare]
    if same:
        return UserError(f"unknown network '{name}'; did you mean {' or '.join(repr(each) for each in same)}?")
    return unknown_name("network", name, known)


def _timm(
    name: str, num_classes: int, in_channels: int, image_size: tuple[int, int] | None, pretrained: bool
) -> nn.Module:
    import timm

    options: dict[str, Any] = {"num_classes": num_classes, "in_chans": in_channels, "pretrained": pretrained}
    if image_size is not None:
        try:
            return timm.create_model(name, **options, img_size=image_size)
        except TypeError:  # most networks take any size and have no such option
            pass
    return timm.create_model(name, **options)


def _torchvision(
    name: str, num_classes: int, in_channels: int, image_size: tuple[int, int] | None, pretrained: bool
) -> nn.Module:
    import torchvision

    options: dict[str, Any] = {"weights": "DEFAULT" if pretrained else None}
    builder = torchvision.models.get_model_builder(name)
    if name in ("googlenet", "inception_v3"):
        options |= {"init_weights": not pretrained} | ({} if pretrained else {"aux_logits": False})
    if not pretrained:
        options["num_classes"] = num_classes
        if image_size is not None and "vit" in name:
            options["image_size"] = image_size[0]
    network: nn.Module = builder(**options)
    if pretrained and name in ("googlenet", "inception_v3"):
        network.aux_logits = False  # type: ignore[assignment]
        for part in ("aux1", "aux2", "AuxLogits"):
            if hasattr(network, part):
                setattr(network, part, None)
    if pretrained:
        _replace_classifier(network, num_classes)
    if in_channels != 3:
        _replace_stem(network, in_channels, pretrained)
    return network


def _replace_classifier(network: nn.Module, num_classes: int) -> None:
    kinds = (nn.Linear, nn.Conv2d)
    path, old = [(path, module) for path, module in network.named_modules() if isinstance(module, kinds)][-1]
    new: nn.Module
    if isinstance(old, nn.Linear):
        if old.out_features == num_classes:
            return
        new = nn.Linear(old.in_features, num_classes, bias=old.bias is not None)
    else:
        new = nn.Conv2d(old.in_channels, num_classes, kernel_size=(1, 1))
    _put(network, path, new)
    log.warning("the classifier of 1000 classes is replaced by a fresh one of %d", num_classes)


def _replace_stem(network: nn.Module, in_channels: int, pretrained: bool) -> None:
    path, old = next((path, module) for path, module in network.named_modules() if isinstance(module, nn.Conv2d))
    shape = (old.kernel_size, old.stride, old.padding, old.dilation, old.groups)
    new = nn.Conv2d(in_channels, old.out_channels, *shape, bias=old.bias is not None)  # type: ignore[arg-type]
    if pretrained:
        with torch.no_grad():  # the sum over the old channels, spread over the new: as timm does
            new.weight.copy_(old.weight.sum(1, keepdim=True).expand_as(new.weight) / in_channels)
            if old.bias is not None and new.bias is not None:
                new.bias.copy_(old.bias)
    _put(network, path, new)


def _put(network: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    network.get_submodule(parent).add_module(name, module)


def load_matching(network: nn.Module, path: Path) -> None:
    """Load weights by name; a classifier of another class count stays fresh, and is said.

    Raises:
        UserError: The file is missing, damaged, or another network's.
    """
    try:
        state: dict[str, Tensor] = load_file(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; check --network.weights") from error
    except SafetensorError as error:
        raise UserError(f"{path}: damaged or no safetensors file ({error}); check --network.weights") from error
    own = network.state_dict()
    head = [name for name, module in network.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))][-1]
    fresh = [f"{head}.{part}" for part in ("weight", "bias")]
    replaced = [key for key in fresh if key in state and key in own and _other_classes(state[key], own[key])]
    wrong = [key for key in own if key not in state or (own[key].shape != state[key].shape and key not in replaced)]
    wrong += [key for key in state if key not in own]
    if wrong:
        raise UserError(f"{path}: weights of another network (first mismatches: {', '.join(wrong[:3])})")
    for key in replaced:
        state[key] = own[key]
    if replaced:
        log.warning("%s: its classifier of another class count is replaced by a fresh one", path)
    network.load_state_dict(state)


def _other_classes(theirs: Tensor, ours: Tensor) -> bool:
    return theirs.shape[1:] == ours.shape[1:] and theirs.shape[0] != ours.shape[0]
