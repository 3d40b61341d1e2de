"""``coterie study``: run a study, or see what it will cost."""

import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from coterie.cli.arguments import new_parser
from coterie.console.tables import table_console
from coterie.errors import UserError
from coterie.files import user_path
from coterie.studies import runner, smoke
from coterie.studies.check import check_scale
from coterie.studies.pools import RayExecutor, default_workers, make_process_pool
from coterie.studies.reading import load_study, study_names
from coterie.studies.results import Result, Results
from coterie.studies.study import Key, Scale, Study, Trial
from coterie.training.together import CardMemory, Together

console = Console(highlight=False)

_MOST_TOGETHER = 256  # threads, where memory says how many of them train


def study_parser(given: list[str]) -> ArgumentParser:
    """Options of ``coterie study``."""
    parser = new_parser()
    parser.add_argument("study", help=f"one of: {', '.join(study_names())}; or a YAML file of your own")
    parser.add_argument(
        "--scale", type=str, default="small", help="small fits two cores; paper is the published protocol"
    )
    parser.add_argument("--plan", action="store_true", help="say what it will cost, and run nothing")
    parser.add_argument(
        "--smoke", action="store_true", help="build each network and method, and try a step on random images"
    )
    parser.add_argument("--only", type=str, default="", help="regular expression on DATA/NETWORK/ARM/SEED")
    parser.add_argument("--seeds", type=int | None, default=None, help="the first so many; default all of the study's")
    parser.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="JSON file of results, gone on with if there; default STUDY-SCALE.json",
    )
    parser.add_argument("--runs", type=str, default="runs/studies", help="folder of the trainings")
    parser.add_argument(
        "--workers", type=int | None, default=None, help="trainings side by side; default one a GPU, else one a core"
    )
    parser.add_argument(
        "--together",
        type=int | Literal["auto"] | None,
        default=None,
        help="so many trainings at once on one CUDA device, in one process, each a captured step in turn; auto: as "
        "many as its memory holds",
    )
    parser.add_argument(
        "--ray", type=str | None, default=None, help="address of a Ray cluster over the same folders; auto, or local"
    )
    return parser


def run_study(given: Namespace) -> None:
    """Run a study's missing trials, or say what it will cost."""
    out = user_path(given.out) if given.out else None
    study = load_study(given.study)
    scale, only = study.scale(given.scale), _compile_pattern(given.only)
    if given.seeds is not None and given.seeds < 1:
        raise UserError(f"--seeds is {given.seeds}; use 1 or more")
    runs = user_path(given.runs)
    try:
        trials = scale.trials()
    except UserError as error:
        raise UserError(f"{given.study}: {error}") from error
    if given.smoke:
        _smoke(trials)
        return
    try:
        check_scale(scale, trials)
    except UserError as error:
        raise UserError(f"{given.study}: {error}") from error
    seeds = range(scale.seeds if given.seeds is None else given.seeds)
    chosen = [trial for trial in trials if only.search(trial.name) and trial.seed in seeds]
    if not chosen:
        of = f"study '{study.name}'" if given.seeds is None else f"study '{study.name}' with --seeds {given.seeds}"
        raise UserError(f"--only {given.only}: no trial of {of}; trials are named as {trials[0].name}")
    words = ["coterie", "study", given.study, "--scale", given.scale]
    head = Results(given.study, given.scale, " ".join(words))
    progress = runner.Progress(out or Path(f"{study.name}-{given.scale}.json"), head, trials, runs)
    todo = progress.missing(chosen)
    if given.plan:
        _plan(study, scale, progress, chosen, todo)
        return
    count, pools = _pools(given.workers, given.ray, given.together)
    _run(progress, todo, count, pools)


def _compile_pattern(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(f"⟨only {pattern}⟩: no regular expression ({error})") from error


def _pools(
    workers: int | None, ray: str | None, together: int | Literal["auto"] | None
) -> tuple[int, Callable[[], Executor]]:
    """How many trainings run at a time, and where."""
    for option, value in (("workers", workers), ("together", together)):
        if isinstance(value, int) and value < 1:
            raise UserError(f"--{option} is {value}; use 1 or more")
    if together is not None:
        if workers is not None or ray is not None:
            raise UserError("--together is for one process; leave out --workers and --ray")
        if not torch.cuda.is_available():
            raise UserError("--together fills a CUDA device, and there is none here; use --workers")
        return (_MOST_TOGETHER, lambda: Together(CardMemory())) if together == "auto" else (together, Together)
    if ray is not None:
        cluster = RayExecutor(ray)
        return workers or cluster.workers, lambda: cluster
    count = workers or default_workers()
    return count, partial(make_process_pool, count)


def _run(progress: runner.Progress, todo: Sequence[Trial], count: int, pools: Callable[[], Executor]) -> None:
    failed = 0
    try:
        with _bar() as bar:
            task = bar.add_task("", total=len(todo), left="")
            began, ended = time.monotonic(), set[Key]()

            def show(running: Sequence[Trial]) -> None:
                names = ", ".join(trial.name for trial in running)
                left = _left(todo, ended, count, time.monotonic() - began)
                bar.update(task, description=names, left=left, completed=len(ended))

            for result in runner.Scheduler(progress, todo, pools, count, show).run():
                failed += result.failed is not None
                bar.console.print(_line(result), markup=False, soft_wrap=True)
                ended.add(result.key)
    except (runner.Stopped, KeyboardInterrupt):
        raise UserError(f"stopped; {progress.path} keeps what is done, and the same command goes on") from None
    done = sum(progress.done(trial) for trial in progress.trials)
    console.print(f"{progress.path}: {done} of {len(progress.trials)} trials", markup=False, soft_wrap=True)
    if failed:
        raise UserError(f"{failed} trials failed, see above; the same command tries them again")
    console.print(f"next: coterie report {progress.path} --out study.html", markup=False, soft_wrap=True)


def _bar() -> Progress:
    names = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis"))
    columns = (BarColumn(bar_width=16), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[left]}"))
    return Progress(*columns, names, console=Console(stderr=True))


def _left(todo: Sequence[Trial], ended: set[Key], workers: int, seconds: float) -> str:
    """What is left, by the study's own minutes until a trial has ended, then at the pace of those that have."""
    done = sum(trial.minutes for trial in todo if trial.key in ended)
    left = sum(trial.minutes for trial in todo) - done
    minutes = left * seconds / 60 / done if done else left / workers
    return f"about {minutes:.0f} min left" if minutes >= 1 else "less than a minute left"


def _line(result: Result) -> str:
    name = "/".join(map(str, result.key))
    if result.failed is not None:
        return f"{name}: failed: {result.failed}"
    errors = ", ".join(
        f"{part} {figures['error']:.2f} %" for part, figures in result.measured.items() if "error" in figures
    )
    return f"{name}: {f'error of {errors}  ' if errors else ''}{result.seconds:.0f} s"


def _plan(
    study: Study, scale: Scale, progress: runner.Progress, chosen: Sequence[Trial], todo: Sequence[Trial]
) -> None:
    """Core-minutes by table, each trial with the first table that it stands in."""
    table = Table("table", "trials", "to run", "core-minutes", "to run", "longest trial", title=study.title)
    left, missing = (
        {trial.key: trial for trial in chosen} | {trial.key: trial for trial in todo},
        {trial.key for trial in todo},
    )
    everything = list(left.values())
    for part in scale.tables:
        keys = {(data, network, arm) for data in part.data for network in part.networks for arm in part.arms}
        own = [trial for trial in list(left.values()) if trial.key[:3] in keys]
        for trial in own:
            del left[trial.key]
        table.add_row(part.name, *_sums(own, missing))
    if left:
        table.add_row("teachers", *_sums(list(left.values()), missing))
    table.add_section()
    table.add_row("all", *_sums(everything, missing))
    table_console().print(table)
    if arms := dict.fromkeys(trial.arm for trial in everything if not trial.timed):
        line = f"no table says the minutes of {', '.join(arms)}: their trials count as 1 each"
        console.print(line, markup=False, soft_wrap=True)
    wall = sum(trial.minutes for trial in todo) / default_workers()
    console.print(f"about {wall:.0f} minutes here, {default_workers()} trainings side by side")


def _sums(trials: Sequence[Trial], missing: set[Key]) -> list[str]:
    to_run = [trial for trial in trials if trial.key in missing]
    minutes = [f"{sum(trial.minutes for trial in each):.1f}" for each in (trials, to_run)]
    longest = max((trial.minutes for trial in trials), default=0.0)
    return [str(len(trials)), str(len(to_run)), *minutes, f"{longest:.1f} min"]


def _smoke(trials: Sequence[Trial]) -> None:
    failed = 0
    for name, line in smoke.try_trials(trials):
        failed += line.startswith("failed: ")
        console.print(f"{name}: {line}", markup=False, soft_wrap=True)
    if failed:
        raise UserError(f"{failed} trials failed, see above")
