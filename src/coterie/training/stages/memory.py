"""In how many parts a batch fits into the device's memory: tried before a stage's first step, and undone."""

from typing import TYPE_CHECKING

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from coterie.data import Batch
from coterie.data.say import plural
from coterie.errors import UserError
from coterie.networks.preserve import preserve_state
from coterie.training.modules import only
from coterie.training.precision import autocast
from coterie.training.stages.feeding import feed

if TYPE_CHECKING:
    from coterie.training.stages.running import StageRun


def has_an_end(device: torch.device) -> bool:
    """Whether a step that does not fit raises an error: a CPU's system swaps, or ends the process."""
    return device.type != "cpu"


def find_parts(run: "StageRun") -> int:
    """The fewest parts, a power of two, in which a step fits into the memory of every process's device.

    Parts rather than a smaller batch: the step stays that of the whole batch, on whatever machine.

    Args:
        run: A stage before its first step; is left as it was.

    Raises:
        UserError: Not even parts of two images fit.
    """
    setting, accelerator = run.setting, run.setting.accelerator
    if not has_an_end(accelerator.device):
        setting.reporter.say("⟨accumulate auto⟩: on a CPU memory's end cannot be found; batches stay in one part")
        return 1
    batch = next(feed(setting, run.data, run.index, 0, run.epochs, run.stage.views, 0))
    parts = 1
    while not _all_fit(run, batch, parts):
        if 4 * parts > setting.batch_size // accelerator.num_processes:
            raise UserError(
                f"stage {run.stage.name}: memory does not hold a step, not even in {plural(parts, 'part')}; use "
                "⟨network.checkpoint_activations true⟩, a smaller network, or fewer branches"
            )
        parts *= 2
    if parts > 1:
        setting.reporter.say(f"stage {run.stage.name}: a batch of {setting.batch_size} fits in {parts} parts")
    return parts


def _all_fit(run: "StageRun", batch: Batch, parts: int) -> bool:
    accelerator = run.setting.accelerator
    fits = _fits(run, batch, parts)
    if accelerator.num_processes == 1:
        return fits
    return bool(accelerator.gather(torch.tensor([fits], device=accelerator.device)).all())


def _fits(run: "StageRun", batch: Batch, parts: int) -> bool:
    """Whether a step on a batch does; all that it changes is put back."""
    modules = [turn.module for turn in run.stage.turns]
    parameters = {id(each): each for module in modules for each in module.parameters()}.values()
    before = [parameter.detach().to("cpu", copy=True) for parameter in parameters]  # the device has no room to spare
    fits = True
    with preserve_state(*modules):
        try:
            with torch.enable_grad():
                _step(run, batch, parts)
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            fits = False
    with torch.no_grad():
        for parameter, value in zip(parameters, before, strict=True):
            parameter.copy_(value)
            parameter.grad = None
    for optimiser in run.optimisers:
        optimiser.state.clear()
    clear_device_cache(garbage_collection=True)
    return fits


def _step(run: "StageRun", batch: Batch, parts: int) -> None:
    """A step, without the other processes: of the parts only two, since all others need the second's memory."""
    accelerator = run.setting.accelerator
    for number, turn in enumerate(run.stage.turns):
        # Where there are several processes, gradients lie a second time in the buckets that are sent.
        buckets = [torch.empty_like(each) for each in run.parameters[number] if accelerator.num_processes > 1]
        with only(turn.module, run.parameters[number]):
            for part in batch.parts(parts)[:2]:
                with autocast(batch.images.device, run.setting.options.precision):
                    loss = turn.module(part).loss.total
                loss.backward()
        run.optimisers[number].step()
        run.optimisers[number].zero_grad()
        del buckets
