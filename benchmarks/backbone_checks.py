"""Which backbones can be branched, and whether each branches exactly; ``backbones.py`` asks it.

The smallest architecture of every family of timm's and every classifier of torchvision's is branched with drop rates
above 0, and compared with what it was before: logits, gradients, buffers and the random generator's state, in both
modes. It takes a step of ONE's loss, and its weights go back into a plain model.
"""

import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from coterie.errors import UserError
from coterie.losses import one
from coterie.networks.preserve import preserve_state
from coterie.networks.reinit import build_on_meta
from coterie.networks.split.verify import run_split
from coterie.peers.branching import branch, split_points
from coterie.peers.native_ensemble import NativeEnsemble

CLASSES = 10
_SIZES = (64, 128)  # tried before the sizes that a network is published for
_DROPS: tuple[dict[str, Any], ...] = (
    {"drop_rate": 0.1, "drop_path_rate": 0.1},
    {"drop_rate": 0.1},
    {"drop_path_rate": 0.1},
    {"dropout": 0.1},
    {},
)


@dataclass(frozen=True)
class CheckedBackbone:
    """What became of one network.

    Attributes:
        family: Timm's module, or ``torchvision``.
        name: As ``timm/…`` or ``torchvision/…``.
        parameters: Count.
        image_size: Side of the square images, in pixels.
        drop: The drop rates that it was built with, by option.
        at: The module with which the tail begins; empty where it could not be branched.
        tail_flops: The tail's share of the forward's FLOPs.
        tail_parameters: The tail's share of the parameters.
        crossing: How many values cross the cut.
        exact: Equal to an untouched copy in both modes: logits, random state, batch norm's statistics.
        gradients: Every parameter's gradient equals the untouched copy's.
        steps: One step of ONE's loss leaves the loss and every parameter finite.
        state: The target's state dict has a plain model's keys, loads strictly into one, and names no tensor twice.
        seconds: For all of this.
        reason: What failed; empty where nothing did.
    """

    family: str
    name: str
    parameters: int = 0
    image_size: int = 0
    drop: tuple[str, ...] = ()
    at: str = ""
    tail_flops: float = 0.0
    tail_parameters: float = 0.0
    crossing: int = 0
    exact: bool = False
    gradients: bool = False
    steps: bool = False
    state: bool = False
    seconds: float = 0.0
    reason: str = ""

    @property
    def passed(self) -> bool:
        """Whether everything held."""
        return self.exact and self.gradients and self.steps and self.state


def list_families() -> list[str]:
    """Timm's modules with registered classifiers."""
    import timm

    return [module for module in timm.list_modules() if timm.list_models(module=module)]


def find_smallest(module: str) -> str:
    """The architecture of one of timm's modules with the fewest parameters."""
    import timm

    names = timm.list_models(module=module)
    # Made for timm's own tests; and encoders, which give no logits.
    names = [name for name in names if not (name.startswith("test_") or name.endswith("_enc"))] or names
    sizes = {}
    for name in names:
        network = build_on_meta(partial(timm.create_model, name, num_classes=CLASSES))
        sizes[name] = sum(p.numel() for p in network.parameters())
    return min(sizes, key=lambda name: sizes[name])


def list_torchvision() -> list[str]:
    """Every classifier of torchvision's, as ``torchvision/…``."""
    import torchvision

    return [f"torchvision/{name}" for name in torchvision.models.list_models(module=torchvision.models)]


def check_backbones(names: Iterable[tuple[str, str]]) -> Iterator[CheckedBackbone]:
    """Branch networks and compare each with an untouched copy.

    Args:
        names: (family, name), the name as ``timm/…`` or ``torchvision/…``.
    """
    for family, name in names:
        yield _check_backbone(family, name)


def _check_backbone(family: str, name: str) -> CheckedBackbone:
    began = time.perf_counter()
    figures: dict[str, Any] = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _check(name, figures)
    except UserError as error:
        figures["reason"] = str(error)
    except Exception as error:  # a check of what fails goes on when something does
        figures["reason"] = f"{type(error).__name__}: {(str(error) or '?').splitlines()[0][:200]}"
    return CheckedBackbone(family, name, seconds=round(time.perf_counter() - began, 1), **figures)


def _check(name: str, figures: dict[str, Any]) -> None:
    make, figures["drop"] = _maker(name)
    figures["image_size"] = side = _side(name, make)
    torch.manual_seed(0)
    model = make()
    figures["parameters"] = sum(p.numel() for p in model.parameters())
    images = torch.randn(2, 3, side, side)
    chosen = next((point for point in split_points(model, images) if point.default), None)
    if chosen is not None:
        figures |= {"tail_flops": round(chosen.flops, 4), "tail_parameters": round(chosen.parameters, 4)}
    untouched = [_pass(model, model, images, mode) for mode in (False, True)]
    net = branch(model, 2, example=images)
    figures["at"] = net.at[0]
    with torch.no_grad():
        figures["crossing"] = len(net.splits.of(model.eval(), images).trunk(model, images))
    cut = partial(run_split, model, net.splits)
    branched = [_pass(model, cut, images, mode) for mode in (False, True)]
    pairs = [(what, one[what], other[what]) for one, other in zip(untouched, branched, strict=True) for what in one]
    differ = {what for what, one, other in pairs if not all(map(torch.equal, one, other))}
    del untouched, branched, pairs
    figures["exact"], figures["gradients"] = not differ - {"gradients"}, "gradients" not in differ
    figures["state"] = _state_is_plain(net, make)
    figures["steps"] = _steps(net, images)
    if differ:
        figures["reason"] = f"differ: {', '.join(sorted(differ))}"


def _pass(model: nn.Module, forward: Callable[[Tensor], Tensor], images: Tensor, mode: bool) -> dict[str, list[Tensor]]:
    """What a forward, and in training mode its backward, gives and leaves; the model is put back."""
    with preserve_state(model), torch.set_grad_enabled(mode):
        model.train(mode)
        torch.manual_seed(1)
        logits = forward(images)
        figures = {"logits": [logits.detach()], "random state": [torch.get_rng_state()]}
        figures["buffers"] = [buffer.clone() for buffer in model.buffers()]
        if mode:
            torch.autograd.backward(logits.square().sum())
            figures["gradients"] = [torch.empty(0) if p.grad is None else p.grad for p in model.parameters()]
            model.zero_grad()
    return figures


def _maker(name: str) -> tuple[Callable[[], nn.Module], tuple[str, ...]]:
    """What builds a network with as many drop rates as it takes, and the names of these."""
    library, _, bare = name.partition("/")
    for drop in _DROPS:
        make = _timm_maker(bare, drop) if library == "timm" else _torchvision_maker(bare, drop)
        try:
            build_on_meta(make)
        except TypeError:
            continue
        return make, tuple(drop)
    return make, ()


def _timm_maker(name: str, options: dict[str, Any]) -> Callable[[], nn.Module]:
    import timm

    return lambda: timm.create_model(name, num_classes=CLASSES, **options)


def _torchvision_maker(name: str, options: dict[str, Any]) -> Callable[[], nn.Module]:
    import torchvision

    if name in ("googlenet", "inception_v3"):
        options = options | {"aux_logits": False, "init_weights": False}
    return lambda: torchvision.models.get_model(name, num_classes=CLASSES, **options)


def _side(name: str, make: Callable[[], nn.Module]) -> int:
    """The smallest of a few image sizes that a network takes, tried on shapes alone."""
    published = list_published_sides(name)
    model = build_on_meta(make).train()
    with torch.device("meta"):
        for side in (*_SIZES, *published[:-1]):
            try:
                with torch.no_grad():
                    model(torch.zeros(2, 3, side, side))
            except Exception:
                continue
            return side
    return published[-1]


def list_published_sides(name: str) -> list[int]:
    """The smallest and the usual size of images that timm gives for a network; 224 pixels for torchvision's."""
    library, _, bare = name.partition("/")
    if library != "timm":
        return [224]
    import timm

    config = timm.get_pretrained_cfg(bare)
    sizes = [config.min_input_size, config.input_size] if config is not None else []
    return [size[-1] for size in sizes if size] or [224]


def _state_is_plain(net: NativeEnsemble, make: Callable[[], nn.Module]) -> bool:
    plain = build_on_meta(make)
    if list(plain.state_dict()) != list(net.target.state_dict()):
        return False
    plain.load_state_dict(net.target.state_dict(), assign=True)
    owners: dict[int, str] = {}
    for key, tensor in net.state_dict().items():
        # Weights that a model shares inside itself are named twice by it too.
        owner = key.split(".")[0] if not key.startswith("branches") else ".".join(key.split(".")[:2])
        if tensor.numel() and owners.setdefault(tensor.data_ptr(), owner) != owner:
            return False
    return type(plain) is type(net.target)


def _steps(net: NativeEnsemble, images: Tensor) -> bool:
    labels = torch.tensor([0, 1])
    optimiser = torch.optim.SGD(net.parameters(), lr=0.001)
    net.train()
    torch.autograd.backward(one(net(images), labels).total)
    optimiser.step()
    finite = all(bool(p.isfinite().all()) for p in net.parameters())
    with torch.no_grad():
        return finite and bool(one(net(images), labels).total.isfinite())
