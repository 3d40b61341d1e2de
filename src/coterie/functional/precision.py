"""Losses are computed in float32 at least, whatever the precision of what they are given."""

import torch
from torch import Tensor


def without_autocast(tensor: Tensor) -> torch.autocast:
    """A block without autocast: CPUs would run softmax in bfloat16."""
    return torch.autocast(tensor.device.type, enabled=False)
