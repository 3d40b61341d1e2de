"""Networks of equal standing, deployed as one."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from coterie.outputs import PeerOutput, answer
from coterie.peers.combine import Average, average_logits


class Ensemble(nn.Module):
    """Separate networks whose mean is the answer.

    Maps images (B, channels, H, W) to a :class:`~coterie.outputs.PeerOutput` with logits (B, m, C) and the ensemble's
    logits (B, C). Its weights are named ``members.0.…`` to ``members.(m-1).…``, each a plain network's behind that.

    Args:
        members: Each maps images to logits (B, C).
        average: Whether the mean is of ``probabilities`` or of ``logits``.
    """

    def __init__(self, members: Sequence[nn.Module], average: Average = "probabilities") -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.average = average

    def forward(self, images: Tensor) -> PeerOutput:
        """Images (B, channels, H, W) to what every member and their mean say."""
        logits = torch.stack([answer(member(images)) for member in self.members], 1)
        return PeerOutput(logits, ensemble=average_logits(logits, self.average))
