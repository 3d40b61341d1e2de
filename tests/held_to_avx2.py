"""What test_processor.py runs in a process held to AVX2: a step, and its gradients in contiguous memory.

Of OEM, which slices channels as it trains and so stays in contiguous memory, and of ONE, which need not.
"""

import copy
from dataclasses import replace

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import ConstantLR

import coterie
from coterie import processor
from coterie.console.progress import Reporter
from coterie.data import training_batches
from coterie.methods import Oem, One, Stage, Task
from coterie.training import Recipe, TrainingOptions
from coterie.training.precision import resolve_precision
from coterie.training.stages import Setting, StageRun

CRASHED = {(3, 6), (6, 6), (6, 12)}  # channels of 1x1 convolutions of stride 2


class Keeping(SGD):
    """Leaves the gradients for whoever looks at them."""

    def zero_grad(self, set_to_none=True):
        pass


def main() -> None:
    """The layouts that the two had."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    oem, one = (next(method(network="resnet8").stages(Task(10, 1, (8, 8)))) for method in (Oem, One))
    shapes = {
        (each.in_channels, each.out_channels)
        for each in oem.turns[0].module.modules()
        if isinstance(each, nn.Conv2d) and (each.kernel_size, each.stride) == ((1, 1), (2, 2))
    }
    assert shapes & CRASHED, shapes
    print(*map(check_step, (oem, one)), end=" ")


def check_step(stage: Stage) -> torch.memory_format:
    """The layout of the stage's weights, whose gradients are those of contiguous memory."""
    data = coterie.data.load("digits", train_samples=128, test_samples=50)
    torch.manual_seed(0)
    turn = replace(stage.turns[0], optimiser=lambda parameters: Keeping(parameters, lr=0.01))
    plain = copy.deepcopy(turn.module).train()
    stage = replace(stage, turns=[turn], schedule=lambda optimiser, steps: ConstantLR(optimiser))
    setting = Setting(
        data, Accelerator(cpu=True), Recipe(), TrainingOptions(batch_size=128, precision="fp32"), Reporter(False)
    )
    for _ in StageRun(stage, 0, 1, setting).run_epoch():
        pass
    batch = next(training_batches(data, batch_size=128, seed=0, stage=0, epoch=0))
    views = tuple(view.clone(memory_format=torch.contiguous_format) for view in batch.views)
    plain(replace(batch, views=views)).loss.total.backward()
    found, expected = (
        torch.cat([each.grad.flatten() for each in module.parameters() if each.grad is not None])
        for module in (turn.module, plain)
    )
    # A value beside a ReLU's kink may be rounded to either side of it, which moves a few gradients by some hundredths.
    difference = (found - expected).norm() / expected.norm()
    assert difference < 1e-2, difference
    widest = max((each for each in turn.module.parameters() if each.dim() == 4), key=torch.Tensor.numel)
    return torch.channels_last if widest.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format


if __name__ == "__main__":
    main()
    print(processor.memory_format(), resolve_precision("auto", torch.device("cpu"), 10**9))
