"""What a network's channels cost while it is trained: MorphNet's penalty, and the step that makes exact zeros of it.

(Gordon, Eban, Nachum et al., *MorphNet: Fast & simple resource-constrained structure learning of deep networks*, CVPR
2018; here after its released code.) For a layer L whose alive inputs and outputs number A_in and A_out, and whose
channels' values (the largest |γ| of the batch norms that are tied to each) sum to S_in and S_out, with C_L as in
:mod:`coterie.networks.prune.channel_groups`:

    R_L = C_L (A_in S_out + A_out S_in)                                      a depthwise convolution: C_L (S_in + S_out)

No gradient flows through A. Shapes: N prunable channels, L layers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from coterie.networks.prune.channel_groups import ChannelGroups, Resource


class ChannelCosts(nn.Module):
    """What channels cost, differentiably, as a share of the full network's cost.

    MorphNet's penalty is Σ_L R_L / C0 = Σ_n value_n weight_n with the weights of :meth:`weights`: linear in the
    values, as alive channels are held constant. Values, alive channels and weights are (N,); costs of layers (L,).

    Args:
        groups: Of the network.
        resource: FLOPs or parameters; those of convolutions' and linear layers' weights.
    """

    inputs: Tensor
    outputs: Tensor
    fixed_inputs: Tensor
    fixed_outputs: Tensor
    cost_per_pair: Tensor
    depthwise: Tensor
    norm_channels: Tensor
    group_of: Tensor

    def __init__(self, groups: ChannelGroups, resource: Resource) -> None:
        super().__init__()
        self.groups = groups
        inputs = _count_channels([layer.inputs for layer in groups.layers], groups.num_channels)
        outputs = _count_channels([layer.outputs for layer in groups.layers], groups.num_channels)
        per_pair = torch.tensor([layer.cost_per_pair[resource] for layer in groups.layers], dtype=torch.float64)
        depthwise = torch.tensor([layer.depthwise for layer in groups.layers])
        full = per_pair * torch.where(depthwise, 1.0, inputs.sum(1)) * outputs.sum(1)
        self.total = full.sum().item()
        for name, value in {
            "inputs": inputs[:, :-1].float(),
            "outputs": outputs[:, :-1].float(),
            "fixed_inputs": inputs[:, -1].float(),  # the last column counts what is not prunable
            "fixed_outputs": outputs[:, -1].float(),
            "cost_per_pair": (per_pair / self.total).float(),
            "depthwise": depthwise,
            "norm_channels": torch.cat([channels for _, channels in groups.norms]),
            "group_of": groups.group_of,
        }.items():
            self.register_buffer(name, value, persistent=False)  # the network's groups say it all

    def values(self, network: nn.Module) -> Tensor:
        """Each channel's value: the largest |γ| of the batch norms that are tied to it (N,)."""
        scales = torch.cat([_scale(network, path) for path, _ in self.groups.norms]).abs()
        values = scales.new_zeros(self.groups.num_channels + 1)
        return values.scatter_reduce(0, self.norm_channels, scales.to(values.dtype), "amax")[:-1]

    def layer_costs(self, alive: Tensor) -> Tensor:
        """F_L of every layer (L,); at full width they add up to 1."""
        ins, outs = self._count_alive(alive)
        depthwise_outs = self.outputs @ alive.to(outs) + self.fixed_outputs
        return self.cost_per_pair * ins * torch.where(self.depthwise, depthwise_outs, outs)

    def weights(self, alive: Tensor, layer_weights: Tensor | None = None) -> Tensor:
        """dR/dvalue of every channel: Σ over layers that write it C_L A_in, plus over those that read it C_L A_out.

        Args:
            alive: bool (N,).
            layer_weights: How much each layer's R_L counts (L,); None for 1.
        """
        ins, outs = self._count_alive(alive)
        costs = self.cost_per_pair if layer_weights is None else self.cost_per_pair * layer_weights
        return self.outputs.T @ (costs * ins) + self.inputs.T @ (costs * outs)

    @torch.no_grad()
    def shrink(self, network: nn.Module, by: Tensor) -> None:
        """Move the scales of all batch norms towards zero, and no further: γ ← sign(γ) max(|γ| - by, 0).

        Args:
            network: Changed in place.
            by: For each channel how far (N,).
        """
        amounts = torch.cat([by, by.new_zeros(1)])[self.norm_channels]
        sizes = [len(channels) for _, channels in self.groups.norms]
        for (path, _), amount in zip(self.groups.norms, torch.split(amounts, sizes), strict=True):
            scale = _scale(network, path)
            scale.copy_(scale.sign() * (scale.abs() - amount).clamp(min=0))

    def _count_alive(self, alive: Tensor) -> tuple[Tensor, Tensor]:
        """A_in and A_out (L,), both 1 for depthwise convolutions."""
        left = alive.to(self.inputs.dtype)
        ins, outs = self.inputs @ left + self.fixed_inputs, self.outputs @ left + self.fixed_outputs
        return torch.where(self.depthwise, 1.0, ins), torch.where(self.depthwise, 1.0, outs)


def _count_channels(layers: Sequence[Tensor], channels: int) -> Tensor:
    """How often each layer has each channel, float64 (L, N + 1)."""
    return torch.stack([torch.bincount(layer, minlength=channels + 1) for layer in layers]).double()


def _scale(network: nn.Module, path: str) -> Tensor:
    scale = network.get_submodule(path).weight
    assert isinstance(scale, Tensor)
    return scale
