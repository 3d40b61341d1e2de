"""What a network costs: parameters and FLOPs."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from coterie.networks.preserve import preserve_state
from coterie.outputs import answer


@dataclass(frozen=True)
class Cost:
    """The cost of a network.

    Attributes:
        parameters: Count of trainable and frozen parameters.
        flops: Of one image's forward: 2 x multiply-accumulates of convolutions and linear layers, as in the papers.
    """

    parameters: int
    flops: int


def flop_counter() -> FlopCounterMode:
    """PyTorch's counter of FLOPs, which also counts the backward of grouped convolutions as what it is.

    PyTorch's own takes it for one of a single group: of a depthwise convolution of 32 channels 16 times too many.
    """
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _convolution_backward})


def _convolution_backward(
    outputs: Sequence[int],
    images: Sequence[int],
    weights: Sequence[int],
    _bias: Any,
    _stride: Any,
    _padding: Any,
    _dilation: Any,
    transposed: bool,
    _output_padding: Any,
    _groups: int,
    wanted: Sequence[bool],
    **_: Any,
) -> int:
    """Of shapes: the gradient of the images costs what the forward does, and so does that of the weights."""
    places = prod((images if transposed else outputs)[2:])
    return 2 * images[0] * places * prod(weights) * sum(wanted[:2])


def cost(network: nn.Module, channels: int, image_size: tuple[int, int]) -> Cost:
    """Count a network's parameters and forward FLOPs for one image; the network's mode is as before afterwards."""
    parameter = next(network.parameters())
    images = torch.zeros(1, channels, *image_size, device=parameter.device, dtype=parameter.dtype)
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    with torch.no_grad(), flop_counter() as counter:
        network(images)
    for module, mode in modes:
        module.training = mode
    return Cost(sum(p.numel() for p in network.parameters()), counter.get_total_flops())


def step_flops(network: nn.Module, channels: int, image_size: tuple[int, int]) -> int:
    """The FLOPs of one image's forward and backward, as training the network alone has them; nothing of it changes."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    images = torch.zeros(1, channels, *image_size, device=trained[0].device, dtype=trained[0].dtype)
    with preserve_state(network), torch.enable_grad(), flop_counter() as counter:
        torch.autograd.grad(answer(network.eval()(images)).sum(), trained, allow_unused=True)
    return int(counter.get_total_flops())
