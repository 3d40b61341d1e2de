"""Networks that learn beside each other, and what combines them into one answer."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from coterie.networks.split.segments import SplitForwards
from coterie.outputs import PeerOutput, at_least_float32
from coterie.peers.native_ensemble import collect_taps


class Separate(nn.Module):
    """Networks side by side that share nothing; peer 0 is the target.

    Maps images (B, channels, H, W), or one view of them for each peer, to a :class:`~coterie.outputs.PeerOutput` with
    logits (B, m, C).

    Args:
        networks: The m peers, of any architectures.
        features: Whether the output holds what each classifier reads.
        maps: Whether it holds each peer's last feature map too.
    """

    def __init__(self, networks: Sequence[nn.Module], *, features: bool = False, maps: bool = False) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.splits: list[SplitForwards] | None = None
        if features or maps:
            self.splits = [SplitForwards((), maps) for network in networks]

    @property
    def target(self) -> nn.Module:
        """Peer 0."""
        return self.networks[0]

    def forward(self, *views: Tensor) -> PeerOutput:
        """One view of the images, or one for each peer, to what all say."""
        answers = [self.ask(peer, views) for peer in range(len(self.networks))]
        features, maps = collect_taps(answers)
        return PeerOutput(
            at_least_float32(torch.stack([answer[0] for answer in answers], 1)), features=features, maps=maps
        )

    def ask(self, peer: int, views: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What one peer says of its view: logits (B, C), and what is tapped."""
        network, view = self.networks[peer], views[peer % len(views)]
        if self.splits is None:
            return (network(view),)
        return self.splits[peer].of(network, view).trunk(network, view)


class Group(nn.Module):
    """Peers and what combines them: the network that an online method trains and measures.

    Args:
        peers: Maps views to a :class:`~coterie.outputs.PeerOutput`.
        combiner: Maps that output to the ensemble's logits (B, C).
    """

    def __init__(self, peers: nn.Module, combiner: nn.Module) -> None:
        super().__init__()
        self.peers = peers
        self.combiner = combiner

    def forward(self, *views: Tensor) -> PeerOutput:
        """One view of the images, or one for each peer, to what all say and their ensemble."""
        output: PeerOutput = self.peers(*views)
        return replace(output, ensemble=self.combiner(output), weights=None)


@contextmanager
def freeze_statistics(network: nn.Module) -> Iterator[None]:
    """Within the block, batch norms normalise as in training but gather no running statistics.

    For a second look at a batch whose statistics have been counted already.
    """
    norms = [module for module in network.modules() if getattr(module, "track_running_stats", False)]
    for norm in norms:
        norm.track_running_stats = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True  # type: ignore[assignment]
