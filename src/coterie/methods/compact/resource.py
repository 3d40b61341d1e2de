"""What a network's channels cost while it is trained: MorphNet's penalty, and the step that makes exact zeros of it.

(Gordon, Eban, Nachum et al., *MorphNet: Fast & simple resource-constrained structure learning of deep networks*, CVPR
2018; here after its released code.) For a layer L whose alive inputs and outputs number A_in and A_out, and whose
channels' values (the largest |γ| of the batch norms that are tied to each) sum to S_in and S_out, with C_L as in
:mod:`coterie.networks.prune.channels`:

    R_L = C_L (A_in S_out + A_out S_in)                                      a depthwise convolution: C_L (S_in + S_out)

No gradient flows through A. Shapes: N channels that can be cut, L layers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from coterie.networks.prune.channels import Structure, Target


class Resource(nn.Module):
    """What channels cost, differentiably: MorphNet's penalty for one target, as a share of the full network's cost.

    Values, alive channels and weights are (N,); costs and pressures (L,).

    Args:
        structure: Of the network.
        target: FLOPs or parameters; those of convolutions' and linear layers' weights.
    """

    inputs: Tensor
    outputs: Tensor
    given: Tensor
    costs: Tensor
    depthwise: Tensor
    owner: Tensor
    group: Tensor

    def __init__(self, structure: Structure, target: Target) -> None:
        super().__init__()
        self.structure = structure
        reads, writes = ([getattr(layer, side) for layer in structure.layers] for side in ("reads", "writes"))
        inputs, outputs = (_counts(side, structure.channels) for side in (reads, writes))
        pairs = torch.tensor([layer.pairs[target] for layer in structure.layers], dtype=torch.float64)
        depthwise = torch.tensor([layer.depthwise for layer in structure.layers])
        full = pairs * torch.where(depthwise, 1.0, inputs.sum(1)) * outputs.sum(1)
        self.total = full.sum().item()
        for name, value in {
            "inputs": inputs[:, :-1].float(),
            "outputs": outputs[:, :-1].float(),
            "given": torch.stack([inputs[:, -1], outputs[:, -1]]).float(),  # channels of no group
            "costs": (pairs / self.total).float(),
            "depthwise": depthwise,
            "owner": torch.cat([owner for _, owner in structure.norms]),
            "group": structure.group,
        }.items():
            self.register_buffer(name, value, persistent=False)  # the network's structure says it all

    def values(self, network: nn.Module) -> Tensor:
        """Each channel's value: the largest |γ| of the batch norms that are tied to it (N,)."""
        scales = torch.cat([_weight(network, path) for path, _ in self.structure.norms]).abs()
        values = scales.new_zeros(self.structure.channels + 1)
        return values.scatter_reduce(0, self.owner, scales.to(values.dtype), "amax")[:-1]

    def layer_costs(self, alive: Tensor) -> Tensor:
        """F_L of every layer (L,); at full width they add up to 1."""
        ins, outs = self._amounts(alive)
        return self.costs * ins * torch.where(self.depthwise, self.outputs @ alive.to(outs) + self.given[1], outs)

    def weights(self, alive: Tensor, pressure: Tensor | None = None) -> Tensor:
        """dR/dvalue of every channel: Σ over layers that write it C_L A_in, plus over those that read it C_L A_out.

        Args:
            alive: bool (N,).
            pressure: What each layer's R_L counts (L,); None for 1.
        """
        ins, outs = self._amounts(alive)
        costs = self.costs if pressure is None else self.costs * pressure
        return self.outputs.T @ (costs * ins) + self.inputs.T @ (costs * outs)

    def penalty(self, values: Tensor, alive: Tensor, pressure: Tensor | None = None) -> Tensor:
        """Σ_L pressure_L R_L / C0, C0 being the full network's cost: linear in the values, alive held constant."""
        return (values * self.weights(alive.detach(), pressure)).sum()

    @torch.no_grad()
    def shrink(self, network: nn.Module, by: Tensor) -> None:
        """Move the scales of all batch norms towards zero, and no further: γ ← sign(γ) max(|γ| - by, 0).

        Args:
            network: Changed in place.
            by: For each channel how far (N,).
        """
        every = torch.cat([by, by.new_zeros(1)])[self.owner]
        amounts = torch.split(every, [len(owner) for _, owner in self.structure.norms])
        for (path, _), amount in zip(self.structure.norms, amounts, strict=True):
            scale = _weight(network, path)
            scale.copy_(scale.sign() * (scale.abs() - amount).clamp(min=0))

    def _amounts(self, alive: Tensor) -> tuple[Tensor, Tensor]:
        """A_in and A_out (L,), both 1 for depthwise convolutions."""
        left = alive.to(self.inputs.dtype)
        ins, outs = self.inputs @ left + self.given[0], self.outputs @ left + self.given[1]
        return torch.where(self.depthwise, 1.0, ins), torch.where(self.depthwise, 1.0, outs)


def _counts(owners: Sequence[Tensor], channels: int) -> Tensor:
    """How often each layer has each channel, float64 (L, N + 1)."""
    return torch.stack([torch.bincount(owner, minlength=channels + 1) for owner in owners]).double()


def _weight(network: nn.Module, path: str) -> Tensor:
    weight = network.get_submodule(path).weight
    assert isinstance(weight, Tensor)
    return weight
