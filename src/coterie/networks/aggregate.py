"""What combines peers' logits into an ensemble. Shapes: B images, m peers, C classes."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from coterie.outputs import at_least_float32

GateForm = Literal["relu-softmax", "softmax", "uniform"]
Average = Literal["probabilities", "logits"]


def pool(features: Tensor, channels_last: bool = False) -> Tensor:
    """The mean over places: (B, C, H, W), or (B, H, W, C) if ``channels_last``, or tokens (B, N, C), to (B, C)."""
    if features.dim() == 4:
        return features.mean((1, 2) if channels_last else (2, 3))
    return features.mean(1) if features.dim() == 3 else features


class Gate(nn.Module):
    """ONE's gate: weights for m branches from the trunk's features.

    g = softmax(ReLU(BatchNorm(Linear(pool(features))))), (B, m), each row summing to 1. Its parameters start at
    PyTorch's defaults, as in the official code. (Lan, Zhu, Gong 2018, section 3.)

    Args:
        channels: Channels of the trunk's features.
        num_branches: m.
        form: ``"relu-softmax"`` as published; ``"softmax"`` without the ReLU; ``"uniform"`` weighs all alike and has
            no parameters (the paper's ablation "without gating").
        channels_last: The features are (B, H, W, C) rather than (B, C, H, W).
    """

    def __init__(
        self, channels: int, num_branches: int, form: GateForm = "relu-softmax", channels_last: bool = False
    ) -> None:
        super().__init__()
        self.num_branches = num_branches
        self.form = form
        self.channels_last = channels_last
        if form != "uniform":
            self.linear = nn.Linear(channels, num_branches)
            self.norm = nn.BatchNorm1d(num_branches)

    def forward(self, features: Tensor) -> Tensor:
        """Features of B images to weights (B, m)."""
        if self.form == "uniform":
            return torch.full((len(features), self.num_branches), 1 / self.num_branches, device=features.device)
        with torch.autocast(features.device.type, enabled=False):
            pooled = pool(at_least_float32(features), self.channels_last).to(self.linear.weight.dtype)
            scores = at_least_float32(self.norm(self.linear(pooled)))
            if self.form == "relu-softmax":
                scores = scores.relu()
            return scores.softmax(1)


def gated(logits: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum of logits, never of probabilities: (B, m, C) and (B, m) to (B, C)."""
    return (weights.unsqueeze(2) * logits).sum(1)


def averaged(logits: Tensor, of: Average = "probabilities", temperature: float = 1.0) -> Tensor:
    """Equal peers as one: logits (B, C) whose softmax at this temperature is the peers' mean.

    The mean of ``probabilities`` is taken in log space: T log(1/m Σ_i softmax(z_i / T)). The mean of ``logits`` is
    1/m Σ_i z_i, at any temperature.

    Args:
        logits: (B, m, C).
        of: What is averaged.
        temperature: T > 0, at which the probabilities are taken.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits = at_least_float32(logits)
        if of == "logits":
            return logits.mean(1)
        peers = (logits / temperature).log_softmax(2)
        return temperature * (peers.logsumexp(1) - math.log(logits.shape[1]))
