"""Train a method on data into a Run folder, from the beginning or from where a run stopped."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Literal

from coterie.console.interrupt import stop_signals
from coterie.console.progress import Reporter
from coterie.data import ImageData, keep_split
from coterie.extras import need
from coterie.files import user_path
from coterie.methods import Method, Stage, Task
from coterie.networks.zoo import Backbone
from coterie.recipes import Recipe, TrainingFacts, default_recipe, recipe_class
from coterie.run import Run
from coterie.teachers import open_teacher
from coterie.training.before.advice import likely_mistakes
from coterie.training.before.announce import opening_lines
from coterie.training.before.preflight import (
    check_capture,
    check_first_stage,
    check_patience,
    check_soft_targets,
    check_stage_names,
    handed_back,
    names_for_rates,
    with_drop_path,
)
from coterie.training.distribution import make_accelerator, only_training, share_choice
from coterie.training.folder.resume import (
    check_resumable,
    configuration,
    previous_configuration,
    recorded_recipe,
)
from coterie.training.folder.run_folder import RunFolder
from coterie.training.folder.trackers import open_trackers
from coterie.training.options import DeviceChoice, TrainingOptions, check_objects
from coterie.training.precision import PrecisionChoice, choose_precision
from coterie.training.session import Session, make_stages
from coterie.training.stages import Setting
from coterie.training.start import Start
from coterie.training.surroundings import keep_surroundings, set_switches


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
    timeout_minutes: float = 30.0,
    compile: bool = False,
    capture: bool = False,
    deterministic: bool = False,
    patience: int | None = None,
    accumulate: int | Literal["auto"] = 1,
    sync_batch_norm: bool = False,
    start_from: str | None = None,
    test_every: int = 1,
    track: str | None = None,
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
        recipe: How weights, labels and images are treated; None for ``finetune`` where the network starts from
            published weights or a file's, else ``modern``.
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
        capture=capture,
        deterministic=deterministic,
        patience=patience,
        accumulate=accumulate,
        sync_batch_norm=sync_batch_norm,
        start_from=start_from,
        test_every=test_every,
        track=track,
    )
    for name in options.trackers:
        need(name, name)
    path = user_path(out)
    accelerator = make_accelerator(options)
    reporter = Reporter(progress and accelerator.is_main_process)
    data = keep_split(data, path, resume)
    if recipe is None:
        recorded = recorded_recipe(path) if resume else None
        recipe = recipe_class(recorded or default_recipe(Backbone.of(method.network).starts_trained))()
    setting = Setting(data, accelerator, recipe, options.fit_to(data), reporter)
    with only_training(path, accelerator) as folder, keep_surroundings(method):
        _train(method, setting, folder, resume)
    source = Backbone.of(method.network).source  # a module or factory of the user's own: no name can bring it back
    return Run(
        path, None if isinstance(source, str) else source, method=type(method), data=None if data.options else data
    )


def settle(method: Method, setting: Setting) -> tuple[Method, Stage, Iterator[Stage], Setting]:
    """Build a method's first stage, and leave nothing of the setting open.

    Args:
        method: What is trained.
        setting: As the user gave it.

    Returns:
        The method, with its network's drop path; its first stage, its later ones; and the setting.

    Raises:
        UserError: An option is wrong, or the network does not fit the data.
    """
    method = with_drop_path(method, setting.recipe)
    data, options, accelerator = setting.data, setting.options, setting.accelerator
    set_switches(options.threads, options.deterministic)
    check_stage_names(method)
    check_capture(options, method)
    task = Task(
        len(data.classes), data.channels, data.image_size, options.epochs, lambda source: open_teacher(source, data)
    )
    stages = make_stages(method, task, data, options.seed)
    first = next(stages)
    check_first_stage(first, data)
    precision = share_choice(choose_precision(options.precision, first, method, task, data, accelerator.device))
    epochs = setting.epochs_of_delivery(method, first)
    facts = TrainingFacts.of(handed_back(first, method, task), len(data.train), epochs, setting.batch_size)
    setting = replace(setting, options=options.settle(precision), recipe=setting.recipe.fit_to(facts))
    check_soft_targets(method, setting.recipe)
    setting = replace(setting, names=names_for_rates(method, task, setting.recipe))
    check_patience(options, setting.recipe)
    return method, first, stages, setting


def _train(method: Method, setting: Setting, folder: RunFolder, resume: bool) -> None:
    """What ``train`` does in a folder that no other command trains into."""
    data, accelerator, say = setting.data, setting.accelerator, setting.reporter.say
    previous = previous_configuration(folder.path, resume, say)
    if previous is not None:
        setting = replace(setting, options=setting.options.take_over(previous))
    method, first, stages, setting = settle(method, setting)
    start = None if setting.options.start_from is None else Start(setting.options.start_from, method, data)
    config = configuration(method, data, setting.recipe, setting.options)
    if previous is not None:
        check_resumable(folder.path, config, previous, say)
        if folder.is_finished:
            say(f"{folder.path}: this run is finished; nothing to do")
            return
    accelerator.wait_for_everyone()  # all have looked at the folder
    folder.begin(data, config)
    if previous is None:
        for line in [*opening_lines(method, first, setting), *likely_mistakes(method, first, setting)]:
            say(line)
    trackers = open_trackers(folder, setting.options.trackers, config, len(method.stage_names()) > 1, say)
    with trackers as log, stop_signals() as stop:
        session = Session(folder, method, setting, stop, log, previous is not None, start)
        session.run(chain([first], stages))
    accelerator.wait_for_everyone()  # all is written
