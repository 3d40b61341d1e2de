"""``coterie train``."""

import shlex
from dataclasses import fields
from typing import Any

from accelerate import PartialState
from jsonargparse import ArgumentParser, Namespace

from coterie.cli.arguments import check_data_name, find_method, new_file, new_parser, options_of, value_of
from coterie.cli.runs import print_runs
from coterie.console.terminal import say
from coterie.data import DATASETS, ImageData, load
from coterie.data.loading import RESOLVED, own_options
from coterie.errors import UserError
from coterie.files import write_text
from coterie.methods import METHODS, Method
from coterie.networks import Backbone
from coterie.recipes import RECIPES, Recipe, default_recipe, recipe_class
from coterie.training import TrainingOptions, find_rate, train
from coterie.training.distribution import leave_processes
from coterie.training.images import load_for


def train_parser(given: list[str]) -> ArgumentParser:
    """Its options are those of the method and the recipe that ``given`` names."""
    parser = new_parser()
    method = find_method(value_of(given, "method.name") or "one")
    recipe = recipe_class(value_of(given, "recipe.name") or default_recipe(starts_trained(given)))
    parser.add_argument("--config", help="YAML file of options; a Run's config.yaml repeats that run")
    about = f"one of: {', '.join(METHODS)}; or package.module:Class, a method of your own; short: --method"
    parser.add_argument("--method.name", type=str, default="one", help=about)
    parser.add_class_arguments(method, "method", skip={"network"})
    add_backbone_and_data(parser, given)
    parser.add_argument(
        "--recipe.name",
        type=str,
        default=recipe.name,
        help=f"one of: {', '.join(RECIPES)}; finetune where the network starts from trained weights; short: --recipe",
    )
    parser.add_class_arguments(recipe, "recipe")
    parser.add_argument("--out", type=str, help="the Run's folder; default runs/METHOD-NETWORK-DATA-SEED")
    parser.add_argument(
        "--find_rate",
        type=str | None,
        default=None,
        help="an .svg file: train 120 steps while the learning rate rises, draw the loss, suggest a rate, keep nothing",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the folder's last checkpoint")
    parser.add_class_arguments(TrainingOptions)
    for action in parser._actions:
        if getattr(action, "_typehint", None) in (bool, bool | None) and "." not in action.dest:
            action.nargs, action.const = "?", True  # `--compile` is short for `--compile true`
    return parser


def add_backbone_and_data(parser: ArgumentParser, given: list[str]) -> None:
    """Options of the network and of the data set that ``given`` names."""
    parser.add_argument(
        "--network.name", type=str, default="resnet32", help="see `coterie list networks`; short: --network"
    )
    parser.add_class_arguments(Backbone, "network", skip={"source"})
    parser.add_argument("--data.name", type=str, help=f"one of: {', '.join(DATASETS)}; short: --data")
    parser.add_function_arguments(load, "data", skip={"name", "options", *RESOLVED})
    if (entry := DATASETS.get(value_of(given, "data.name") or "")) is not None:
        own = own_options(entry)
        others: set[str | int] = {name for name in entry.parameters() if name not in own}
        parser.add_function_arguments(entry.read, "data", as_group=False, skip=others)


def starts_trained(given: list[str]) -> bool:
    """Whether the network starts from published weights or a file's."""
    pretrained = (value_of(given, "network.pretrained") or "false").lower() in ("true", "yes")
    return pretrained or value_of(given, "network.weights") not in (None, "null")


def run_train(given: Namespace) -> None:
    """Train, print the figures, and say what to do next."""
    if given.data.name is None:
        raise UserError(f"--data is missing; name a data set: {', '.join(DATASETS)}")
    check_data_name(given.data.name)
    network = options_of(given.network)
    name = network["name"]
    chosen = Backbone.from_record(network)
    method, recipe = options_of(given.method), options_of(given.recipe)
    trained = find_method(method.pop("name"))(network=chosen, **method)
    run_recipe = recipe_class(recipe.pop("name"))(**recipe)
    if given.find_rate is not None:
        _find_rate(given, trained, load_for(chosen, options_of(given.data)), run_recipe)
        return
    out = given.out or f"runs/{trained.name}-{name.replace('/', '-')}-{given.data.name}-{given.seed}"
    try:
        data = load_for(chosen, options_of(given.data))
        run = train(
            trained,
            data,
            out=out,
            recipe=run_recipe,
            resume=given.resume,
            **_training_options(given),
        )
        if PartialState().is_main_process:
            print_runs([run])
            say(f"{run.path}: done; next: coterie report {shlex.quote(str(run.path))} --out report.html")
    except UserError:
        raise  # the command ends at once, see coterie.cli.main: there may be no other process to take leave of
    except BaseException:
        leave_processes()
        raise
    leave_processes()


def _find_rate(given: Namespace, method: Method, data: ImageData, recipe: Recipe) -> None:
    """Suggest a learning rate, and draw what it comes from."""
    place = new_file(given.find_rate, ".svg", "find_rate")
    test = find_rate(method, data, recipe=recipe, **_training_options(given))
    # Matplotlib belongs to an extra, and nothing else of this command needs it.
    from coterie.reports.drawing.rate import plot_rate

    write_text(place, plot_rate(test))
    say(f"suggested: --recipe.learning_rate {test.suggestion:.2g}; recipe '{recipe.name}' would take {test.chosen:.2g}")
    say(f"{place}: the loss against the rate")


def _training_options(given: Namespace) -> dict[str, Any]:
    return {option.name: given[option.name] for option in fields(TrainingOptions)}
