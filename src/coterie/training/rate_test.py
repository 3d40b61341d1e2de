"""A range test of the learning rate: the loss while the rate rises from very small to very large.

(Smith, *Cyclical learning rates for training neural networks*, WACV 2017, arXiv 1506.01186, section 3.3. That a tenth
of the rate at which the loss is lowest is a good peak is a rule of thumb, not the paper's.)
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil, isfinite
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from coterie.console.progress import Reporter, StageState
from coterie.console.time_left import Watch
from coterie.data import ImageData
from coterie.errors import UserError
from coterie.methods import Method
from coterie.networks.zoo import Backbone
from coterie.recipes import Recipe, default_recipe, recipe_class
from coterie.training.distribution import make_accelerator
from coterie.training.loop import settle
from coterie.training.options import TrainingOptions, check_objects
from coterie.training.stages import Setting, StageRun
from coterie.training.surroundings import keep_surroundings

_RANGES = {"sgd": (1e-4, 10.0), "adam": (1e-6, 1.0), "adamw": (1e-6, 1.0)}
_STEPS = 120
_MEMORY = 0.9  # of the loss's moving average
_DIVERGED = 3.0  # times the lowest loss so far, at which the test ends
_BELOW = 10  # times below the rate of the lowest loss


@dataclass(frozen=True)
class RateTest:
    """What a range test found.

    Attributes:
        rates: The peak rate of each step, rising.
        losses: The training loss of each step, smoothed.
        chosen: The peak rate that the recipe would have taken.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    chosen: float

    @property
    def suggestion(self) -> float:
        """A tenth of the rate at which the loss was lowest."""
        return self.rates[self.losses.index(min(self.losses))] / _BELOW


def find_rate(
    method: Method, data: ImageData, *, recipe: Recipe | None = None, progress: bool = True, **options: Any
) -> RateTest:
    """Train the method's first stage for 120 steps at most while the rate rises, and forget what was learned.

    Args:
        method: What would be trained; a module of your own is left as it was.
        data: As made by :func:`coterie.data.load`.
        recipe: As of :func:`coterie.train`.
        progress: Whether a bar is shown.
        **options: Fields of :class:`~coterie.training.TrainingOptions`.

    Raises:
        UserError: An option is wrong; the first stage has a rate of its own; or the first steps' loss is no number.
    """
    recipe = recipe or recipe_class(default_recipe(Backbone.of(method.network).starts_trained))()
    check_objects(method, data, "", recipe, progress=progress)
    given = TrainingOptions(**options)
    accelerator = make_accelerator(given)
    if accelerator.num_processes > 1:
        raise UserError("a rate is looked for in one process; start one")
    source = Backbone.of(method.network).source
    if isinstance(source, nn.Module):  # trained in place, were it not a copy
        method = replace(method, network=copy.deepcopy(source))
    setting = Setting(data, accelerator, recipe, given.fit_to(data), Reporter(progress))
    with keep_surroundings(method):
        return _test(method, setting)


def _test(method: Method, setting: Setting) -> RateTest:
    _, first, _, setting = settle(method, setting)
    if first.schedule is not None or any(turn.optimiser is not None for turn in first.turns):
        raise UserError(f"stage '{first.name}' of method '{method.name}' has a learning rate of its own; none to find")
    peak, (low, high) = setting.recipe.learning_rate, _RANGES[setting.recipe.optimiser]
    rates = [low * (high / low) ** (step / (_STEPS - 1)) for step in range(_STEPS)]
    stage = replace(first, schedule=partial(_rising, [rate / peak for rate in rates]))
    epochs = ceil(_STEPS / max(1, len(setting.data.train) // setting.batch_size))
    run = StageRun(stage, 0, epochs, setting)
    losses: list[float] = []
    with setting.reporter.stage(StageState("learning rate", epochs, Watch(_STEPS))):
        while len(losses) < _STEPS and not _diverged(losses):
            for _ in run.run_epoch():
                losses.append(_loss(run))
                setting.reporter.step(None)
                if len(losses) == _STEPS or _diverged(losses):
                    break
            run.epoch, run.step = run.epoch + 1, 0
    smooth = _smoothed([loss for loss in losses if isfinite(loss)])
    if len(smooth) < 2:
        raise UserError(f"the loss is no number even at a rate of {low:g}; look at the data, or use ⟨precision fp32⟩")
    return RateTest(tuple(rates[: len(smooth)]), tuple(smooth), peak)


def _rising(factors: Sequence[float], optimiser: Optimizer, steps: int) -> LambdaLR:
    """The rates of a test in place of the recipe's: smaller ones next to the images stay so."""
    return LambdaLR(optimiser, lambda step: factors[min(step, len(factors) - 1)])


def _loss(run: StageRun) -> float:
    """That of the last step, all terms together."""
    sums = run.meter.sums
    loss = sum(value.item() for name, value in sums.items() if name.startswith("loss_")) / sums["images"].item()
    run.meter.restart()
    return loss


def _smoothed(losses: Sequence[float]) -> list[float]:
    """A moving average that does not lean to where it began."""
    mean, smooth = 0.0, []
    for number, loss in enumerate(losses, start=1):
        mean = _MEMORY * mean + (1 - _MEMORY) * loss
        smooth.append(mean / (1 - _MEMORY**number))
    return smooth


def _diverged(losses: Sequence[float]) -> bool:
    if losses and not isfinite(losses[-1]):
        return True
    smooth = _smoothed(losses)
    return len(smooth) > 1 and smooth[-1] > _DIVERGED * min(smooth)
