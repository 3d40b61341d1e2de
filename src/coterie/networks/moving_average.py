"""A moving average of a network's weights, with batch-norm statistics that fit it."""

import copy
from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn


class MovingAverage(nn.Module):
    """A copy of a network whose weights follow the network's, to be updated after every step.

    The decay grows as 1 − 1 / updates up to its last value, so that the beginning is soon forgotten. That last value is
    stated for a training of so many steps. In one of another length the mean age of what is averaged, decay / (1 −
    decay) steps, is the same share of the training: a decay in steps alone would be most of a short run.

    Args:
        network: What is copied.
        decay: From 0 (the average is the network) to 1 (all steps weigh the same).
        steps: The length of the training for which ``decay`` is stated; None for any length.
        runs: Whether the copy runs in training mode on every batch. Its batch norms then see what it makes of them, and
            their statistics are left alone; otherwise its buffers follow the network's, as the weights do.
    """

    n_averaged: Tensor

    def __init__(self, network: nn.Module, decay: float, steps: int | None, runs: bool) -> None:
        super().__init__()
        self.module = copy.deepcopy(network).requires_grad_(False)
        self.register_buffer("n_averaged", torch.tensor(0))
        self.decay, self.steps, self.runs = decay, steps, runs

    def forward(self, *inputs: Any) -> Any:
        """What the copy says."""
        return self.module(*inputs)

    def last_decay(self, steps: int) -> float:
        """The decay that is reached in a training of this many steps."""
        if self.steps is None:
            return self.decay
        return self.decay * steps / (self.decay * steps + (1 - self.decay) * self.steps)

    @torch.no_grad()
    def update(self, network: nn.Module, done: float) -> None:
        """Follow the network after a step.

        Args:
            network: What was copied, as it is now.
            done: The share of the training that is over, in (0, 1]; this step counts.
        """
        self.n_averaged += 1
        updates = int(self.n_averaged)
        weight = 1 - min(1 - 1 / updates, self.last_decay(round(updates / done)))
        for own, other in zip(self._followers(self.module), self._followers(network), strict=True):
            if own.is_floating_point():
                own.lerp_(other.to(own.device), weight)
            else:
                own.copy_(other)

    def _followers(self, network: nn.Module) -> Iterable[Tensor]:
        return network.parameters() if self.runs else chain(network.parameters(), network.buffers())
