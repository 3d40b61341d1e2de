"""How compact structure learning shrinks a network's channels while it learns, and readies it once it is pruned.

Shapes: N prunable channels, L layers; C0 is the cost of the full network and R_L a layer's penalty
(:mod:`coterie.methods.compact.costs`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from coterie.errors import unknown_name
from coterie.methods.base import ParameterGroup, Stage, Turn
from coterie.methods.compact.costs import ChannelCosts
from coterie.methods.frozen_teacher import Teacher
from coterie.methods.vanilla import CrossEntropyStep
from coterie.networks.observe.calls import collect_calls
from coterie.networks.prune.channel_groups import ChannelGroups, Resource, find_blocks
from coterie.outputs import Batch, LossTerms, StepResult, at_least_float32, without_autocast


@dataclass(frozen=True)
class ShrinkSettings:
    """How hard channels are shrunk, and how far.

    Attributes:
        resource: What is to become cheaper.
        budget: The share of C0 at which shrinking ends.
        strength: c, in multiples of c*: at 1 a channel that nothing holds loses γ = 1 in the length of the stage.
        threshold: A channel is alive where its value is above it.
        least: The share of each tied group's channels below which it is not shrunk any more.
        proximal: Whether channels are shrunk by the proximal step, which makes exact zeros, and not by the gradient.
        sequential: Whether blocks are shrunk one after the other, and not together.
        rate: The fixed learning rate, as a share of the recipe's.
    """

    resource: Resource
    budget: float
    strength: float
    threshold: float
    least: float
    proximal: bool
    sequential: bool
    rate: float


class CostRegulariser(nn.Module):
    """c Σ_b w_b Σ_{L in b} R_L / C0 as a term of the loss, with the step that follows it.

    c* = N / (R/C0 · lr / (1 - momentum) · steps), R/C0 being the penalty's at γ = 1. The proximal step takes
    γ ← sign(γ) max(|γ| - lr / (1 - momentum) · c · dR/dγ / C0, 0) for all norms that are tied to a channel: as far as
    the gradient would go under that momentum. Where the budget is met nothing is shrunk.

    Args:
        groups: The network's.
        settings: How hard and how far.
        blocks: Block (a module's path) to its weight w_b; layers of no block weigh 1, or nothing when sequential.
            Without any, every block of :func:`~coterie.networks.prune.channel_groups.find_blocks` weighs 1.

    Raises:
        UserError: There is no such block.
    """

    block: Tensor
    block_weight: Tensor

    def __init__(self, groups: ChannelGroups, settings: ShrinkSettings, blocks: Mapping[str, float]) -> None:
        super().__init__()
        self.settings, self.costs = settings, ChannelCosts(groups, settings.resource)
        self.blocks = tuple(blocks or find_blocks(groups))
        places = [_block_of(layer.path, self.blocks) for layer in groups.layers]
        for index, name in enumerate(self.blocks):
            if index not in places:
                raise unknown_name("block in ⟨method.blocks⟩", name, find_blocks(groups))
        weights = [1.0 if place < 0 else blocks.get(self.blocks[place], 1.0) for place in places]
        self.register_buffer("block", torch.tensor(places), persistent=False)
        self.register_buffer("block_weight", torch.tensor(weights), persistent=False)
        self.channels, self.pace, self.c = groups.num_channels, 0.0, 0.0

    def schedule(self, optimiser: Optimizer, steps: int) -> LambdaLR:
        """The fixed learning rate; c follows from it."""
        first = optimiser.param_groups[0]
        self.pace = self.settings.rate * first["lr"] / (1 - first.get("momentum", 0.0))
        full = torch.ones_like(self.costs.group_of, dtype=torch.bool)
        ratio = self.costs.weights(full).sum().item()
        self.c = self.settings.strength * self.channels / (ratio * self.pace * steps)
        return LambdaLR(optimiser, lambda step: self.settings.rate)

    def forward(self, network: nn.Module, progress: float | Tensor) -> Tensor:
        """The term; with the proximal step, which is all of its gradient, the share of C0 that is alive instead.

        Args:
            network: Whose channels are shrunk.
            progress: The share of the stage that is over, in [0, 1].
        """
        with without_autocast(self.block):
            values = self.costs.values(network)
            if self.settings.proximal:
                return self.costs.layer_costs(values.detach() > self.settings.threshold).sum()
            return self.c * (values * self._weights(values.detach(), progress)).sum()

    @torch.no_grad()
    def step(self, network: nn.Module, progress: float) -> None:
        """The proximal step, after the optimiser's."""
        if self.settings.proximal:
            by = self.pace * self.c * self._weights(self.costs.values(network), progress)
            self.costs.shrink(network, by)

    def _weights(self, values: Tensor, progress: float | Tensor) -> Tensor:
        """What a unit of each channel's value costs now (N,): nothing where enough is gone."""
        costs, settings = self.costs, self.settings
        alive = values > settings.threshold
        layer_weights, watched = self.block_weight, torch.ones_like(self.block, dtype=torch.bool)
        if settings.sequential:
            current = min(int(progress * len(self.blocks)), len(self.blocks) - 1)
            watched = self.block == current
            layer_weights = layer_weights * watched * len(self.blocks)  # its share of the stage is as much shorter
        now, full = (costs.layer_costs(channels)[watched].sum() for channels in (alive, torch.ones_like(alive)))
        empty = torch.zeros(len(costs.groups.sizes), device=values.device)
        left, sizes = (empty.index_add(0, costs.group_of, channels.to(empty)) for channels in (alive, alive | ~alive))
        wanted = (now > settings.budget * full) & (left / sizes > settings.least)[costs.group_of]
        return costs.weights(alive, layer_weights) * wanted


class BlockMatching(nn.Module):
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
        student, teacher = self.networks
        with collect_calls(student, self.blocks) as ours, collect_calls(teacher, self.blocks) as theirs:
            result: StepResult = learn(batch)
            if not theirs:  # the step looked the teacher's answers up, and did not run it
                with torch.no_grad():
                    teacher(batch.images)
        wanted = {call.path: call.output for call in theirs}
        distances = []
        with without_autocast(batch.images):
            for call in ours:
                if call.output.dim() == 4:
                    target = at_least_float32(wanted[call.path])
                    error = functional.mse_loss(at_least_float32(call.output), target)
                    distances.append(error / target.square().mean().clamp(min=1e-12))
            return result, self.weight * torch.stack(distances).mean()


class ShrinkingStep(nn.Module):
    """A step with the regulariser of its network's channels, and with matched blocks where asked.

    Args:
        learn: Maps a batch to a :class:`~coterie.outputs.StepResult`, training ``network``.
        network: Whose channels are shrunk.
        regulariser: None leaves them alone.
        matching: None for no matching of blocks.
    """

    def __init__(
        self,
        learn: nn.Module,
        network: nn.Module,
        regulariser: CostRegulariser | None,
        matching: BlockMatching | None = None,
    ) -> None:
        super().__init__()
        self.learn, self.regulariser, self.matching = learn, regulariser, matching
        self.network = (network,)  # a tuple: the step that learns has it among its modules

    def forward(self, batch: Batch) -> StepResult:
        """A batch to the step's loss and the terms ``penalty`` (or ``cost``) and ``matching``."""
        terms: dict[str, Tensor] = {}
        if self.matching is None:
            result: StepResult = self.learn(batch)
        else:
            result, terms["matching"] = self.matching(self.learn, batch)
        if self.regulariser is not None:
            name = "cost" if self.regulariser.settings.proximal else "penalty"
            terms[name] = self.regulariser(self.network[0], batch.progress)
        return StepResult(LossTerms({**result.loss.terms, **terms}), result.output)


def estimate_statistics(network: nn.Module) -> Iterator[Stage]:
    """The stage in which nothing learns and batch norms take the mean statistics of the training images."""
    norms = {norm: norm.momentum for norm in network.modules() if isinstance(norm, nn.BatchNorm2d)}
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # PyTorch's word for the plain mean over all batches
    # A turn has parameters, and this one's stay as they are.
    turn = Turn(CrossEntropyStep(network), tuple(network.parameters())[-1:], lambda parameters: SGD(parameters, lr=0.0))
    yield Stage("prune", [turn], network=network, epochs=1, schedule=_constant, selects=False)
    for norm, momentum in norms.items():
        norm.momentum = momentum


def copy_first_teacher(teacher: Teacher, student: nn.Module) -> bool:
    """Load the first teacher's weights into the student, if it is of its architecture; whether it is."""
    first = teacher.members[0]
    state = first.network.state_dict()
    theirs, ours = ({name: t.shape for name, t in tensors.items()} for tensors in (state, student.state_dict()))
    if theirs != ours or first.conversion is not None:
        return False
    student.load_state_dict(state)
    return True


def group_scales(network: nn.Module, groups: ChannelGroups) -> list[ParameterGroup]:
    """A network's parameters in two groups: the scales of prunable channels without weight decay, and all others.

    Weight decay would shrink all channels alike, whatever they cost.
    """
    scales = {network.get_submodule(path).weight for path, _ in groups.norms}
    others = [parameter for parameter in network.parameters() if parameter not in scales]
    kept = [parameter for parameter in network.parameters() if parameter in scales]
    return [{"params": others}, {"params": kept, "decay_factor": 0.0}]


def _constant(optimiser: Optimizer, steps: int) -> LambdaLR:
    return LambdaLR(optimiser, lambda step: 1.0)


def _block_of(path: str, blocks: Sequence[str]) -> int:
    """The innermost of the blocks that a layer is in; -1 where it is in none."""
    inside = [index for index, block in enumerate(blocks) if path == block or path.startswith(f"{block}.")]
    return max(inside, key=lambda index: len(blocks[index]), default=-1)
