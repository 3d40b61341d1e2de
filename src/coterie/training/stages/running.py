"""The loop: one stage of a method, batch by batch, from any step on."""

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from coterie.data import Batch, batches_per_epoch
from coterie.errors import UserError
from coterie.evaluation.costs import flop_counter
from coterie.evaluation.predictions import Predictions, errors_and_nll
from coterie.functional import heaviest_labels
from coterie.methods import Stage, Turn
from coterie.metrics import Row
from coterie.networks.checkpointing import checkpoints
from coterie.outputs import StepResult
from coterie.records import AVERAGE
from coterie.seeds import mix
from coterie.training.distribution import predict_split, share_buffers, share_gradients, sum_over_processes
from coterie.training.folder.checkpoint import SavedStage, load_optimiser
from coterie.training.modules import another_network, keep_buffers, load_modules, only, place, stage_modules, states_of
from coterie.training.precision import autocast
from coterie.training.stages.averaging import Earlier, make_averages, renew_statistics
from coterie.training.stages.batch_norm import sync_batch_norm
from coterie.training.stages.capture import Recorder, Step
from coterie.training.stages.feeding import feed, near
from coterie.training.stages.memory import find_parts
from coterie.training.stages.rates import factors_of, highest_rate
from coterie.training.stages.setting import Meter, Setting


class StageRun:
    """A stage being trained: its optimisers, schedules and position.

    Args:
        stage: What is trained.
        index: Its place among the method's stages.
        epochs: Its length.
        setting: The run's.
        earlier: What earlier stages trained; None where this is the first.
    """

    def __init__(self, stage: Stage, index: int, epochs: int, setting: Setting, earlier: Earlier | None = None) -> None:
        self.stage, self.index, self.epochs, self.setting = stage, index, epochs, setting
        self.epoch = self.step = 0
        self.seconds = 0.0
        self.flops_per_image: float | None = None  # of a training step, all that it runs; counted in the first one
        accumulate = setting.options.accumulate
        self.parts = None if isinstance(accumulate, str) else accumulate  # of a batch; looked for before the first step
        self.meter = Meter()
        accelerator = setting.accelerator
        self.data = near(setting.data, accelerator.device)
        place(stage, accelerator.device)
        make_optimiser = partial(setting.recipe.make_optimiser, factors=factors_of(stage, setting))
        self.averages = make_averages(stage, setting.recipe, earlier or Earlier())
        if setting.options.compile and stage.network is not None:
            stage.network.compile()
        self.parameters = [turn.trainable() for turn in stage.turns]
        self.recomputes = [checkpoints(turn.module) for turn in stage.turns]  # what is computed again, in the backward
        self.runners = []
        for turn, parameters in zip(stage.turns, self.parameters, strict=True):
            with only(turn.module, parameters):  # distribution looks at what requires gradients now
                self.runners.append(share_gradients(turn.module, accelerator))
        self.optimisers = [(turn.optimiser or make_optimiser)(turn.groups()) for turn in stage.turns]
        make_schedule = stage.schedule or setting.recipe.make_schedule
        self.schedules: list[LRScheduler] = [
            make_schedule(optimiser, self.total_steps) for optimiser in self.optimisers
        ]
        self.rate = highest_rate(self.optimisers)  # of the last step
        self.take_turns: Step = self._take_turns
        if setting.options.capture:
            self.take_turns = Recorder(self._take_turns, self.optimisers, accelerator.device, setting.reporter.say)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        world = self.setting.accelerator.num_processes
        return batches_per_epoch(len(self.setting.data.train), self.setting.batch_size, world)

    @property
    def total_steps(self) -> int:
        """Batches in the stage."""
        return self.epochs * self.steps_per_epoch

    @property
    def steps_done(self) -> int:
        """Batches of the stage that are over."""
        return self.epoch * self.steps_per_epoch + self.step

    def wait(self) -> None:
        """Wait until the device has done all steps: a clock that is read earlier shows the host's time alone."""
        if "images" in self.meter.sums:
            self.meter.sums["images"].item()

    def modules(self) -> dict[str, nn.Module]:
        """Everything whose state the stage changes, averages among it, by the names that checkpoints have."""
        return stage_modules(self.stage) | ({} if self.averages is None else self.averages.modules())

    def state(self) -> dict[str, Any]:
        """All that going on needs."""
        return {
            "stage": self.index,
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
            "flops_per_image": self.flops_per_image,
            "parts": self.parts,
            "rate": self.rate,
            "sums": sum_over_processes(self.meter.sums, self.setting.accelerator),
            "modules": states_of(self.modules()),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "schedules": [_plain(schedule.state_dict()) for schedule in self.schedules],
        }

    def load(self, state: SavedStage) -> None:
        """Go back to where :meth:`state` was taken.

        Raises:
            UserError: The checkpoint is another network's.
        """
        load_modules(self.modules(), state["modules"])
        try:
            for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
                load_optimiser(optimiser, saved)
            for schedule, saved in zip(self.schedules, state["schedules"], strict=True):
                schedule.load_state_dict(saved)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise another_network(error) from error
        self.epoch, self.step, self.seconds = state["epoch"], state["step"], state["seconds"]
        self.flops_per_image = state["flops_per_image"]
        self.parts = state.get("parts", self.parts)
        self.rate = state.get("rate", highest_rate(self.optimisers))
        accelerator = self.setting.accelerator
        # The saved sums are of all processes: the first goes on from them, the others from zero.
        mine = 1 if accelerator.is_main_process else 0
        self.meter.sums = {name: mine * value.to(accelerator.device) for name, value in state["sums"].items()}

    def run_epoch(self) -> Iterator[None]:
        """Train the rest of the current epoch; yields after every batch, when the state is whole."""
        setting, accelerator = self.setting, self.setting.accelerator
        batches = feed(setting, self.data, self.index, self.epoch, self.epochs, self.stage.views, self.step)
        for turn in self.stage.turns:
            turn.module.train()
        self.parts = self.parts or find_parts(self)
        started = time.perf_counter()
        for batch in batches:
            torch.manual_seed(mix(setting.options.seed, self.index, self.epoch, self.step, accelerator.process_index))
            if self.steps_done == 0 and not setting.options.compile:  # a compiled network cannot be looked into
                with flop_counter() as counter:
                    self._train(batch)
                self.flops_per_image = counter.get_total_flops() / len(batch.labels)
            else:
                self._train(batch)
            self.step += 1
            self.seconds += time.perf_counter() - started
            yield
            started = time.perf_counter()

    def _train(self, batch: Batch) -> None:
        self.take_turns(batch)
        self.rate = highest_rate(self.optimisers)
        for schedule in self.schedules:
            schedule.step()
        if self.stage.hooks.after_step is not None:
            self.stage.hooks.after_step((self.steps_done + 1) / self.total_steps)
        if self.averages is not None:
            self.averages.after_step(self.steps_done + 1, self.total_steps)

    def _take_turns(self, batch: Batch) -> None:
        for number, turn in enumerate(self.stage.turns):
            joined = sync_batch_norm() if self.setting.options.sync_batch_norm else nullcontext()
            with only(turn.module, self.parameters[number]), joined:
                for part in batch.parts(self._count_parts()):
                    self._learn(batch, part, turn, number)
            if self.setting.recipe.clip_norm is not None:
                self.setting.accelerator.clip_grad_norm_(self.parameters[number], self.setting.recipe.clip_norm)
            self.optimisers[number].step()
            self.optimisers[number].zero_grad()
            share_buffers([turn.module], self.setting.accelerator)

    def _learn(self, batch: Batch, part: Batch, turn: Turn, number: int) -> None:
        """The gradients of a part of a batch, added to those of the parts before it."""
        with autocast(batch.images.device, self.setting.options.precision):
            result: StepResult = self.runners[number](part)
        share = self._share(batch) * (len(part.labels) / len(batch.labels))
        with keep_buffers(turn.module) if self.recomputes[number] else nullcontext():
            self.setting.accelerator.backward(result.loss.total * share)
        self._note(result, turn, part, number)

    @property
    def _whole(self) -> int:
        """Images of the current batch over all processes."""
        return min(self.setting.batch_size, len(self.setting.data.train) - self.step * self.setting.batch_size)

    def _count_parts(self) -> int:
        """Parts of the current batch: as many in each process, of two images at least, or one would wait for good."""
        fewest = self._whole // self.setting.accelerator.num_processes
        return max(1, min(self.parts or 1, fewest // 2))

    def _share(self, batch: Batch) -> float:
        """What this process's mean loss counts in the mean over processes: 1 where all have as many images."""
        return len(batch.labels) * self.setting.accelerator.num_processes / self._whole

    @torch.no_grad()
    def _note(self, result: StepResult, turn: Turn, batch: Batch, number: int) -> None:
        count = len(batch.labels)
        for name, term in result.loss.terms.items():
            prefix = "" if len(self.stage.turns) == 1 else f"turn{number}_"
            self.meter.add(f"loss_{prefix}{name}", term * count)
        if result.output is not None and number == 0:
            wrong = (result.output.logits.argmax(2) != heaviest_labels(batch.labels)[:, None]).sum(0)
            for peer, errors in zip(self.stage.peers, wrong, strict=False):
                self.meter.add(f"train_error_{peer}", 100 * errors)
        if number == 0:
            self.meter.add("images", torch.full((), count, device=batch.labels.device))

    def end_epoch(self) -> Row:
        """Measure the epoch that was just trained, and move to the next.

        Raises:
            UserError: The loss is no number any more.
        """
        row = self.figures(sum_over_processes(self.meter.sums, self.setting.accelerator))
        self.epoch, self.step, self.seconds = self.epoch + 1, 0, 0.0
        self.meter.restart()
        if self.averages is not None:
            self.averages.after_epoch(self.epoch, self.epochs)
            if self.epoch == self.epochs and self.averages.needs_statistics:
                row |= renew_statistics(self.averages, self.setting, row, self.index, self.epochs)
        return row

    def figures(self, sums: dict[str, Tensor] | None = None) -> Row:
        """The current epoch's row so far, of these sums; None for this process's own.

        Raises:
            UserError: The loss is no number any more.
        """
        sums = dict(self.meter.sums if sums is None else sums)
        images = sums.pop("images").item()
        means = {name: value.item() / images for name, value in sums.items()}
        for name, value in means.items():
            if not math.isfinite(value):
                raise UserError(
                    f"stage {self.stage.name}, epoch {self.epoch + 1}: {name} became {value}; lower "
                    "⟨recipe.learning_rate⟩, set ⟨recipe.clip_norm 1⟩, or use ⟨precision fp32⟩"
                )
        loss = sum(value for name, value in means.items() if name.startswith("loss_"))
        counted = {} if self.flops_per_image is None else {"training_flops": self.flops_per_image * images}
        return {
            "stage": self.stage.name,
            "epoch": self.epoch + 1,
            "learning_rate": self.rate,
            "seconds": round(self.seconds, 3),
            "images_per_second": round(images / max(self.seconds, 1e-9), 1),
            "loss": loss,
            **counted,
            **means,
        }

    def predict(self, split: str, network: nn.Module | None = None) -> Predictions:
        """The answers of the network, or of its average, to the images of ``validation`` or ``test``."""
        network = network or self.stage.network
        assert network is not None
        accelerator = self.setting.accelerator
        with autocast(accelerator.device, self.setting.options.precision):
            return predict_split(network, self.setting.data, split, accelerator)

    def measure_average(self, split: str) -> Row:
        """Error and NLL of every peer's and the ensemble's average, where there is one by now."""
        if self.averages is None or not self.averages.begun(self.epoch, self.epochs):
            return {}
        return self._errors(split, self.predict(split, self.averages.network), AVERAGE)

    def _errors(self, split: str, predictions: Predictions, ending: str = "") -> Row:
        return {
            f"{split}_{measure}_{name}{ending}": value
            for name, logits in predictions.by_name(self.stage.peers).items()
            for measure, value in errors_and_nll(logits, predictions.labels).items()
        }

    def measure(self, split: str, predictions: Predictions) -> Row:
        """Error, NLL and mean gate weight of every peer and the ensemble, named by ``validation`` or ``test``."""
        row = self._errors(split, predictions)
        if predictions.weights is not None:
            for name, weight in zip(self.stage.peers, predictions.weights.mean(0).tolist(), strict=False):
                row[f"{split}_weight_{name}"] = weight
        return row


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    """A schedule's state without functions, which are made again."""
    return {name: value for name, value in state.items() if not callable(value)}
