"""Networks by name: the papers' CIFAR families, and everything of timm's and torchvision's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from inspect import signature
from typing import Annotated, Any, Union

from torch import nn

from coterie.bounds import Bounds, PositiveInt
from coterie.checking import check_arguments, check_fields
from coterie.errors import UserError, unknown_name
from coterie.files import user_path
from coterie.networks import libraries
from coterie.networks.checkpointing import checkpoint_activations
from coterie.networks.cifar.allcnn import AllCNN
from coterie.networks.cifar.densenet import DenseNet121, DenseNetBC
from coterie.networks.cifar.resnet import BasicBlock, Bottleneck, CifarResNet
from coterie.networks.cifar.resnext import ResNeXt29
from coterie.networks.cifar.wide_resnet import WideResNet
from coterie.networks.fitting import fit
from coterie.networks.libraries import Preprocessing
from coterie.networks.parameters import freeze
from coterie.networks.weights import load_matching
from coterie.registry import Registry

__all__ = ["NETWORKS", "Backbone", "BackboneLike", "NetworkEntry", "Preprocessing", "build", "names"]

SMALLEST_IMAGE = 8

BackboneLike = Union[str, "Backbone", nn.Module, Callable[..., nn.Module]]


@dataclass(frozen=True)
class NetworkEntry:
    """A network by name.

    Attributes:
        make: Called with ``num_classes`` and ``in_channels``; gives images (B, in_channels, H, W) to logits
            (B, num_classes), newly initialised.
        summary: One line for listings.
    """

    make: Callable[..., nn.Module]
    summary: str


def _resnets() -> dict[str, NetworkEntry]:
    entries = {}
    for depth in (8, 14, 20, 32, 44, 56, 110):
        make = partial(CifarResNet, BasicBlock, (depth - 2) // 6)
        entries[f"resnet{depth}"] = NetworkEntry(make, f"CIFAR ResNet of {depth} layers, basic blocks")
    return entries


_OWN = _resnets() | {
    "resnet110-bottleneck": NetworkEntry(
        partial(CifarResNet, Bottleneck, 18),
        "what ONE's official code calls ResNet-110: 18 bottlenecks a stage, in fact 164 layers, 1.73 M parameters",
    ),
    "resnet110-bottleneck12": NetworkEntry(
        partial(CifarResNet, Bottleneck, 12), "CIFAR ResNet of 110 layers, bottlenecks, 1.17 M parameters (OKDDip)"
    ),
    "resnext29-8x64d": NetworkEntry(ResNeXt29, "CIFAR ResNeXt of 29 layers, 8 groups of width 64"),
    "wrn-28-10": NetworkEntry(partial(WideResNet, 28, 10), "Wide ResNet of 28 layers, ten times as wide"),
    "densenet-bc-100-12": NetworkEntry(partial(DenseNetBC, 100, 12), "CIFAR DenseNet-BC, L = 100, k = 12"),
    "densenet-bc-190-40": NetworkEntry(partial(DenseNetBC, 190, 40), "CIFAR DenseNet-BC, L = 190, k = 40"),
    "densenet121-cifar": NetworkEntry(DenseNet121, "DenseNet-121 for small images, SRM's teacher on CIFAR-100"),
    "allcnn-0.66": NetworkEntry(partial(AllCNN, 0.66), "all-convolutional network, SRM's student on CIFAR-100"),
}


def _find_fault(name: str, item: Any) -> str | None:
    return None if isinstance(item, NetworkEntry) else "is no coterie.networks.NetworkEntry; make one of the factory"


# What is named without its library: written here, or added by other packages.
NETWORKS: Registry[NetworkEntry] = Registry("network", "coterie.networks", _OWN, _find_fault)


@dataclass(frozen=True)
class Backbone:
    """A backbone by name, or one of the user's own.

    Attributes:
        source: For example ``resnet32``, ``timm/resnet18``, ``torchvision/resnet18``; or a module; or a factory, called
            with ``num_classes`` and ``in_channels``.
        pretrained: Start from the library's published weights.
        weights: Start from a safetensors file, or a state dict in one of PyTorch (``.pth``); a classifier of another
            class count is left fresh, and said.
        drop_path: Share of the images that skip the last residual block while the network is trained; None for the
            recipe's. Networks of timm that take ``drop_path_rate`` have it, others go without.
        freeze: Parameters that are not trained, by patterns of their names with commas between: ``conv1.*,layer1.*``.
            Batch norm's statistics still follow the images.
        checkpoint_activations: Whether blocks keep their inputs alone and are computed again in the backward: less
            memory, about a third more work, the same weights. In networks that offer it: timm's, and those here.
    """

    source: str | nn.Module | Callable[..., nn.Module]
    pretrained: bool = False
    weights: str | None = None
    drop_path: Annotated[float, Bounds(least=0, below=1)] | None = None
    freeze: str | None = None
    checkpoint_activations: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "network", skip=("source",))

    @classmethod
    def of(cls, network: BackboneLike) -> "Backbone":
        """Whatever names a network, as a Backbone."""
        return network if isinstance(network, Backbone) else cls(network)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Backbone":
        """The backbone that a file names, see :class:`~coterie.records.NetworkRecord`."""
        more: dict[str, Any] = {name: record.get(name) for name in ("weights", "drop_path", "freeze")}
        switches = {name: record.get(name, False) for name in ("pretrained", "checkpoint_activations")}
        return cls(record["name"], **more, **switches)

    def to_record(self) -> dict[str, Any] | None:
        """How a file names it; None for a module or factory of the user's own, which cannot be written down."""
        if not isinstance(self.source, str):
            return None
        record = {"name": self.source, "pretrained": self.pretrained, "weights": self.weights}
        said = {
            "drop_path": self.drop_path,
            "freeze": self.freeze,
            "checkpoint_activations": self.checkpoint_activations or None,
        }
        return record | {name: value for name, value in said.items() if value is not None}

    @property
    def starts_trained(self) -> bool:
        """Whether it starts from weights that were trained before, published ones or a file's."""
        return self.pretrained or self.weights is not None

    def build(self, num_classes: int, in_channels: int, image_size: tuple[int, int] | None = None) -> nn.Module:
        """The network, with its weights where it has some. A module of the user's own is given as it is.

        One of the user's own, or of a factory, that returns more than its logits comes wrapped
        (:class:`~coterie.networks.logits.Logits`).

        Args:
            num_classes: C.
            in_channels: Channels of the images.
            image_size: (height, width) in pixels, each at least 8; for networks of a fixed input size.

        Raises:
            UserError: The name is unknown, the images are too small, or the weights cannot be had or do not fit; or a
                network of the user's own does not take such images or tell so many classes apart.
        """
        self._check_weights()
        if isinstance(self.source, nn.Module):
            own = self.source if image_size is None else fit(self.source, num_classes, in_channels, image_size)
            return self._checkpointed(freeze(own, self.freeze))
        network = self._make(num_classes, in_channels, image_size, self.pretrained)
        if self.weights is not None:
            load_matching(network, user_path(self.weights))
        return self._checkpointed(freeze(network, self.freeze))

    def build_fresh(self, num_classes: int, in_channels: int, image_size: tuple[int, int] | None = None) -> nn.Module:
        """The same architecture, newly initialised; the arguments are those of :meth:`build`.

        Raises:
            UserError: The network is a module of the user's own, which only the user can build; or as for
                :meth:`build`.
        """
        if isinstance(self.source, nn.Module):
            raise UserError("a module of your own cannot be built anew; give a factory")
        return self._checkpointed(self._make(num_classes, in_channels, image_size, pretrained=False))

    def preprocessing(self) -> Preprocessing | None:
        """Mean, std and size of a pretrained network, looked up without a download; None without weights.

        Raises:
            UserError: The name is unknown.
        """
        if not isinstance(self.source, str) or self.source in NETWORKS or not (self.pretrained or self.weights):
            return None
        return libraries.preprocessing_of(*_library_and_name(self.source))

    def _check_weights(self) -> None:
        if self.pretrained and self.weights is not None:
            raise UserError("⟨network.pretrained⟩ and ⟨network.weights⟩ exclude each other; give one")
        if self.pretrained and not isinstance(self.source, str):
            raise UserError("a network of your own has no published weights; leave pretrained out")
        if self.weights is not None and isinstance(self.source, nn.Module):
            raise UserError("a module of your own takes no weights file; load it into the module, or give a factory")

    def _checkpointed(self, network: nn.Module) -> nn.Module:
        return checkpoint_activations(network) if self.checkpoint_activations else network

    def _make(
        self, num_classes: int, in_channels: int, image_size: tuple[int, int] | None, pretrained: bool
    ) -> nn.Module:
        if image_size is not None and min(image_size) < SMALLEST_IMAGE:
            raise UserError(
                f"images of {image_size[0]}x{image_size[1]} pixels are too small; "
                f"set ⟨data.image_size {SMALLEST_IMAGE}⟩ or more"
            )
        if isinstance(self.source, str) and self.source not in NETWORKS:
            library, name = _library_and_name(self.source)
            return libraries.make(
                library, name, num_classes, in_channels, image_size, pretrained, self.drop_path or 0.0
            )
        if pretrained:
            raise UserError(f"network '{self.source}' has no published weights; use ⟨network.weights FILE.safetensors⟩")
        if self.source in NETWORKS.own:
            return NETWORKS.own[self.source].make(num_classes=num_classes, in_channels=in_channels)
        # Another's: whether it keeps to the contract is tried.
        factory = NETWORKS[self.source].make if isinstance(self.source, str) else self.source
        network = _from_factory(factory, num_classes, in_channels)
        return network if image_size is None else fit(network, num_classes, in_channels, image_size)


def build(
    name: str,
    num_classes: PositiveInt = 10,
    in_channels: PositiveInt = 3,
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
        weights: Start from a safetensors file, or a state dict in one of PyTorch (``.pth``).

    Raises:
        UserError: The name is unknown, or the weights cannot be had or do not fit.
    """
    check_arguments(build, {"name": name, "num_classes": num_classes, "in_channels": in_channels})
    return Backbone(name, pretrained, weights).build(num_classes, in_channels, image_size)


def names(everything: bool = False) -> list[str]:
    """The networks without a library before their name; with ``everything`` those of timm and torchvision too."""
    if not everything:
        return list(NETWORKS)
    return [*NETWORKS, *libraries.library_names()]


def _from_factory(factory: Callable[..., nn.Module], num_classes: int, in_channels: int) -> nn.Module:
    if not callable(factory):
        raise UserError(f"network {factory!r} is neither a name, a module nor a factory; give one of these")
    try:
        signature(factory).bind(num_classes=num_classes, in_channels=in_channels)
    except TypeError as error:  # asked beforehand, so that a TypeError inside the factory stays its own
        raise UserError(
            f"the network factory cannot be called ({error}); let it take num_classes= and in_channels="
        ) from error
    made = factory(num_classes=num_classes, in_channels=in_channels)
    if not isinstance(made, nn.Module):
        raise UserError(f"the network factory gave a {type(made).__name__}; let it return a torch.nn.Module")
    return made


def _library_and_name(path: str) -> tuple[str, str]:
    library, _, name = path.partition("/")
    if not libraries.is_known(library, name):
        raise _unknown(path)
    return library, name


def _unknown(name: str) -> UserError:
    known = names(everything=True)
    bare = name.rpartition("/")[2]
    # Compared without the library, whose name would otherwise count as part of the typo.
    bares = {each.rpartition("/")[2] for each in known}
    close = {bare} if bare in bares else set(get_close_matches(bare, bares, n=1, cutoff=0.75))
    nearest = [each for each in known if each.rpartition("/")[2] in close]
    nearest += get_close_matches(bare, NETWORKS, n=1, cutoff=0.5) if bare in bares else get_close_matches(name, known)
    if not nearest:
        return unknown_name("network", name, known)
    return UserError(f"unknown network '{name}'; did you mean {' or '.join(map(repr, dict.fromkeys(nearest)))}?")
