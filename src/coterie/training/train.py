"""Train a method on data into a Run folder, from the beginning or from where a run stopped."""

import json
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch
import yaml
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import nn

from coterie import __version__
from coterie.data import ImageData
from coterie.errors import UserError
from coterie.evaluation.cost import cost
from coterie.evaluation.predictions import measures
from coterie.files import replacing, write_text
from coterie.methods import Method, Spec, Stage
from coterie.networks.zoo import Network
from coterie.run import Row, Run, portable_state, write_metrics
from coterie.training import checkpoint
from coterie.training.configuration import Options, configuration, method_options, resume_differences
from coterie.training.precision import PrecisionChoice, resolve_precision, try_precisions
from coterie.training.progress import Reporter, epoch_line
from coterie.training.recipes import Recipe
from coterie.training.seeds import mix
from coterie.training.stages import Setting, StageRun, load_modules, predict_split

DeviceChoice = Literal["auto", "cpu", "cuda", "mps"]


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop, has written a checkpoint, and can go on with ``resume=True``."""

    def __init__(self, number: int, where: str) -> None:
        super().__init__(where)
        self.number = number


def train(
    method: Method,
    data: ImageData,
    *,
    epochs: int = 30,
    out: str | Path,
    batch_size: int | None = None,
    seed: int = 0,
    recipe: Recipe | None = None,
    resume: bool = False,
    precision: PrecisionChoice = "auto",
    threads: int | None = None,
    device: DeviceChoice = "auto",
    compile: bool = False,
    tensorboard: bool = True,
    progress: bool = True,
) -> Run:
    """Train ``method`` on ``data`` and give the Run.

    Args:
        method: What is trained, with its network and options.
        data: As made by :func:`coterie.data.load`.
        epochs: The length of each stage.
        out: The Run's folder, which must not exist yet unless ``resume``.
        batch_size: Images in a step over all processes; None for 128, or all images where there are fewer.
        seed: Of initialisation, order, augmentation and noise.
        recipe: Optimiser and schedule; None for one-cycle SGD.
        resume: Go on from the folder's last checkpoint; from the beginning where there is none.
        precision: ``auto`` is a fixed rule, ``trial`` measures, ``bf16`` and ``fp32`` are themselves.
        threads: CPU threads; None for PyTorch's own choice.
        device: ``auto`` takes CUDA or MPS where present.
        compile: Whether the network goes through torch.compile.
        tensorboard: Whether figures are also written for TensorBoard.
        progress: Whether anything is printed.

    Raises:
        UserError: An option is wrong, the folder exists, the checkpoint does not fit, the loss became NaN.
        Interrupted: SIGTERM or Ctrl-C; the checkpoint is written.
    """
    options = Options(epochs, batch_size, seed, recipe or Recipe(), precision, threads, device, compile)
    path = Path(out)
    accelerator = Accelerator(cpu=device == "cpu")
    if device in ("cuda", "mps") and accelerator.device.type != device:
        raise UserError(f"--device {device}: not available here; use --device auto or --device cpu")
    reporter = Reporter(progress and accelerator.is_main_process)
    options = options.fitted(data, reporter.say)
    previous = _previous(path, resume, reporter)
    if previous is not None:
        options = options.reusing(previous)
    torch.set_num_threads(options.threads or torch.get_num_threads())
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    spec = Spec(len(data.classes), data.channels, data.image_size, options.epochs)
    iterator = _stages(method, spec, seed)
    first = next(iterator)
    options = options.resolved(_resolve(options.precision, first, data, accelerator))
    config = configuration(method, data, options)
    if previous is not None:
        resume_differences(path, config, previous)
        if (path / "model.json").is_file():
            reporter.say(f"{path}: this run is finished; nothing to do")
            return Run(path, _own(method))
    if accelerator.is_main_process:
        write_text(path / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    setting = Setting(
        data, accelerator, options.recipe, options.batch_size or 0, seed, options.precision, reporter, compile
    )
    with _writer(path, tensorboard and accelerator.is_main_process) as writer, _stop_signals() as stop:
        _Training(path, method, spec, setting, stop, writer).run(first, iterator)
    return Run(path, _own(method))


class _Training:
    """The stages of one run in order."""

    def __init__(self, path: Path, method: Method, spec: Spec, setting: Setting, stop: list[int], writer: Any) -> None:
        self.path, self.method, self.spec, self.setting = path, method, spec, setting
        self.stop, self.writer = stop, writer
        self.main = setting.accelerator.is_main_process
        last = path / "checkpoints" / "last.safetensors"
        self.saved: dict[str, Any] | None = checkpoint.load(last) if last.is_file() else None
        self.best: dict[str, Any] = (self.saved or {}).get("best", {})
        self.rows: list[Row] = self._kept_rows()

    def run(self, first: Stage, rest: Iterator[Stage]) -> None:
        stage: Stage | None = first
        index, last = 0, first
        while stage is not None:
            last = stage
            if self.saved is not None and index < self.saved["stage"]:
                load_modules(_all_modules(stage), checkpoint.load(self._stage_file(index)))
            else:
                self._train_stage(stage, index)
            if stage.finish is not None:
                stage.finish()
            stage, index = next(rest, None), index + 1
        self._deliver(last)

    def _train_stage(self, stage: Stage, index: int) -> None:
        setting = self.setting
        if stage.needs_validation and setting.data.validation is None:
            raise UserError(f"method '{self.method.name}' needs a validation split; add --data.validation 0.1")
        epochs = self.method.epochs.get(stage.name, stage.epochs or self.spec.epochs)
        running = StageRun(stage, index, epochs, setting)
        if self.saved is not None and self.saved["stage"] == index:
            running.load(self.saved)
        else:
            self.best = {}
        self.saved = None
        done = running.epoch * running.steps_per_epoch + running.step
        with setting.reporter.stage(stage.name, running.total_steps, done):
            while running.epoch < epochs:
                self._train_epoch(running)
        if self.best and stage.network is not None:
            load_modules(_all_modules(stage), checkpoint.load(self.path / "checkpoints" / "best.safetensors"))
        if self.main:
            checkpoint.save(self._stage_file(index), {n: m.state_dict() for n, m in _all_modules(stage).items()})

    def _train_epoch(self, running: StageRun) -> None:
        reporter = self.setting.reporter
        every = max(1, running.steps_per_epoch // 20)
        for _ in running.run_epoch():
            detail = None
            if running.step % every == 0 and (reporter.wants_detail or running.step % 50 == 0):
                detail = _detail(running.figures())
            reporter.step(detail)
            if self.stop:
                self._checkpoint(running)
                where = f"epoch {running.epoch + 1}, step {running.step} of stage {running.stage.name}"
                raise Interrupted(self.stop[0], where)
        row = running.end_epoch()
        if running.stage.network is not None:
            if self.setting.data.validation is not None:
                row |= running.measure("validation")
                self._keep_best(running, row)
            row |= running.measure("test")
        self.rows.append(row)
        reporter.say(epoch_line(running.stage.name, running.epoch, running.epochs, row))
        if self.main:
            write_metrics(self.path / "metrics.csv", self.rows)
            self._to_tensorboard(row)
        self._checkpoint(running)

    def _keep_best(self, running: StageRun, row: Row) -> None:
        error = row[f"validation_error_{running.stage.peers[0]}"]
        if not self.best or error < self.best["error"]:
            self.best = {"error": error, "epoch": running.epoch}
            if self.main:
                states = {name: module.state_dict() for name, module in _all_modules(running.stage).items()}
                checkpoint.save(self.path / "checkpoints" / "best.safetensors", states)

    def _checkpoint(self, running: StageRun) -> None:
        state = running.state() | {"best": self.best}
        if self.main:
            checkpoint.save(self.path / "checkpoints" / "last.safetensors", state)

    def _deliver(self, stage: Stage) -> None:
        """Measure the deliverables in float32 and write them; ``model.json`` comes last, and says all is there."""
        networks = dict(stage.deliver)
        card = self._card(networks, stage)
        if not self.main:
            return
        for number, (name, network) in enumerate(networks.items()):
            file = self.path / ("model.safetensors" if number == 0 else f"students/{name}.safetensors")
            with replacing(file) as temporary:
                save_file(portable_state(network), temporary)
        write_text(self.path / "model.json", json.dumps(card, indent=2, ensure_ascii=False) + "\n")

    def _card(self, networks: Mapping[str, nn.Module], stage: Stage) -> dict[str, Any]:
        data, name = self.setting.data, Network.of(self.method.network).name
        figures: dict[str, Any] = {}
        costs: dict[str, Any] = {}
        for student, network in networks.items():
            predictions = predict_split(network, data, "test", self.setting.accelerator)
            logits = predictions.logits[:, 0] if predictions.ensemble is None else predictions.ensemble
            figures[student] = measures(logits, predictions.labels)
            costs[student] = vars(cost(network, data.channels, data.image_size))
        if stage.network is not None:
            predictions = predict_split(stage.network, data, "test", self.setting.accelerator)
            for peer, logits in predictions.by_name(stage.peers).items():
                figures.setdefault(peer, measures(logits, predictions.labels))
            costs["training"] = vars(cost(stage.network, data.channels, data.image_size))
        return {
            "format": 1,
            "coterie": __version__,
            "method": self.method.name,
            "network": name if isinstance(name, str) else None,
            "options": method_options(self.method),
            "deliverables": list(networks),
            "peers": list(stage.peers),
            "classes": list(data.classes),
            "channels": data.channels,
            "image_size": list(data.image_size),
            "mean": list(data.mean),
            "std": list(data.std),
            "data": data.name,
            "selected": "best on validation" if self.best else "last",
            "epoch": self.best["epoch"] if self.best else self.rows[-1]["epoch"],
            "seconds": round(sum(float(row["seconds"]) for row in self.rows), 1),
            "test": figures,
            "cost": costs,
        }

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

    def _stage_file(self, index: int) -> Path:
        return self.path / "checkpoints" / f"stage{index}.safetensors"

    def _to_tensorboard(self, row: Row) -> None:
        if self.writer is not None:
            for name, value in row.items():
                if isinstance(value, (int, float)) and name != "epoch":
                    self.writer.add_scalar(f"{row['stage']}/{name}", value, row["epoch"])
            self.writer.flush()


def _stages(method: Method, spec: Spec, seed: int) -> Iterator[Stage]:
    """The method's stages, each built from a seed of its own."""
    stages = method.stages(spec)
    index = 0
    while True:
        torch.manual_seed(mix(seed, "stage", index))
        stage = next(stages, None)
        if stage is None:
            return
        yield stage
        index += 1


def _all_modules(stage: Stage) -> dict[str, nn.Module]:
    modules = {f"turn{index}": turn.module for index, turn in enumerate(stage.turns)}
    if stage.network is not None:
        modules["network"] = stage.network
    return modules | dict(stage.state)


def _own(method: Method) -> nn.Module | None:
    name = Network.of(method.network).name
    return name if isinstance(name, nn.Module) else None


def _previous(path: Path, resume: bool, reporter: Reporter) -> dict[str, Any] | None:
    """The configuration of the run to go on with, if there is one."""
    if not resume:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserError(f"{path}: exists already; go on with --resume, or choose another --out")
        return None
    if not (path / "config.yaml").is_file():
        reporter.say(f"{path}: no run to resume there; starting from the beginning")
        return None
    if not any((path / place).is_file() for place in ("model.json", "checkpoints/last.safetensors")):
        reporter.say(f"{path}: no checkpoint yet; starting from the beginning")
    return Run(path).config


def _resolve(choice: str, stage: Stage, data: ImageData, accelerator: Accelerator) -> str:
    if choice == "trial":
        import copy

        from coterie.data import training_batches

        module = copy.deepcopy(stage.turns[0].module).to(accelerator.device)
        size = min(64, len(data.train))
        batch = next(iter(training_batches(data, batch_size=size, seed=0, stage=0, epoch=0, views=stage.views)))
        return try_precisions(module, batch.to(accelerator.device))
    flops = 0
    if stage.network is not None:
        flops = cost(stage.network, data.channels, data.image_size).flops
    return resolve_precision(choice, accelerator.device, flops)  # type: ignore[arg-type]


def _detail(row: Row) -> str:
    parts = [f"{name.removeprefix('loss_')} {value:.3f}" for name, value in row.items() if name.startswith("loss_")]
    for name, value in row.items():
        if name.startswith("train_error_"):
            parts.append(f"{name.removeprefix('train_error_')} {100 - float(value):.1f}%")
    return "  ".join([*parts, f"{row['images_per_second']:.0f} images/s"])


@contextmanager
def _writer(path: Path, wanted: bool) -> Iterator[Any]:
    if not wanted:
        yield None
        return
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(path / "tensorboard"))
    try:
        yield writer
    finally:
        writer.close()


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """SIGTERM and Ctrl-C are noted, for the loop to finish its step; a second one acts at once."""
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
