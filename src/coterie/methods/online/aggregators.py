"""What combines the peers into an ensemble, by name. To add one, write its entry into :data:`AGGREGATORS`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from coterie.networks.shapes import layout
from coterie.outputs import PeerOutput
from coterie.peers.combine import FusedFeatures, FusedMaps, GateForm, MeanLogits


@dataclass(frozen=True)
class Aggregator:
    """What combines the peers into an ensemble.

    Attributes:
        make: Makes it from an output of the peers, for the sizes of what they give: a module from a
            :class:`~coterie.outputs.PeerOutput` to the ensemble's logits (B, C). None where the peers' own gate is it.
        reads: What it needs of the peers beside logits (B, m, C): ``features``, what their classifiers read, or
            ``maps``, their last feature maps.
        gate: What the gate of a branched network computes; it weighs all branches alike where another module combines.
    """

    make: Callable[[PeerOutput], nn.Module] | None
    reads: Literal["logits", "features", "maps"] = "logits"
    gate: GateForm = "uniform"


def _fuse_maps(example: PeerOutput) -> nn.Module:
    channels_last = example.maps is not None and layout(example.maps[0])[1]
    return FusedMaps(example, channels_last=channels_last)


AGGREGATORS: dict[str, Aggregator] = {
    "gate": Aggregator(None, gate="relu-softmax"),
    "gate-softmax": Aggregator(None, gate="softmax"),
    "mean": Aggregator(lambda example: MeanLogits()),
    "fused-features": Aggregator(FusedFeatures, reads="features"),
    "fused-maps": Aggregator(_fuse_maps, reads="maps"),
}
