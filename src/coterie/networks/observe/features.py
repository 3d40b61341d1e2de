"""Features: what named modules of a plain network compute, collected while it runs.

A place is named by a module's path, and stands for what the module gives; ``PATH:in`` stands for what it is given.
Where a module runs several times in a forward, its last call counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from coterie.errors import UserError, unknown_name
from coterie.networks.observe.calls import Call, collect_calls, last_layer, record

_INPUT = ":in"

Size = tuple[int, int]


class FeaturePlace(NamedTuple):
    """A place of a network where features are read.

    Attributes:
        path: A module's path, or ``PATH:in`` for what it is given.
        channels: C.
        size: (H, W); (1, 1) where the features are vectors (B, C).
    """

    path: str
    channels: int
    size: Size


class Features:
    """A network's forward that also gives the features at some places.

    Hooks sit on the network only while it runs: it stays a plain network, and two of these do not know of each other.
    This is no module and owns nothing: whoever holds it holds the network too, where its weights are to be saved or
    moved. The network runs uncompiled, since a compiled call passes hooks by.

    Args:
        network: Any module.
        paths: The places.
        option: Who named them, for complaints.

    Raises:
        UserError: The network has no such module; names the nearest.
    """

    def __init__(self, network: nn.Module, paths: Sequence[str], option: str | None = None) -> None:
        modules = {path for path, _ in network.named_modules() if path}
        for path in paths:
            if path.removesuffix(_INPUT) not in modules:
                raise unknown_name(f"module in {option}" if option else "module", path, modules)
        self.network, self.paths = network, tuple(paths)

    def __call__(self, images: Tensor) -> tuple[Any, dict[str, Tensor]]:
        """Images as the network wants them to (its output, features by path), as they are: attached, in its mode.

        Raises:
            UserError: A module of these does not run, gives no tensor, or what it gives is overwritten in place.
        """
        with collect_calls(self.network, [path.removesuffix(_INPUT) for path in self.paths]) as calls:
            output = self.network.forward(images)
        return output, _read_features(calls, self.paths)


def describe_features(
    network: nn.Module, paths: Sequence[str], example: Tensor, option: str | None = None
) -> list[FeaturePlace]:
    """Channels and size of features, found by running the network once in evaluation mode; it is left as it was.

    Args:
        network: Any module.
        paths: The places.
        example: Images (B, channels, H, W) as the network wants them.
        option: Who named the places, for complaints.

    Raises:
        UserError: As for :class:`Features`; or the features are neither maps (B, C, H, W) nor vectors (B, C).
    """
    Features(network, paths, option)  # refuses modules that the network has not
    features = _read_features(record(network, example), paths)
    for path, value in features.items():
        if value.dim() not in (2, 4):
            raise UserError(
                f"'{path}' has features of shape {tuple(value.shape)}; name a module that gives maps (B, C, H, W) or "
                "vectors (B, C)"
            )
    return [FeaturePlace(path, value.shape[1], _size(value)) for path, value in features.items()]


def find_stage_ends(network: nn.Module, example: Tensor) -> list[FeaturePlace]:
    """The ends of a CNN's stages in the order of the forward, and last what the classifier reads.

    A stage is all that is computed at one size of the feature map. It is the last, or has a convolution that keeps
    this size: what a stem passes through on its way down is none. Its end is the outermost module that runs last in
    it, before the module that goes on to the next size has begun; never one that is overwritten in place, or runs
    several times.

    Args:
        network: A classifier.
        example: Images (B, channels, H, W) as the network wants them.

    Returns:
        One place for each size larger than 1x1, and what the classifier reads where it is of yet another size.
    """
    calls = record(network, example)
    steps = _find_steps(calls, example)
    computed = {step.output for step in steps if step.keeps_size}
    sizes = [size for size in _descending_sizes(steps) if size != (1, 1)]
    ends = []
    for size, following in zip(sizes, [*sizes[1:], (1, 1)], strict=True):
        end = _find_end(steps, size, following)
        if end is not None and (size in computed or size == sizes[-1] or not computed):
            ends.append(FeaturePlace(end.path, end.output.shape[1], size))
    head = last_layer(calls)
    if head is not None:
        size = _map_size(head.input, example) or (1, 1)
        if size not in [place.size for place in ends]:
            ends.append(FeaturePlace(head.path + _INPUT, _channels(head.input), size))
    return ends


def find_classifier(network: nn.Module, example: Tensor) -> str:
    """The path of the linear layer or convolution that makes the logits.

    Args:
        network: A classifier.
        example: Images (B, channels, H, W) as the network wants them.

    Raises:
        UserError: It has none.
    """
    head = last_layer(record(network, example))
    if head is None:
        raise UserError(f"{type(network).__name__} ends in no linear layer or convolution; it has no classifier")
    return head.path


def match_features(
    first: Sequence[FeaturePlace], second: Sequence[FeaturePlace]
) -> list[tuple[FeaturePlace, FeaturePlace]]:
    """Pairs of two networks' places (as of :func:`find_stage_ends`) of the same size, in the order of the forward.

    Where no maps have the same size (one network was given larger images), the ends of stages are paired from the last
    to the first, and what the classifiers read with each other.
    """
    by_size = {place.size: place for place in second}
    pairs = [(place, by_size[place.size]) for place in first if place.size in by_size]
    if any(place.size != (1, 1) for place, _ in pairs):
        return pairs
    maps = [[place for place in places if place.size != (1, 1)] for places in (first, second)]
    count = min(map(len, maps))
    return [*zip(maps[0][len(maps[0]) - count :], maps[1][len(maps[1]) - count :], strict=True), *pairs]


def _read_features(calls: Sequence[Call], paths: Sequence[str]) -> dict[str, Tensor]:
    last_calls = {call.path: call for call in calls}
    features = {}
    for path in paths:
        call, of_input = last_calls.get(path.removesuffix(_INPUT)), path.endswith(_INPUT)
        value = None if call is None else call.input if of_input else call.output
        if call is None or not isinstance(value, Tensor):
            raise UserError(f"no features at '{path}': it does not run, or has no tensor; name another module")
        if call.input_overwritten if of_input else call.output_overwritten:
            raise UserError(f"'{path}' is overwritten in place by what follows it; name the module after it")
        features[path] = value
    return features


@dataclass
class _Step:
    """A call of a module, with the size of the maps that it takes and gives (None: no map of the images).

    Attributes:
        call: The call.
        input: (H, W).
        output: (H, W).
        usable: Whether its output is a map that can be read: whole, and of the module's only call.
    """

    call: Call
    input: Size | None
    output: Size | None
    usable: bool

    @property
    def keeps_size(self) -> bool:
        return isinstance(self.call.module, nn.Conv2d) and self.input == self.output


def _find_steps(calls: Sequence[Call], images: Tensor) -> list[_Step]:
    paths = [call.path for call in calls]
    steps = []
    for call in calls:
        output = _map_size(call.output, images)
        usable = output is not None and not call.output_overwritten and paths.count(call.path) == 1
        steps.append(_Step(call, _map_size(call.input, images), output, usable))
    return [step for step in steps if step.call.path]  # the network itself is no stage


def _find_end(steps: Sequence[_Step], size: Size, following: Size) -> Call | None:
    """The stage's last usable call that is not inside of a module on the way to the following size."""
    stage = [step for step in steps if step.usable and step.output == size]
    if not stage:
        return None
    last = stage[-1].call
    around = [step for call in last.outer for step in steps if step.call is call]
    for opener in around:
        before = [step.call for step in stage if step.call.ended < opener.call.began]
        if before and opener.input == size and opener.output == following:
            return before[-1]
    return last


def _descending_sizes(steps: Sequence[_Step]) -> list[Size]:
    """The sizes that the forward passes through on its way down; a squeeze inside of a stage is none."""
    sizes: list[Size] = []
    for step in reversed(steps):
        size = step.output
        if size is not None and (not sizes or size[0] * size[1] > sizes[-1][0] * sizes[-1][1]):
            sizes.append(size)
    return sizes[::-1]


def _map_size(value: Any, images: Tensor) -> Size | None:
    """(H, W) of a map in the images' proportions; None for all else."""
    if not isinstance(value, Tensor) or value.dim() != 4:
        return None
    height, width = value.shape[2:]
    apart = abs(height * images.shape[3] - width * images.shape[2])
    return (height, width) if apart < max(images.shape[2:]) else None


def _channels(value: Any) -> int:
    return value.shape[1] if isinstance(value, Tensor) and value.dim() > 1 else 0


def _size(features: Tensor) -> Size:
    return (features.shape[2], features.shape[3]) if features.dim() == 4 else (1, 1)
