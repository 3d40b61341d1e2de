"""Averaged weights: an averaged copy of all that a stage measures and delivers, for every method alike.

With θ_t the weights after step t = 1..T of a stage, w the window as a share of the stage, and E its epochs:

    ema     a_t = a_{t-1} + r_t (θ_t - a_{t-1}),    r_t = max(1 / t, 1 / (1 + w T))
    tail    a = 1/k Σ θ at the ends of the last k epochs,    k = max(1, round(w E))

(ema: Polyak, Juditsky 1992, with the window of a share of the training, as the decay is 1 - r; tail: *Averaging Weights
Leads to Wider Optima and Better Generalization*, Izmailov et al. 2018, arXiv 1803.05407.)

Averaged weights need statistics of their own. Batch norm's running ones are averaged as the weights are. At the end of
a stage those of a tail are measured anew, as the mean over the batches of two passes over augmented training images.
"""

import copy
import time
from collections.abc import Iterable, Iterator
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from coterie.data import training_batches
from coterie.evaluation.costs import flop_counter
from coterie.methods import Stage
from coterie.metrics import Row
from coterie.outputs import Batch
from coterie.recipes import Recipe
from coterie.records import AVERAGE
from coterie.training.precision import autocast
from coterie.training.stages.setting import Setting

PASSES = 2  # over the training images, for the statistics of a tail


class Earlier:
    """What earlier stages trained, and the averages of it."""

    def __init__(self) -> None:
        self._averages: dict[int, tuple[Tensor, Tensor]] = {}  # the first tensor is held, so that its id stays its own

    def __contains__(self, live: Tensor) -> bool:
        return id(live) in self._averages

    def average_of(self, live: Tensor) -> Tensor:
        """The average of a weight or buffer that an earlier stage trained."""
        return self._averages[id(live)][1]

    def add(self, live: Tensor, average: Tensor) -> None:
        """Keep an average for the stages to come."""
        self._averages[id(live)] = (live, average)


class Averages:
    """The averaged copies of a stage's network and of what it delivers; what these share, the copies share.

    What the stage changes follows it. What earlier stages trained has the average of then.

    Args:
        stage: On its device, and not compiled yet.
        recipe: Says what is averaged, and over which share of the stage.
        earlier: What earlier stages trained.

    Attributes:
        network: That of the stage's network.
        deliver: Name to network of averaged deliverables, each named as the live one with ``-average`` behind.
    """

    def __init__(self, stage: Stage, recipe: Recipe, earlier: Earlier) -> None:
        assert stage.network is not None
        self.kind, self.window = recipe.average, recipe.average_window
        live = [stage.network, *(network for _, network in _averaged(stage, earlier))]
        copies = copy.deepcopy(live)  # at once, so that what they share stays shared
        self.network, *deliver = (network.requires_grad_(False).eval() for network in copies)
        self.deliver = {name + AVERAGE: own for (name, _), own in zip(_averaged(stage, earlier), deliver, strict=True)}
        self._norms = [
            (norm, own)
            for norm, own in zip(stage.network.modules(), self.network.modules(), strict=True)
            if isinstance(own, _BatchNorm) and own.running_mean is not None
        ]
        changed = _changed(stage)
        self.pairs: list[tuple[Tensor, Tensor]] = []  # an average, and what it follows
        for own, tensor in zip(_tensors(copies), _tensors(live), strict=True):
            if id(tensor) in changed:
                self.pairs.append((own, tensor))
            elif tensor in earlier:
                own.data.copy_(earlier.average_of(tensor))

    def modules(self) -> dict[str, nn.Module]:
        """The copies by the names under which checkpoints hold them."""
        return {f"averages.{name}": module for name, module in {"network": self.network, **self.deliver}.items()}

    def after_step(self, done: int, steps: int) -> None:
        """Follow a step.

        Args:
            done: Steps of the stage that are over, this one counts.
            steps: All of the stage.
        """
        if self.kind == "ema":
            self._follow(max(1 / done, 1 / (1 + self.window * steps)))

    def after_epoch(self, done: int, epochs: int) -> None:
        """Follow an epoch.

        Args:
            done: Epochs of the stage that are over, this one counts.
            epochs: All of the stage.
        """
        if self.kind == "tail" and self.begun(done, epochs):
            self._follow(1 / (done - epochs + self._length(epochs)))

    def begun(self, done: int, epochs: int) -> bool:
        """Whether there is an average after so many epochs: a tail begins late."""
        return self.kind == "ema" or done > epochs - self._length(epochs)

    def load_into_stage(self) -> None:
        """Give the stage's own networks the averages, for later stages to go on from."""
        with torch.no_grad():
            for own, live in self.pairs:
                live.copy_(own)

    def hand_on(self, earlier: Earlier) -> None:
        """Keep the averages for later stages; no copy of them where the stage's networks have them themselves."""
        for own, live in self.pairs:
            earlier.add(live, live if torch.equal(own, live) else own)

    @property
    def needs_statistics(self) -> bool:
        """Whether batch-norm statistics are to be measured anew at the end: a tail's, where there are any."""
        return self.kind == "tail" and bool(self._learning_norms())

    @torch.no_grad()
    def measure_statistics(self, batches: Iterable[Batch], device: torch.device) -> int:
        """Make batch norm's statistics the plain means over batches; all else works as when it is deployed.

        Args:
            batches: Of augmented training images, all passes one after another.
            device: Where the networks are.

        Returns:
            The FLOPs of it.
        """
        norms = self._learning_norms()
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # PyTorch's word for the plain mean over all batches
            norm.train()
        flops_per_image: float | None = None
        images = 0
        for batch in batches:
            views = batch.images.to(device)
            if flops_per_image is None:
                with flop_counter() as counter:
                    self.network(views)
                flops_per_image = counter.get_total_flops() / len(views)
            else:
                self.network(views)
            images += len(views)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()
        return round((flops_per_image or 0) * images)

    def _learning_norms(self) -> list[_BatchNorm]:
        """Those whose statistics moved in training: a frozen one keeps its own."""
        return [own for live, own in self._norms if live.training]

    def _length(self, epochs: int) -> int:
        return max(1, round(self.window * epochs))

    @torch.no_grad()
    def _follow(self, weight: float) -> None:
        own, live = ([pair[side] for pair in self.pairs if pair[0].is_floating_point()] for side in (0, 1))
        torch._foreach_lerp_(own, live, weight)
        for average, tensor in self.pairs:
            if not average.is_floating_point():
                average.copy_(tensor)


def make_averages(stage: Stage, recipe: Recipe, earlier: Earlier) -> Averages | None:
    """The averages of a stage; None where the recipe wants none, or where there is nothing to average.

    A stage that trains no classifier has none. Nor has one that is not to be judged before its end and hands on to
    another (it shrinks its network): the average would be of networks that are not shrunk yet.
    """
    if recipe.average == "none" or stage.network is None or not (stage.selects or stage.deliver):
        return None
    if not stage.trains(stage.network):
        return None
    return Averages(stage, recipe, earlier)


def _averaged(stage: Stage, earlier: Earlier) -> Iterator[tuple[str, nn.Module]]:
    """The deliverables that are trained, here or before: not those that are averages or copies themselves."""
    for name, network in stage.deliver.items():
        learns = stage.trains(network) or any(parameter in earlier for parameter in network.parameters())
        if learns and name + AVERAGE not in stage.deliver:
            yield name, network


def _changed(stage: Stage) -> set[int]:
    """The ids of the weights and buffers that a stage may change."""
    modules = [*(turn.module for turn in stage.turns), *stage.state.values()]
    return {id(tensor) for tensor in _tensors([*modules, *([stage.network] if stage.network is not None else [])])}


def _tensors(modules: Iterable[nn.Module]) -> Iterator[Tensor]:
    """Weights and buffers of modules, each once."""
    seen: set[int] = set()
    for tensor in chain.from_iterable(chain(module.parameters(), module.buffers()) for module in modules):
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield tensor


def renew_statistics(averages: Averages, setting: Setting, row: Row, index: int, epochs: int) -> Row:
    """Measure the averages' batch-norm statistics; gives what an epoch's row says with this counted in.

    Every process sees all images, so that all of them, and one alone, find the same; it is counted once.

    Args:
        averages: Of the stage, after its last step.
        setting: The run's.
        row: Of the last epoch.
        index: The stage's.
        epochs: Its length.
    """
    started = time.perf_counter()
    batches = chain.from_iterable(
        training_batches(
            setting.data,
            batch_size=setting.batch_size,
            seed=setting.options.seed,
            stage=index,
            epoch=epochs + number,
            variation=setting.recipe.variation,
            sampling=setting.recipe.sampling,
        )
        for number in range(PASSES)
    )
    device = setting.accelerator.device
    with autocast(device, setting.options.precision):
        flops = averages.measure_statistics(batches, device)
    counted: Row = {"seconds": round(float(row["seconds"]) + time.perf_counter() - started, 3)}
    if "training_flops" in row:
        counted["training_flops"] = float(row["training_flops"]) + flops
    return counted
