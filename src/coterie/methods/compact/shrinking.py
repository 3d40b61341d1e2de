"""How :mod:`coterie.methods.compact` shrinks a network's channels while it learns, and readies it once it is cut.

Shapes: N channels that can be cut, L layers; C0 is the cost of the full network and R_L a layer's penalty
(:mod:`coterie.methods.compact.resource`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from coterie.errors import unknown_name
from coterie.methods.base import Stage, Turn
from coterie.methods.compact.resource import Resource
from coterie.methods.frozen_teacher import Teacher
from coterie.methods.vanilla import CrossEntropyStep
from coterie.networks.prune.channels import Structure, Target, blocks_of
from coterie.outputs import Batch, LossTerms, StepResult, at_least_float32


@dataclass(frozen=True)
class Aim:
    """How hard is shrunk, and how far.

    Attributes:
        target: What is to become cheaper.
        budget: The share of C0 at which shrinking ends.
        strength: c, in multiples of c*: at 1 a channel that nothing holds loses γ = 1 in the length of the stage.
        threshold: A channel is alive where its value is above it.
        least: The share of each tied group's channels below which it is not shrunk any more.
        proximal: Whether channels are shrunk by the proximal step, which makes exact zeros, and not by the gradient.
        sequential: Whether blocks are shrunk one after the other, and not together.
        rate: The fixed learning rate, as a share of the recipe's.
    """

    target: Target
    budget: float
    strength: float
    threshold: float
    least: float
    proximal: bool
    sequential: bool
    rate: float


class Pressure(nn.Module):
    """c Σ_b w_b Σ_{L in b} R_L / C0 as a term of the loss, with the step that follows it.

    c* = N / (R/C0 · lr / (1 - momentum) · steps), R/C0 being the penalty's at γ = 1. The proximal step takes
    γ ← sign(γ) max(|γ| - lr / (1 - momentum) · c · dR/dγ / C0, 0) for all norms that are tied to a channel: as far as
    the gradient would go under that momentum. Where the budget is met nothing is shrunk.

    Args:
        structure: The network's.
        aim: How hard and how far.
        blocks: Block (a module's path) to its weight w_b; layers of no block weigh 1, or nothing when sequential.
            Without any, every block of :func:`~coterie.networks.prune.channels.blocks_of` weighs 1.

    Raises:
        UserError: There is no such block.
    """

    block: Tensor
    block_weight: Tensor

    def __init__(self, structure: Structure, aim: Aim, blocks: Mapping[str, float]) -> None:
        super().__init__()
        self.aim, self.resource = aim, Resource(structure, aim.target)
        self.blocks = tuple(blocks or blocks_of(structure))
        places = [_block_of(layer.path, self.blocks) for layer in structure.layers]
        for index, name in enumerate(self.blocks):
            if index not in places:
                raise unknown_name("block in ⟨method.blocks⟩", name, blocks_of(structure))
        weights = [1.0 if place < 0 else blocks.get(self.blocks[place], 1.0) for place in places]
        self.register_buffer("block", torch.tensor(places), persistent=False)
        self.register_buffer("block_weight", torch.tensor(weights), persistent=False)
        self.channels, self.pace, self.c = structure.channels, 0.0, 0.0

    def schedule(self, optimiser: Optimizer, steps: int) -> LambdaLR:
        """The fixed learning rate; c follows from it."""
        first = optimiser.param_groups[0]
        self.pace = self.aim.rate * first["lr"] / (1 - first.get("momentum", 0.0))
        everything = torch.ones_like(self.resource.group, dtype=torch.bool)
        ratio = self.resource.weights(everything).sum().item()
        self.c = self.aim.strength * self.channels / (ratio * self.pace * steps)
        return LambdaLR(optimiser, lambda step: self.aim.rate)

    def forward(self, network: nn.Module, progress: float) -> Tensor:
        """The term; with the proximal step, which is all of its gradient, the share of C0 that is alive instead.

        Args:
            network: Whose channels are shrunk.
            progress: The share of the stage that is over, in [0, 1].
        """
        with torch.autocast(self.block.device.type, enabled=False):
            values = self.resource.values(network)
            if self.aim.proximal:
                return self.resource.layer_costs(values.detach() > self.aim.threshold).sum()
            return self.c * (values * self._weights(values.detach(), progress)).sum()

    @torch.no_grad()
    def step(self, network: nn.Module, progress: float) -> None:
        """The proximal step, after the optimiser's."""
        if self.aim.proximal:
            by = self.pace * self.c * self._weights(self.resource.values(network), progress)
            self.resource.shrink(network, by)

    def _weights(self, values: Tensor, progress: float) -> Tensor:
        """What a unit of each channel's value costs now (N,): nothing where enough is cut."""
        resource, aim = self.resource, self.aim
        alive = values > aim.threshold
        pressure, watched = self.block_weight, torch.ones_like(self.block, dtype=torch.bool)
        if aim.sequential:
            current = min(int(progress * len(self.blocks)), len(self.blocks) - 1)
            watched = self.block == current
            pressure = pressure * watched * len(self.blocks)  # its share of the stage is as much shorter
        now, full = (resource.layer_costs(each)[watched].sum() for each in (alive, torch.ones_like(alive)))
        sizes = torch.zeros(len(resource.structure.sizes), device=values.device)
        shares = sizes.index_add(0, resource.group, alive.to(sizes)) / sizes.index_add(
            0, resource.group, torch.ones_like(values, dtype=sizes.dtype)
        )
        wanted = (now > aim.budget * full) & (shares > aim.least)[resource.group]
        return resource.weights(alive, pressure) * wanted


class Matching(nn.Module):
    """Σ_b ‖s_b - t_b‖² / ‖t_b‖² over the blocks' output maps of student and teacher, mean over blocks.

    Args:
        student: Learns.
        teacher: Of the same architecture; not trained.
        blocks: Paths of modules; those whose output is no map (B, D, H, W) are left out.
        weight: Of the term.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, blocks: Sequence[str], weight: float) -> None:
        super().__init__()
        self.weight = weight
        self.networks = (student, teacher)  # a tuple: neither is this module's own
        self.blocks = tuple(blocks)

    def forward(self, learn: nn.Module, batch: Batch) -> tuple[StepResult, Tensor]:
        """A step's result on a batch, and the term."""
        heard: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
        handles = [
            network.get_submodule(name).register_forward_hook(_listener(maps, name))
            for network, maps in zip(self.networks, heard, strict=True)
            for name in self.blocks
        ]
        try:
            result: StepResult = learn(batch)
            if not heard[1]:  # its answers were remembered
                with torch.no_grad():
                    self.networks[1](batch.images)
        finally:
            for handle in handles:
                handle.remove()
        with torch.autocast(batch.images.device.type, enabled=False):
            distances = []
            for name, own in heard[0].items():
                wanted = at_least_float32(heard[1][name])
                error = functional.mse_loss(at_least_float32(own), wanted)
                distances.append(error / wanted.square().mean().clamp(min=1e-12))
            return result, self.weight * torch.stack(distances).mean()


class Shrinking(nn.Module):
    """A step with the pressure on its network's channels, and with matched blocks where asked.

    Args:
        learn: Maps a batch to a :class:`~coterie.outputs.StepResult`, training ``network``.
        network: Whose channels are shrunk.
        pressure: None leaves them alone.
        matching: None for no matching of blocks.
    """

    def __init__(
        self, learn: nn.Module, network: nn.Module, pressure: Pressure | None, matching: Matching | None = None
    ) -> None:
        super().__init__()
        self.learn, self.pressure, self.matching = learn, pressure, matching
        self.network = (network,)  # a tuple: the step that learns has it among its modules

    def forward(self, batch: Batch) -> StepResult:
        """A batch to the step's loss and the terms ``penalty`` (or ``cost``) and ``matching``."""
        terms: dict[str, Tensor] = {}
        if self.matching is None:
            result: StepResult = self.learn(batch)
        else:
            result, terms["matching"] = self.matching(self.learn, batch)
        if self.pressure is not None:
            name = "cost" if self.pressure.aim.proximal else "penalty"
            terms[name] = self.pressure(self.network[0], batch.progress)
        return StepResult(LossTerms({**result.loss.terms, **terms}), result.output)


def estimated(network: nn.Module) -> Iterator[Stage]:
    """The stage in which nothing learns and batch norms take the mean statistics of the training images."""
    norms = {each: each.momentum for each in network.modules() if isinstance(each, nn.BatchNorm2d)}
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    # A turn has parameters, and this one's stay as they are.
    turn = Turn(CrossEntropyStep(network), tuple(network.parameters())[-1:], lambda parameters: SGD(parameters, lr=0.0))
    yield Stage("prune", [turn], network=network, epochs=1, schedule=_constant, selects=False)
    for norm, momentum in norms.items():
        norm.momentum = momentum


def copied(student: nn.Module, teacher: Teacher) -> bool:
    """Whether the student is of the first teacher's architecture, in which case it is now its copy."""
    first = teacher.members[0]
    state, own = first.network.state_dict(), student.state_dict()
    same = {name: tensor.shape for name, tensor in state.items()} == {name: each.shape for name, each in own.items()}
    if not same or first.conversion is not None:
        return False
    student.load_state_dict(state)
    return True


def decay_scales(network: nn.Module, structure: Structure, factor: float) -> None:
    """Set what weight decay counts for the scales of the norms of channels that can be cut."""
    for path, _ in structure.norms:
        setattr(network.get_submodule(path).weight, "decay_factor", factor)  # noqa: B010


def _constant(optimiser: Optimizer, steps: int) -> LambdaLR:
    return LambdaLR(optimiser, lambda step: 1.0)


def _block_of(path: str, blocks: Sequence[str]) -> int:
    """The innermost of the blocks that a layer is in; -1 where it is in none."""
    inside = [index for index, block in enumerate(blocks) if path == block or path.startswith(f"{block}.")]
    return max(inside, key=lambda index: len(blocks[index]), default=-1)


def _listener(maps: dict[str, Tensor], name: str) -> Callable[[nn.Module, object, Tensor], None]:
    def listen(module: nn.Module, inputs: object, output: Tensor) -> None:
        if output.dim() == 4:
            maps[name] = output

    return listen
