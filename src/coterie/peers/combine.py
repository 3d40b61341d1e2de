"""What combines peers' logits into an ensemble. Shapes: B images, m peers, C classes."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from coterie.errors import UserError
from coterie.outputs import PeerOutput, at_least_float32

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


def gate_logits(logits: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum of logits, never of probabilities: (B, m, C) and (B, m) to (B, C)."""
    return (weights.unsqueeze(2) * logits).sum(1)


def average_logits(logits: Tensor, of: Average = "probabilities", temperature: float = 1.0) -> Tensor:
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


class MeanLogits(nn.Module):
    """The ensemble as the mean of the peers' logits."""

    def forward(self, output: PeerOutput) -> Tensor:
        """A group's output to the ensemble's logits (B, C)."""
        return output.logits.mean(1)


class FusedFeatures(nn.Module):
    """One linear layer on what all peers' classifiers read, concatenated (PCL; Wu, Gong 2021).

    Args:
        example: An output of the peers, for the widths of their features.
    """

    def __init__(self, example: PeerOutput) -> None:
        super().__init__()
        if example.features is None:
            raise UserError("fusing features needs networks whose last layer is linear; use another aggregator")
        width = sum(pool(feature).shape[1] for feature in example.features)
        self.fc = nn.Linear(width, example.logits.shape[2])

    def forward(self, output: PeerOutput) -> Tensor:
        """A group's output to the ensemble's logits (B, C)."""
        assert output.features is not None
        return self.fc(torch.cat([pool(feature) for feature in output.features], 1))


class FusedMaps(nn.Module):
    """A classifier on all peers' last feature maps, concatenated (FFL; Kim et al. 2020).

    Depthwise 3x3 convolution, batch norm, ReLU; 1x1 convolution to the target's width, batch norm, ReLU; global
    average pool; linear layer. Maps of other sizes are resized to the target's; tokens are a map one place high.

    Args:
        example: An output of the peers, for the widths of their maps.
        channels_last: Whether 4-D maps are (B, H, W, D).
    """

    def __init__(self, example: PeerOutput, channels_last: bool = False) -> None:
        super().__init__()
        self.channels_last = channels_last
        if example.maps is None:
            raise UserError("fusing maps needs networks with feature maps; use another aggregator")
        widths = [self._plain(features).shape[1] for features in example.maps]
        width = sum(widths)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.pointwise = nn.Conv2d(width, widths[0], 1, bias=False)
        self.norm2 = nn.BatchNorm2d(widths[0])
        self.fc = nn.Linear(widths[0], example.logits.shape[2])

    def forward(self, output: PeerOutput) -> Tensor:
        """A group's output to the ensemble's logits (B, C)."""
        assert output.maps is not None
        first, *rest = [self._plain(features) for features in output.maps]
        size = first.shape[2:]
        rest = [other if other.shape[2:] == size else functional.interpolate(other, size) for other in rest]
        fused = self.norm1(self.depthwise(torch.cat([first, *rest], 1))).relu()
        fused = self.norm2(self.pointwise(fused)).relu()
        return self.fc(fused.mean((2, 3)))

    def _plain(self, features: Tensor) -> Tensor:
        """A map or tokens as (B, D, H, W)."""
        if features.dim() == 3:
            return features.transpose(1, 2).unsqueeze(3)
        return features.permute(0, 3, 1, 2) if self.channels_last else features
