"""The stages of one training, in order."""

from collections.abc import Iterable, Iterator
from math import inf
from typing import Any

import torch

from coterie.console.interrupt import Interrupted
from coterie.console.progress import StageState
from coterie.console.time_left import Watch
from coterie.data import ImageData
from coterie.data.say import plural
from coterie.errors import UserError
from coterie.methods import Method, Stage, Task
from coterie.metrics import Row
from coterie.records import AVERAGE
from coterie.run import Run
from coterie.seeds import mix
from coterie.training.answers import prepare
from coterie.training.before.pace import Pace, are_alike
from coterie.training.delivery import Delivery, deliver
from coterie.training.distribution import find_signal
from coterie.training.folder.checkpoint import SavedStage, check_data, describe_data
from coterie.training.folder.run_folder import RunFolder
from coterie.training.folder.trackers import Log
from coterie.training.modules import load_modules, place, stage_modules, states_of
from coterie.training.stages import Setting, StageRun
from coterie.training.stages.averaging import Averages, Earlier, make_averages
from coterie.training.start import Start
from coterie.training.surroundings import set_switches
from coterie.training.together import give_way, takes_turns


def make_stages(method: Method, task: Task, data: ImageData, seed: int) -> Iterator[Stage]:
    """The method's stages, each built from a seed of its own.

    Raises:
        UserError: A stage learns from a validation split, and the data have none.
    """
    stages = method.stages(task)
    index = 0
    while True:
        torch.manual_seed(mix(seed, "stage", index))
        stage = next(stages, None)
        if stage is None:
            return
        if stage.hooks.after_validation is not None and data.validation is None:
            raise UserError(f"method '{method.name}' needs a validation split; add ⟨data.validation 0.1⟩")
        yield stage
        index += 1


class Session:
    """A training from its beginning, or from its last checkpoint, to its end or to a signal.

    Args:
        folder: The Run's.
        method: What is trained.
        setting: The run's.
        stop: Signals that came.
        log: Takes an epoch's row and its number, for trackers.
        resume: Whether to go on from the last checkpoint, if there is one.
        start: A finished Run to go on from; None for none.
    """

    def __init__(
        self,
        folder: RunFolder,
        method: Method,
        setting: Setting,
        stop: list[int],
        log: Log,
        resume: bool,
        start: Start | None = None,
    ) -> None:
        self.folder, self.method, self.setting = folder, method, setting
        self.stop, self.log, self.start = stop, log, start
        self.images = describe_data(setting.data)
        self.announces = setting.reporter.show and not resume  # what is chosen is said when a run begins
        self.saved = folder.load_last() if resume else None
        self.best: dict[str, Any] = {}
        self.earlier = Earlier()
        self.rows: list[Row] = []
        if self.saved is not None:
            check_data(self.saved, setting.data, folder.path)
            self.best = self.saved["best"]
            self.rows = rows_until(self.saved, Run(folder.path).metrics)

    def run(self, stages: Iterable[Stage]) -> None:
        """Train every stage, or load it where an earlier session has finished it; then deliver the last one."""
        for index, stage in enumerate(stages):
            if self.saved is not None and index < self.saved["stage"]:
                self._load_stage(stage, self.folder.load_states(f"stage{index}"))
            elif self.start is not None and index < self.start.last:
                states = self.start.states(index)
                self._load_stage(stage, states)
                self.folder.save(f"stage{index}", states)
            else:
                averages = self._train_stage(stage, index)
        self.folder.check()
        delivery = Delivery(stage, averages, self._prefers_average())
        before = None if self.start is None else self.start.card
        deliver(self.folder.path, self.method, delivery, self.setting, self.rows, self.best.get("epoch"), before)

    def _prefers_average(self) -> bool:
        """Whether averaged weights are the ones to go on from: the validation split's choice, or the recipe's."""
        if "average" in self.best:
            return bool(self.best["average"])
        return self.setting.recipe.deliver == "average"

    def _load_stage(self, stage: Stage, states: dict[str, dict[str, Any]]) -> None:
        """Load a stage that an earlier session, or the Run that this one starts from, has finished."""
        place(stage, self.setting.accelerator.device)
        averages = make_averages(stage, self.setting.recipe, self.earlier)
        modules = stage_modules(stage) | ({} if averages is None else averages.modules())
        load_modules(modules, states)
        if averages is not None:
            averages.hand_on(self.earlier)

    def _train_stage(self, stage: Stage, index: int) -> Averages | None:
        setting, names = self.setting, self.method.stage_names()
        epochs = setting.epochs_of(self.method, stage)
        if self.start is not None and self.saved is None:
            self.start.load_last(stage)
        running = StageRun(stage, index, epochs, setting, self.earlier)
        if self.saved is not None and self.saved["stage"] == index:
            running.load(self.saved)
        else:
            self.best = {}
        self.saved = None
        if stage.teacher is not None:
            prepare(stage.teacher, setting, self.folder.checkpoints, running.steps_done > 0)
        left = len(names) - names.index(stage.name)  # of the names before it some may not have been needed
        place = "" if index + left == 1 else f"stage {index + 1} of {index + left}"
        later = left - 1 if left == 1 or are_alike(self.method) else None
        watch = Watch(running.total_steps, running.steps_done, later)
        chosen = setting.data.validation is not None and stage.selects  # then both are candidates until the end
        averaged = setting.recipe.deliver == "average" and running.averages is not None and not chosen
        first = stage.peers[0] + AVERAGE if averaged else ""
        with setting.reporter.stage(StageState(stage.name, epochs, watch, place, rows=self.rows, delivered=first)):
            pace = Pace(running, self.method) if self.announces else None
            while running.epoch < epochs and not self._has_waited(running):
                self._train_epoch(running, pace)
        if running.epoch < epochs:
            setting.reporter.say(
                f"stage {stage.name} ends after {plural(running.epoch, 'epoch')}: the validation error was lowest "
                f"after epoch {self.best['epoch']} (patience {setting.options.patience})"
            )
        if self.best and stage.network is not None:
            load_modules(running.modules(), self.folder.load_states("best"))
        if running.averages is not None:
            if left > 1 and self._prefers_average():
                running.averages.load_into_stage()
            running.averages.hand_on(self.earlier)
        self.folder.save(f"stage{index}", states_of(running.modules()))
        return running.averages

    def _has_waited(self, running: StageRun) -> bool:
        """Whether the validation error has not fallen for as many epochs as the user waits."""
        patience = self.setting.options.patience
        return patience is not None and bool(self.best) and running.epoch - self.best["epoch"] >= patience

    def _train_epoch(self, running: StageRun, pace: Pace | None) -> None:
        for _ in running.run_epoch():
            if pace is not None:
                pace.after_step()
            self._report_step(running)
            self._give_way()
            if number := find_signal(self.stop, running.steps_done, self.setting.accelerator):
                self._save(running)
                where = f"epoch {running.epoch + 1}, step {running.step} of stage {running.stage.name}"
                raise Interrupted(number, where)
        self.folder.check()
        row = running.end_epoch()
        if running.stage.network is not None:
            row |= self._measure(running)
        self.rows.append(row)
        self.setting.reporter.epoch(self.rows)
        self.folder.write_rows(self.rows)
        self.log(row, len(self.rows))
        self._save(running)

    def _give_way(self) -> None:
        """Let other trainings of this process make a step, if there are any; they set PyTorch's switches as well."""
        if takes_turns():
            if (asked := give_way()) is not None:
                self.stop.append(asked)
            set_switches(self.setting.options.threads, self.setting.options.deterministic)

    def _report_step(self, running: StageRun) -> None:
        """Move the progress bar; its figures are fetched from the device now and then, for that waits for it."""
        reporter, figures = self.setting.reporter, None
        every = max(1, running.steps_per_epoch // 20)
        if running.step % every == 0 and (reporter.wants_detail or running.step % 50 == 0):
            figures = running.figures()
        reporter.step(figures)

    def _measure(self, running: StageRun) -> Row:
        """The figures of an epoch on the validation and test images, where it has them."""
        row: Row = {}
        if self.setting.data.validation is not None:
            row |= self._validate(running)
            if running.stage.selects:
                self._keep_best(running, row)
        if (
            running.epoch % self.setting.options.test_every == 0
            or running.epoch == running.epochs
            or self._has_waited(running)
        ):
            row |= running.measure("test", running.predict("test")) | running.measure_average("test")
        return row

    def _validate(self, running: StageRun) -> Row:
        """Measure the validation images, and let the stage learn from its answers to them where it does."""
        predictions = running.predict("validation")
        learn = running.stage.hooks.after_validation
        if learn is not None:
            learn(predictions.logits, predictions.labels)
        return running.measure("validation", predictions) | running.measure_average("validation")

    def _keep_best(self, running: StageRun, row: Row) -> None:
        name = f"validation_error_{running.stage.peers[0]}"
        error, averaged = float(row[name]), float(row.get(name + AVERAGE, inf))
        if not self.best or min(error, averaged) < self.best["error"]:
            chosen = {"average": float(averaged < error)} if running.averages is not None else {}
            self.best = {"error": min(error, averaged), "epoch": running.epoch, **chosen}
            self.folder.save("best", states_of(running.modules()))

    def _save(self, running: StageRun) -> None:
        self.folder.save("last", running.state() | {"best": self.best, "data": self.images})


def rows_until(saved: SavedStage, rows: list[Row]) -> list[Row]:
    """The rows that a checkpoint knows of; what a killed session wrote after it is trained again."""
    names = list(dict.fromkeys(row["stage"] for row in rows))
    end = saved["stage"], saved["epoch"]
    return [row for row in rows if (names.index(row["stage"]), row["epoch"]) <= end]
