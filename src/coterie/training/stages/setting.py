"""What every stage of a run has in common, and sums over an epoch."""

from collections.abc import Set
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from coterie.console.progress import Reporter
from coterie.data import ImageData
from coterie.methods import Method, Stage
from coterie.recipes import Recipe
from coterie.training.options import TrainingOptions


@dataclass(frozen=True)
class Setting:
    """What every stage of a run has in common.

    Attributes:
        names: Of the parameters of the method's network, where the recipe has rates for some of them; else empty.
    """

    data: ImageData
    accelerator: Accelerator
    recipe: Recipe
    options: TrainingOptions
    reporter: Reporter
    names: Set[str] = frozenset()

    @property
    def batch_size(self) -> int:
        """Images in a step, over all processes."""
        assert self.options.batch_size is not None  # it is fitted to the data before anything is trained
        return self.options.batch_size

    def epochs_of(self, method: Method, stage: Stage) -> int:
        """The length of a stage: the user's word for it, else the stage's own, else the run's."""
        return method.epochs.get(stage.name, stage.epochs or self.options.epochs)

    def epochs_of_delivery(self, method: Method, first: Stage) -> int:
        """The length of the stage that trains what is handed back: the first one, or else the last."""
        if first.deliver:
            return self.epochs_of(method, first)
        return method.epochs.get(method.stage_names()[-1], self.options.epochs)


class Meter:
    """Sums over an epoch, on the device: loss terms, wrong answers of every peer, images.

    A sum stays the same tensor from its first value on, so that a captured step finds it.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(self, name: str, value: Tensor) -> None:
        """Add a scalar to a sum."""
        if name not in self.sums:
            dtype = torch.float32 if value.device.type == "mps" else torch.float64
            self.sums[name] = torch.zeros((), dtype=dtype, device=value.device)
        self.sums[name].add_(value.detach())

    def restart(self) -> None:
        """Begin a new epoch."""
        for value in self.sums.values():
            value.zero_()
