"""Train a method on data into a Run folder, from the beginning or from where a run stopped."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from torch import nn

from coterie.console.interrupt import Interrupted, stop_signals
from coterie.console.progress import Reporter, tensorboard_writer
from coterie.data import ImageData, keep_split, write_split
from coterie.errors import UserError, unknown_name
from coterie.evaluation.costs import cost
from coterie.files import user_path, write_text
from coterie.methods import Method, Stage, Task
from coterie.networks.zoo import Backbone
from coterie.records import Configuration
from coterie.run import Row, Run, write_metrics
from coterie.seeds import mix
from coterie.training import checkpoint
from coterie.training.checkpoint import SavedStage
from coterie.training.delivery import deliver
from coterie.training.distribution import LOCK, agreed, make_accelerator, of_first, only_training
from coterie.training.options import DeviceChoice, TrainingOptions, check_objects, configuration, resume_differences
from coterie.training.precision import PrecisionChoice, resolve_precision, try_precisions
from coterie.training.preflight import check_first_stage
from coterie.training.recipes import Recipe
from coterie.training.stages import Setting, StageRun, all_modules, load_modules, place
from coterie.training.surroundings import keep_surroundings, set_switches
from coterie.training.teachers import open_teacher, prepare


def train(  # noqa: D417  (an option is described once, in TrainingOptions)
    method: Method,
    data: ImageData,
    *,
    out: str | Path,
    recipe: Recipe | None = None,
    resume: bool = False,
    progress: bool = True,
    epochs: int = 30,
    batch_size: int | None = None,
    seed: int = 0,
    precision: PrecisionChoice = "auto",
    threads: int | None = None,
    device: DeviceChoice = "auto",
    timeout_minutes: float = 30,
    compile: bool = False,
    deterministic: bool = False,
    test_every: int = 1,
    tensorboard: bool = True,
) -> Run:
    """Train ``method`` on ``data`` and give the Run.

    The same configuration gives the same weights, resumed or not: to the last bit on the CPU of one machine; on CUDA to
    rounding, and to the last bit if ``deterministic``. A module of your own is trained in place: it is on the device it
    came from when this returns or raises, wherever it was trained. So are PyTorch's switches as they were.

    The arguments from ``epochs`` on are the fields of :class:`~coterie.training.TrainingOptions`, which describes them
    and their ranges: ``help(coterie.training.TrainingOptions)``.

    Args:
        method: What is trained, with its network and options.
        data: As made by :func:`coterie.data.load`.
        out: The Run's folder, which must not exist yet unless ``resume``.
        recipe: Optimiser and schedule; None for one-cycle SGD.
        resume: Go on from the folder's last checkpoint; from the beginning where there is none.
        progress: Whether anything is printed.

    Raises:
        UserError: An option is wrong, the folder exists or another command trains into it, the checkpoint does not fit,
            the loss became NaN, the disk is full, another process has ended.
        Interrupted: SIGTERM or Ctrl-C; the checkpoint is written.
    """
    check_objects(method, data, out, recipe, resume=resume, progress=progress)
    options = TrainingOptions(
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        precision=precision,
        threads=threads,
        device=device,
        timeout_minutes=timeout_minutes,
        compile=compile,
        deterministic=deterministic,
        test_every=test_every,
        tensorboard=tensorboard,
    )
    path = user_path(out)
    accelerator = make_accelerator(device, timeout_minutes)
    if device in ("cuda", "mps") and accelerator.device.type != device:
        raise UserError(f"⟨device {device}⟩: not available here; use ⟨device auto⟩ or ⟨device cpu⟩")
    reporter = Reporter(progress and accelerator.is_main_process)
    data = keep_split(data, path, resume)
    options = options.fit_to(data, reporter.say)
    with only_training(path, accelerator) as held, keep_surroundings(method):
        return _train(method, data, path, recipe or Recipe(), options, accelerator, reporter, held, resume)


def _train(
    method: Method,
    data: ImageData,
    path: Path,
    recipe: Recipe,
    options: TrainingOptions,
    accelerator: Accelerator,
    reporter: Reporter,
    held: Callable[[], bool],
    resume: bool,
) -> Run:
    """What ``train`` does in a folder that no other command trains into."""
    previous = _previous(path, resume, reporter)
    if previous is not None:
        options = options.take_over(previous)
    set_switches(options.threads, options.deterministic)
    _check_stage_names(method)
    task = Task(
        len(data.classes), data.channels, data.image_size, options.epochs, lambda source: open_teacher(source, data)
    )
    iterator = _stages(method, task, options.seed)
    first = next(iterator)
    _check_validation(method, first, data)
    check_first_stage(first, data)
    options = options.settle(of_first(_resolve(options.precision, first, method, task, data, accelerator)))
    config = configuration(method, data, recipe, options)
    if previous is not None:
        for line in resume_differences(path, config, previous):
            reporter.say(line)
        if (path / "model.json").is_file():
            reporter.say(f"{path}: this run is finished; nothing to do")
            return Run(path, _own(method))
    accelerator.wait_for_everyone()  # all have looked at the folder
    if accelerator.is_main_process:
        write_split(path, data)
        write_text(path / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    setting = Setting(
        data,
        accelerator,
        recipe,
        options.batch_size or 0,
        options.seed,
        options.precision,
        reporter,
        options.compile,
    )
    with (
        tensorboard_writer(path, options.tensorboard and accelerator.is_main_process) as writer,
        stop_signals() as stop,
    ):
        _Training(path, method, task, setting, stop, writer, options.test_every, held, previous is not None).run(
            first, iterator
        )
    accelerator.wait_for_everyone()  # all is written
    return Run(path, _own(method))


class _Training:
    """The stages of one run in order."""

    def __init__(
        self,
        path: Path,
        method: Method,
        task: Task,
        setting: Setting,
        stop: list[int],
        writer: Any,
        test_every: int,
        held: Callable[[], bool],
        resume: bool,
    ) -> None:
        self.path, self.method, self.task, self.setting = path, method, task, setting
        self.stop, self.writer, self.test_every, self.held = stop, writer, test_every, held
        self.main = setting.accelerator.is_main_process
        self.images = checkpoint.describe_data(setting.data)
        last = path / "checkpoints" / "last.safetensors"
        self.saved: SavedStage | None = checkpoint.load_stage(last) if resume and last.is_file() else None
        if self.saved is not None:
            checkpoint.check_data(self.saved, setting.data, path)
        self.best: dict[str, Any] = {} if self.saved is None else self.saved["best"]
        self.rows: list[Row] = self._kept_rows()

    def run(self, first: Stage, rest: Iterator[Stage]) -> None:
        stage: Stage | None = first
        index, last = 0, first
        while stage is not None:
            last = stage
            if self.saved is not None and index < self.saved["stage"]:
                place(stage, self.setting.accelerator.device)
                load_modules(all_modules(stage), checkpoint.load_states(self._stage_file(index)))
            else:
                self._train_stage(stage, index)
            stage, index = next(rest, None), index + 1
        self._check_folder()
        deliver(self.path, self.method, last, self.setting, self.rows, self.best.get("epoch"))

    def _train_stage(self, stage: Stage, index: int) -> None:
        setting = self.setting
        _check_validation(self.method, stage, setting.data)
        epochs = self.method.epochs.get(stage.name, stage.epochs or self.task.epochs)
        running = StageRun(stage, index, epochs, setting)
        if self.saved is not None and self.saved["stage"] == index:
            running.load(self.saved)
        else:
            self.best = {}
        self.saved = None
        if stage.teacher is not None:
            prepare(stage.teacher, setting, self.path / "checkpoints", running.steps_done > 0)
        count = len(self.method.stage_names())
        title = stage.name if count == 1 else f"{stage.name} (stage {index + 1} of {count})"
        with setting.reporter.stage(title, running.total_steps, running.steps_done, epochs):
            while running.epoch < epochs:
                self._train_epoch(running)
        if self.best and stage.network is not None:
            load_modules(all_modules(stage), checkpoint.load_states(self.path / "checkpoints" / "best.safetensors"))
        if self.main:
            checkpoint.save(self._stage_file(index), {n: m.state_dict() for n, m in all_modules(stage).items()})

    def _train_epoch(self, running: StageRun) -> None:
        reporter = self.setting.reporter
        every = max(1, running.steps_per_epoch // 20)
        for _ in running.run_epoch():
            figures = None
            if running.step % every == 0 and (reporter.wants_detail or running.step % 50 == 0):
                figures = running.figures()
            reporter.step(figures)
            if number := agreed(self.stop, running.steps_done, self.setting.accelerator):
                self._checkpoint(running)
                where = f"epoch {running.epoch + 1}, step {running.step} of stage {running.stage.name}"
                raise Interrupted(number, where)
        self._check_folder()
        row = running.end_epoch()
        if running.stage.network is not None:
            if self.setting.data.validation is not None:
                row |= self._validate(running)
                if running.stage.selects:
                    self._keep_best(running, row)
            if running.epoch % self.test_every == 0 or running.epoch == running.epochs:
                row |= running.measure("test", running.predict("test"))
        self.rows.append(row)
        reporter.epoch(self.rows, running.epochs)
        if self.main:
            write_metrics(self.path / "metrics.csv", self.rows)
            self._to_tensorboard(row)
        self._checkpoint(running)

    def _validate(self, running: StageRun) -> Row:
        """Measure the validation images, and let the stage learn from its answers to them where it does."""
        predictions = running.predict("validation")
        learn = running.stage.hooks.after_validation
        if learn is not None:
            learn(predictions.logits, predictions.labels)
        return running.measure("validation", predictions)

    def _keep_best(self, running: StageRun, row: Row) -> None:
        error = row[f"validation_error_{running.stage.peers[0]}"]
        if not self.best or error < self.best["error"]:
            self.best = {"error": error, "epoch": running.epoch}
            if self.main:
                states = {name: module.state_dict() for name, module in all_modules(running.stage).items()}
                checkpoint.save(self.path / "checkpoints" / "best.safetensors", states)

    def _checkpoint(self, running: StageRun) -> None:
        state = running.state() | {"best": self.best, "data": self.images}
        self._check_folder()
        if self.main:
            checkpoint.save(self.path / "checkpoints" / "last.safetensors", state)

    def _kept_rows(self) -> list[Row]:
        """The rows that the checkpoint knows of; what a killed session wrote after it is trained again."""
        if self.saved is None:
            return []
        done = self.saved["epoch"]
        rows = Run(self.path).metrics
        if not rows:
            return []
        names = list(dict.fromkeys(str(row["stage"]) for row in rows))
        place = {name: index for index, name in enumerate(names)}
        here = self.saved["stage"]
        return [row for row in rows if (place[str(row["stage"])], row["epoch"]) <= (here, done)]

    def _check_folder(self) -> None:
        """A folder that was removed would be made anew, without what is needed to go on, or be another run's."""
        if not self.held():
            raise UserError(f"{self.path}: was removed while it was trained into; train again")

    def _stage_file(self, index: int) -> Path:
        return self.path / "checkpoints" / f"stage{index}.safetensors"

    def _to_tensorboard(self, row: Row) -> None:
        if self.writer is None:
            return
        try:
            for name, value in row.items():
                if isinstance(value, (int, float)) and name != "epoch":
                    self.writer.add_scalar(f"{row['stage']}/{name}", value, row["epoch"])
            self.writer.flush()
        except OSError as error:
            self.writer = None
            self.setting.reporter.say(
                f"{self.path / 'tensorboard'}: cannot be written ({error.strerror}); the figures go on in metrics.csv"
            )


def _stages(method: Method, task: Task, seed: int) -> Iterator[Stage]:
    """The method's stages, each built from a seed of its own."""
    stages = method.stages(task)
    index = 0
    while True:
        torch.manual_seed(mix(seed, "stage", index))
        stage = next(stages, None)
        if stage is None:
            return
        yield stage
        index += 1


def _check_validation(method: Method, stage: Stage, data: ImageData) -> None:
    if stage.hooks.after_validation is not None and data.validation is None:
        raise UserError(f"method '{method.name}' needs a validation split; add ⟨data.validation 0.1⟩")


def _check_stage_names(method: Method) -> None:
    for name in method.epochs:
        if name not in method.stage_names():
            raise unknown_name(f"stage in ⟨method.epochs⟩ (of method '{method.name}')", name, method.stage_names())


def _own(method: Method) -> nn.Module | Callable[..., nn.Module] | None:
    """A module or factory of the user's own, which no name can bring back."""
    name = Backbone.of(method.network).source
    return None if isinstance(name, str) else name


def _previous(path: Path, resume: bool, reporter: Reporter) -> Configuration | None:
    """The configuration of the run to go on with, if there is one."""
    if not resume:
        if path.exists() and (not path.is_dir() or any(file.name != LOCK for file in path.iterdir())):
            raise UserError(f"{path}: exists already; go on with ⟨resume true⟩, or choose another ⟨out⟩")
        return None
    if not (path / "config.yaml").is_file():
        reporter.say(f"{path}: no run to resume there; starting from the beginning")
        return None
    if not any((path / place).is_file() for place in ("model.json", "checkpoints/last.safetensors")):
        reporter.say(f"{path}: no checkpoint yet; starting from the beginning")
    return Run(path).config


def _resolve(choice: str, stage: Stage, method: Method, task: Task, data: ImageData, accelerator: Accelerator) -> str:
    if choice == "trial":
        import copy

        from coterie.data import training_batches

        module = copy.deepcopy(stage.turns[0].module).to(accelerator.device)
        size = min(64, len(data.train))
        batch = next(iter(training_batches(data, batch_size=size, seed=0, stage=0, epoch=0, views=stage.views)))
        return try_precisions(module, batch.to(accelerator.device))
    network = stage.network
    if network is None:  # the first stage trains no classifier: what is delivered is as large as what later ones train
        with torch.random.fork_rng(devices=[]):
            network = next(iter(method.deliverables(task).values()))
    flops = cost(network, data.channels, data.image_size).flops
    return resolve_precision(choice, accelerator.device, flops)  # type: ignore[arg-type]
