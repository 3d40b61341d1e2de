"""Whether a branched model computes exactly what the model computes, asked before anyone trains it."""

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from coterie.networks.native import NativeEnsemble


def alone(net: "NativeEnsemble", images: Tensor) -> Tensor:
    """Images (B, channels, H, W) to the logits (B, C) of branch 0: the target, run through the cut."""
    graph = net.cuts.of(net.target, images)
    values = graph.trunk(net.target, images)
    for segment in graph.tails:
        values = segment.run(net.target, values)
    return values[0]
