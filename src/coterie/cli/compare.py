"""``coterie compare``."""

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from inspect import signature
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from coterie.cli.arguments import check_data_name, new_parser, options_of, value_of
from coterie.cli.train import add_backbone_and_data, starts_trained
from coterie.console.tables import table_console
from coterie.console.terminal import say
from coterie.data import DATASETS, load
from coterie.errors import UserError
from coterie.files import user_path
from coterie.networks import Backbone
from coterie.recipes import RECIPES, Recipe, default_recipe, recipe_class
from coterie.training.before.pace import duration
from coterie.training.precision import PrecisionChoice

if TYPE_CHECKING:
    from coterie.comparison.running import Comparison
    from coterie.studies.results import Result
    from coterie.studies.study import Trial


def compare_parser(given: list[str]) -> ArgumentParser:
    """Its options are those of the recipe and the data set that ``given`` names."""
    parser = new_parser()
    recipe = recipe_class(value_of(given, "recipe.name") or default_recipe(starts_trained(given)))
    parser.add_argument("--out", type=str, required=True, help="folder of the comparison; gone on with if it is there")
    parser.add_argument("--budget", type=str | None, default=None, help="how long it may take: 2h, 90m, 1h30m")
    about = "of the network alone, on the largest budget; default: what --budget allows"
    parser.add_argument("--epochs", type=int | None, default=None, help=about)
    about = "trainings of each kind on the largest budget; default: what --budget allows, 5 without one"
    parser.add_argument("--seeds", type=int | None, default=None, help=about)
    about = "methods to compare with the network alone; default: one, and kd where there is a --teacher"
    parser.add_argument("--methods", type=str, nargs="+", default=[], help=about)
    about = "published network of timm's or torchvision's that teaches, such as timm/resnet50"
    parser.add_argument("--teacher", type=str | None, default=None, help=about)
    parser.add_argument("--plan", action="store_true", help="try a few steps, say what would be trained, keep nothing")
    about = "trainings side by side; default one a GPU, else one a core"
    parser.add_argument("--workers", type=int | None, default=None, help=about)
    parser.add_argument(
        "--batch_size",
        type=int | None,
        default=None,
        help="images in a step; default 128, or fewer, down to 16, so that an epoch has 20 steps",
    )
    parser.add_argument("--precision", type=PrecisionChoice, default="auto", help="as of `coterie train`")
    add_backbone_and_data(parser, given)
    about = f"one of: {', '.join(RECIPES)}; default modern, finetune where the network starts from trained weights"
    parser.add_argument("--recipe.name", type=str, default=recipe.name, help=f"{about}; short: --recipe")
    parser.add_class_arguments(recipe, "recipe")
    return parser


def run_compare(given: Namespace) -> None:
    """Say the plan, train, and say the verdict."""
    if given.data.name is None:
        raise UserError(f"--data is missing; name a data set: {', '.join(DATASETS)}")
    check_data_name(given.data.name)
    # Matplotlib, Jinja and SciPy belong to extras, and no other command needs them.
    from coterie.comparison.question import Limits, Question
    from coterie.comparison.running import Comparison, plan_lines

    limits = Limits(given.budget, given.epochs, given.seeds)
    question = Question(
        _changed(options_of(given.network), {each.name: each.default for each in fields(Backbone)}),
        _changed(options_of(given.data), _data_defaults(given.data.name)),
        tuple(given.methods),
        given.teacher,
        _changed_recipe(options_of(given.recipe)),
        given.batch_size,
        given.precision,
    )
    if not (user_path(given.out) / "comparison.json").is_file():
        say("a few steps of each training are tried first, to know what it costs here")
    comparison = Comparison(question, limits, given.out, given.workers)
    _print_plan(comparison)
    for line in plan_lines(comparison):
        say(line)
    if given.plan:
        return
    failed = _train(comparison)
    verdict = comparison.state.verdict
    if not verdict:
        raise UserError(f"nothing was trained; {_go_on(failed)}")
    for line in verdict["sentences"]:
        say(line)
    network = shlex.quote(str(comparison.folder.network))
    say(
        f"{comparison.folder.page}: open it in a browser; next: coterie export {network} --format onnx --out model.onnx"
    )
    if failed:
        raise UserError(f"{failed} trainings failed, see above; the same command tries them again")


def _go_on(failed: int) -> str:
    return "the same command tries the failed ones again" if failed else "give a longer ⟨budget⟩ and another ⟨out⟩"


def _changed(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Options that are not what they would be anyhow, as plain values."""
    changed = {name: value for name, value in given.items() if value is not None and value != defaults.get(name)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in changed.items()}


def _data_defaults(name: str) -> dict[str, Any]:
    parameters = {**signature(load).parameters, **DATASETS[name].parameters()}
    return {name: parameter.default for name, parameter in parameters.items() if name != "name"}


def _changed_recipe(given: dict[str, Any]) -> dict[str, Any]:
    name = given.pop("name")
    usual: Recipe = recipe_class(name)()
    defaults = {field.name: getattr(usual, field.name) for field in fields(usual)}
    return {"name": name, **_changed(given, defaults)}


def _print_plan(comparison: "Comparison") -> None:
    table = Table("epochs of each training", "seeds", "arms", "minutes of the processors")
    for rung in comparison.plan.rungs:
        lengths = ", ".join(f"{arm} {epochs}" for arm, epochs in rung.epochs.items())
        table.add_row(lengths, str(rung.seeds), str(rung.arms), f"{rung.total / 60:.1f}")
    table_console().print(table)


def _train(comparison: "Comparison") -> int:
    """Train all; gives how many trainings failed."""
    from coterie.studies.runner import Stopped

    failed = done = 0
    total = sum(rung.seeds * rung.arms for rung in comparison.plan.rungs)
    names = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis"))
    columns = (BarColumn(bar_width=16), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[left]}"))
    began = time.monotonic()
    try:
        with Progress(*columns, names, console=Console(stderr=True)) as bar:
            task = bar.add_task("", total=total, left="")

            def show(running: "Sequence[Trial]") -> None:
                left = (total - done) * (time.monotonic() - began) / done if done else comparison.plan_seconds
                description = ", ".join(f"{trial.arm}, seed {trial.seed}" for trial in running)
                bar.update(task, description=description, completed=done, left=f"about {duration(left)} left")

            for result in comparison.run(show):
                done += 1
                failed += result.failed is not None
                bar.console.print(_line(result), markup=False, soft_wrap=True, highlight=False)
    except (Stopped, KeyboardInterrupt):
        said = comparison.state.verdict.get("sentences", ["too little was trained for a verdict"])[0]
        raise UserError(
            f"stopped; the same command goes on. {comparison.folder.page} has what there is: {said}"
        ) from None
    return failed


def _line(result: "Result") -> str:
    name = f"{result.arm}, seed {result.seed}"
    if result.failed is not None:
        return f"{name}: failed: {result.failed}"
    error = result.figure("target", "validation_error")
    return f"{name}: validation error {error:.2f} %, {result.seconds:.0f} s" if error is not None else name
