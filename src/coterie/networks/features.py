"""Feature sites: what named modules of a plain network compute, collected while it runs.

A site is a module's path, and stands for what the module gives; ``PATH:in`` stands for what it is given. Where a
module runs several times in a forward, its last call counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from coterie.errors import UserError, unknown_name
from coterie.networks.preserve import preserve_state

_INPUT = ":in"


class Site(NamedTuple):
    """A place of a network where features are read.

    Attributes:
        path: A module's path, or ``PATH:in`` for what it is given.
        channels: C.
        size: (H, W); (1, 1) where the features are vectors (B, C).
    """

    path: str
    channels: int
    size: tuple[int, int]


class Sites:
    """A network's forward that also gives the features at some sites.

    Hooks sit on the network only while it runs: it stays a plain network, and two of these do not know of each other.
    This is no module and owns nothing: whoever holds it holds the network too, where its weights are to be saved or
    moved. The network runs uncompiled, since a compiled call passes hooks by.

    Args:
        network: Any module.
        paths: The sites.
        option: Who named them, for complaints.

    Raises:
        UserError: The network has no such module; names the nearest.
    """

    def __init__(self, network: nn.Module, paths: Sequence[str], option: str | None = None) -> None:
        known = {path for path, _ in network.named_modules() if path}
        for path in paths:
            if path.removesuffix(_INPUT) not in known:
                raise unknown_name(f"site in {option}" if option else "site", path, known)
        self.network, self.paths = network, tuple(paths)

    def __call__(self, images: Tensor) -> tuple[Any, dict[str, Tensor]]:
        """Images as the network wants them to (its output, features by site), as they are: attached, in its mode.

        Raises:
            UserError: A module of these does not run, gives no tensor, or what it gives is overwritten in place.
        """
        found: dict[str, Tensor] = {}
        versions: dict[str, int] = {}
        handles = [self._listen(path, found, versions) for path in self.paths]
        try:
            output = self.network.forward(images)
        finally:
            for handle in handles:
                handle.remove()
        for path in self.paths:
            if path not in found:
                raise UserError(f"no features at site '{path}': it does not run, or has no tensor; name another module")
            if versions[path] != _version(found[path]):
                raise UserError(f"site '{path}' is overwritten in place by what follows it; name the module after it")
        return output, {path: found[path] for path in self.paths}

    def _listen(self, path: str, found: dict[str, Tensor], versions: dict[str, int]) -> RemovableHandle:
        module = self.network.get_submodule(path.removesuffix(_INPUT))

        def note(value: Any) -> None:
            if isinstance(value, Tensor):
                found[path], versions[path] = value, _version(value)

        if path.endswith(_INPUT):
            return module.register_forward_pre_hook(lambda _, args: note(args[0] if args else None))
        return module.register_forward_hook(lambda _, args, value: note(value))


def described(network: nn.Module, paths: Sequence[str], example: Tensor, option: str | None = None) -> list[Site]:
    """Channels and size of sites, found by running the network once in evaluation mode; it is left as it was.

    Args:
        network: Any module.
        paths: The sites.
        example: Images (B, channels, H, W) as the network wants them.
        option: Who named the sites, for complaints.

    Raises:
        UserError: As for :class:`Sites`; or the features are neither maps (B, C, H, W) nor vectors (B, C).
    """
    sites = Sites(network, paths, option)
    with preserve_state(network):
        network.eval()
        _, features = sites(_fitting(example, network))
    for path, value in features.items():
        if value.dim() not in (2, 4):
            raise UserError(
                f"site '{path}' has features of shape {tuple(value.shape)}; name one of maps (B, C, H, W) or vectors"
            )
    return [Site(path, value.shape[1], _size(value)) for path, value in features.items()]


def stage_ends(network: nn.Module, example: Tensor) -> list[Site]:
    """The ends of a CNN's stages in the order of the forward, and last what the classifier reads.

    A stage is all that is computed at one size of the feature map. It is the last, or has a convolution that keeps
    this size: what a stem passes through on its way down is none. Its end is the outermost module that runs last in
    it, before the module that goes on to the next size has begun; never one that is overwritten in place, or runs
    several times.

    Args:
        network: A classifier.
        example: Images (B, channels, H, W) as the network wants them.

    Returns:
        One site for each size larger than 1x1, and what the classifier reads where it is of yet another size.
    """
    calls = _watched(network, example)
    places = [call.output for call in calls]
    computed = {call.output for call in calls if call.convolves and call.input == call.output}
    sizes = [size for size in _descending(places) if size != (1, 1)]
    found = []
    for size, following in zip(sizes, [*sizes[1:], (1, 1)], strict=True):
        end = _end(calls, size, following)
        if end is not None and (size in computed or size == sizes[-1] or not computed):
            found.append(Site(end.path, end.channels, size))
    head = _classifier(calls)
    if head is not None and (head.input or (1, 1)) not in [site.size for site in found]:
        found.append(Site(head.path + _INPUT, head.inputs, head.input or (1, 1)))
    return found


def classifier(network: nn.Module, example: Tensor) -> str:
    """The path of the linear layer or convolution that makes the logits.

    Args:
        network: A classifier.
        example: Images (B, channels, H, W) as the network wants them.

    Raises:
        UserError: It has none.
    """
    head = _classifier(_watched(network, example))
    if head is None:
        raise UserError(f"{type(network).__name__} ends in no linear layer or convolution; it has no classifier")
    return head.path


def matched(first: Sequence[Site], second: Sequence[Site]) -> list[tuple[Site, Site]]:
    """Pairs of two networks' sites (as of :func:`stage_ends`) of the same size, in the order of the forward.

    Where no maps have the same size (one network was given larger images), the ends of stages are paired from the last
    to the first, and what the classifiers read with each other.
    """
    theirs = {site.size: site for site in second}
    pairs = [(site, theirs[site.size]) for site in first if site.size in theirs]
    if any(site.size != (1, 1) for site, _ in pairs):
        return pairs
    maps = [[site for site in sites if site.size != (1, 1)] for sites in (first, second)]
    count = min(map(len, maps))
    return [*zip(maps[0][len(maps[0]) - count :], maps[1][len(maps[1]) - count :], strict=True), *pairs]


@dataclass
class _Call:
    """One call of a module: when it began and ended, and what size its maps had (None: no map of the images)."""

    path: str
    module: nn.Module
    began: int
    input: tuple[int, int] | None
    inputs: int
    ended: int = 0
    value: Any = None
    version: int = 0
    output: tuple[int, int] | None = None
    usable: bool = False

    @property
    def channels(self) -> int:
        return int(self.value.shape[1])

    @property
    def convolves(self) -> bool:
        return isinstance(self.module, nn.Conv2d)


def _watched(network: nn.Module, example: Tensor) -> list[_Call]:
    """Every module's calls in one forward, in the order in which they end."""
    images = _fitting(example, network)
    running: list[_Call] = []
    calls: list[_Call] = []
    clock = iter(range(10**9))
    paths = {module: path for path, module in network.named_modules() if path}

    def begin(module: nn.Module, args: tuple[Any, ...]) -> None:
        given = args[0] if args and isinstance(args[0], Tensor) else None
        inputs = given.shape[1] if given is not None and given.dim() > 1 else 0
        running.append(_Call(paths[module], module, next(clock), _map_size(given, images), inputs))

    def end(module: nn.Module, args: tuple[Any, ...], value: Any) -> None:
        call = running.pop()
        call.ended, call.value, call.output = next(clock), value, _map_size(value, images)
        call.version = _version(value) if isinstance(value, Tensor) else 0
        calls.append(call)

    handles = [module.register_forward_pre_hook(begin) for module in paths]
    handles += [module.register_forward_hook(end) for module in paths]
    try:
        with preserve_state(network):
            network.eval()
            network.forward(images)
    finally:
        for handle in handles:
            handle.remove()
    often = [call.path for call in calls]
    for call in calls:
        whole = call.output is not None and call.version == _version(call.value)
        call.usable = whole and often.count(call.path) == 1
    return calls


def _end(calls: list[_Call], size: tuple[int, int], following: tuple[int, int]) -> _Call | None:
    """The stage's last usable call that is not inside of a module on the way to the following size."""
    ours = [call for call in calls if call.usable and call.output == size]
    if not ours:
        return None
    last = ours[-1]
    around = [call for call in calls if call.began < last.began and call.ended > last.ended]
    for opener in sorted(around, key=lambda call: call.began):
        before = [call for call in ours if call.ended < opener.began]
        if before and opener.input == size and opener.output == following:
            return before[-1]
    return last


def _descending(places: Sequence[tuple[int, int] | None]) -> list[tuple[int, int]]:
    """The sizes that the forward passes through on its way down; a squeeze inside of a stage is none."""
    sizes: list[tuple[int, int]] = []
    for place in reversed(places):
        if place is not None and (not sizes or place[0] * place[1] > sizes[-1][0] * sizes[-1][1]):
            sizes.append(place)
    return sizes[::-1]


def _classifier(calls: list[_Call]) -> _Call | None:
    return next((call for call in reversed(calls) if isinstance(call.module, (nn.Linear, nn.Conv2d))), None)


def _map_size(value: Any, images: Tensor) -> tuple[int, int] | None:
    """(H, W) of a map in the images' proportions; None for all else."""
    if not isinstance(value, Tensor) or value.dim() != 4:
        return None
    height, width = value.shape[2:]
    apart = abs(height * images.shape[3] - width * images.shape[2])
    return (height, width) if apart < max(images.shape[2:]) else None


def _size(features: Tensor) -> tuple[int, int]:
    return (features.shape[2], features.shape[3]) if features.dim() == 4 else (1, 1)


def _fitting(example: Tensor, network: nn.Module) -> Tensor:
    """The example where the network's weights are."""
    reference = next(network.parameters(), example)
    return example.to(reference.device, reference.dtype)


def _version(tensor: Tensor) -> int:
    """How often a tensor was written in place; not counted in inference mode."""
    return 0 if tensor.is_inference() else tensor._version
