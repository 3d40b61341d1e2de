"""How deep a network's parameters lie between its images and its answer."""

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from coterie.networks.preserve import preserve_state
from coterie.outputs import PeerOutput

# Depths are rounded to so many steps, so that an optimiser has few groups.
_STEPS = 12


def find_depths(network: nn.Module, images: Tensor) -> dict[nn.Parameter, float]:
    """How deep each parameter lies: from 0 for what the images meet first to 1 for what gives the answer.

    Counted in layers with parameters along the longest way through the autograd graph, so that branches side by side
    are equally deep, and no layer needs a name. A parameter in several places counts where it is nearest to the images.

    Args:
        network: Maps images to logits (B, C) or a :class:`~coterie.outputs.PeerOutput`; left as it is.
        images: As the network takes them (B, channels, H, W).
    """
    with preserve_state(network), torch.enable_grad():
        output = network.eval()(images)
    above = _count_layers(_answer(output).grad_fn)
    own = set(network.parameters())
    layers = {parameter: count for parameter, count in above.items() if parameter in own}
    highest = max(layers.values(), default=1)
    if highest == 1:
        return dict.fromkeys(layers, 1.0)
    return {
        parameter: round(_STEPS * (highest - count) / (highest - 1)) / _STEPS for parameter, count in layers.items()
    }


def _answer(output: Any) -> Tensor:
    if not isinstance(output, PeerOutput):
        return output
    return output.logits.sum() if output.ensemble is None else output.logits.sum() + output.ensemble.sum()


def _count_layers(root: Any) -> dict[nn.Parameter, int]:
    """For each parameter the most layers on a way to it from the answer, its own among them."""
    waiting: Counter[Any] = Counter()
    nodes = [root]
    seen = {root}
    while nodes:
        for node in _inputs(nodes.pop()):
            waiting[node] += 1
            if node not in seen:
                seen.add(node)
                nodes.append(node)
    passed: dict[Any, int] = {root: 0}
    ready, layers = [root], {}
    while ready:
        node = ready.pop()
        if hasattr(node, "variable"):
            layers[node.variable] = max(passed[node], 1)
            continue
        count = passed[node] + _is_layer(node)
        for child in _inputs(node):
            passed[child] = max(passed.get(child, 0), count)
            waiting[child] -= 1
            if not waiting[child]:
                ready.append(child)
    return layers


def _is_layer(node: Any) -> bool:
    """Whether the operation reads a parameter, as it is or turned around (a linear layer's weight)."""
    inputs = _inputs(node)
    if len(inputs) == 1 and hasattr(inputs[0], "variable"):
        return False  # the turning itself
    return any(hasattr(source, "variable") or _turns_parameter(source) for source in inputs)


def _turns_parameter(node: Any) -> bool:
    inputs = _inputs(node)
    return len(inputs) == 1 and hasattr(inputs[0], "variable")


def _inputs(node: Any) -> list[Any]:
    return [function for function, _ in node.next_functions if function is not None]
