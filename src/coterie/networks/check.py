"""Whether a branched model computes exactly what the model computes, asked before anyone trains it."""

import torch
from torch import Tensor

from coterie.errors import UserError
from coterie.networks.graph import undisturbed
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coterie.networks.branch import NativeEnsemble


def alone(net: "NativeEnsemble", images: Tensor) -> Tensor:
    """Images (B, channels, H, W) to the logits (B, C) of branch 0: the target, run through the cut."""
    graph = net.cut_graph(images)
    values = graph.trunk(net.target, images)
    for segment in graph.tails:
        values = segment.run(net.target, values)
    return values[0]
