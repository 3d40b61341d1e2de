"""The commands that read a Run or list what there is."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch
from jsonargparse import ArgumentParser, Namespace
from rich.markup import escape
from rich.table import Table

import coterie
from coterie.cli.arguments import find_method, new_parser
from coterie.console.counting import show_counts
from coterie.console.tables import table_console
from coterie.console.terminal import printable, say
from coterie.data import DATASETS
from coterie.deploy.formats import Format
from coterie.errors import UserError, unknown_name
from coterie.methods import METHODS
from coterie.networks import NETWORKS, names
from coterie.recipes import RECIPES, Recipe
from coterie.reports.numbers import format_interval, format_p, format_signed
from coterie.reports.table import describe_means, make_rows

if TYPE_CHECKING:
    from coterie.reports.studies.page import Measured

STUDENT: tuple[str, dict[str, Any]] = (
    "--student",
    {"type": str, "default": None, "help": "which deliverable, for example ensemble"},
)
ROOT: tuple[str, dict[str, Any]] = (
    "--data.root",
    {"type": str | None, "default": None, "help": "where the data are now, if they have moved since the training"},
)


METHOD: tuple[str, dict[str, Any]] = (
    "--method.name",
    {"type": str | None, "default": None, "help": "package.module:Class of a method of your own; short: --method"},
)


def open_run(path: str, given: Namespace) -> coterie.Run:
    """A Run, of one's own method where it is the one that is named."""
    run, name = coterie.Run(path), given.method.name
    method = None if name is None else find_method(name)
    if method is None or run.config["method"].get("name") != method.name:
        return run
    return coterie.Run(path, method=method)


def _run_parser(given: list[str], *extra: tuple[str, dict[str, Any]]) -> ArgumentParser:
    parser = new_parser()
    parser.add_argument("run", help="a Run folder")
    for name, options in extra:
        parser.add_argument(name, **options)
    return parser


def data_options(given: Namespace) -> dict[str, Any]:
    """The options of the data that were given."""
    return {key: value for key, value in vars(given.data).items() if value is not None}


def export_parser(given: list[str]) -> ArgumentParser:
    """Options of ``coterie export``."""
    kind = ("--format", {"type": Format, "default": "safetensors", "help": "as the file's name ends"})
    out = (
        "--out",
        {"type": str, "required": True, "help": "the file: NAME.safetensors, NAME.onnx or NAME.pt2; for timm a folder"},
    )
    about = "onnx: resize, crop and normalise in the graph, which then takes one uint8 image (H, W, channels)"
    whole = ("--with_preprocessing", {"action": "store_true", "help": about})
    about = "onnx-int8: by how many percent points top-1 may fall"
    lost = ("--tolerance", {"type": float, "default": 0.5, "help": about})
    about = "timm: the licence of the weights, by its name on the Hugging Face Hub"
    licence = ("--license", {"type": str, "default": "unknown", "help": about})
    about = "timm: upload the folder to the Hugging Face Hub as OWNER/NAME"
    hub = ("--push_to_hub", {"type": str | None, "default": None, "help": about})
    return _run_parser(given, kind, out, STUDENT, whole, lost, licence, hub, ROOT, METHOD)


def run_export(given: Namespace) -> None:
    """Write the file and say how close it is."""
    with show_counts():
        done = coterie.export(
            open_run(given.run, given),
            given.format,
            given.out,
            given.student,
            with_preprocessing=given.with_preprocessing,
            tolerance=given.tolerance,
            license=given.license,
            push_to_hub=given.push_to_hub,
            **data_options(given),
        )
    say(
        f"{done.path}: checked on {done.images} test images: largest difference {done.difference:.2g}, top-1 agrees on "
        f"{100 * done.agreement:.4g} %, error {done.error_change:+.2f} points"
    )
    if done.uploaded is not None:
        say(f"{done.uploaded}: uploaded")


def report_parser(given: list[str]) -> ArgumentParser:
    """Options of ``coterie report``."""
    parser = new_parser()
    about = "Run folders to compare, the first of `vanilla` being the baseline; or results files of coterie study"
    parser.add_argument("runs", nargs="+", help=about)
    parser.add_argument("--out", type=str, default="report.html", help="the page")
    parser.add_argument(ROOT[0], **ROOT[1])
    parser.add_argument(METHOD[0], **METHOD[1])
    return parser


def run_report(given: Namespace) -> None:
    """Write the page and print the table."""
    files = [path for path in given.runs if path.endswith(".json")]
    if files:
        if len(files) < len(given.runs):
            other = next(path for path in given.runs if path not in files)
            raise UserError(
                f"{other}: no results file, as {files[0]} is; report Runs and studies on pages of their own"
            )
        # Matplotlib, Jinja and SciPy belong to extras, and no other command of this file needs them.
        from coterie.reports.studies.page import read_measured, report_studies

        studies = [read_measured(path) for path in files]
        page = report_studies(studies, given.out)
        for measured in studies:
            print_study(measured)
    else:
        runs = [open_run(path, given) for path in given.runs]
        page = coterie.report(runs, given.out, **data_options(given))
        print_runs(runs)
    say(f"{page}: open it in a browser")


def print_study(measured: "Measured") -> None:
    """Print a study's claims with their verdicts, what its frontiers say, and a line that sums all up."""
    from coterie.studies.verdicts import summarise

    table = Table("claim", "data", "network", "difference [95 %]", "p adjusted", "verdict")
    for verdict in measured.verdicts:
        found, metric = verdict.comparison, verdict.claim.metric
        said = ("–", "–")
        if found is not None and verdict.adjusted is not None:
            difference = f"{format_signed(found.difference, metric)} {format_interval(found.low, found.high, metric)}"
            said = difference, format_p(verdict.adjusted)
        cells = (verdict.claim.says, verdict.data or "–", verdict.network or "–", *said, verdict.word)
        table.add_row(*(escape(printable(cell)) for cell in cells))
    if measured.verdicts:
        table_console().print(table)
    for frontier in measured.frontiers:
        say(f"{frontier.title}. {' '.join(frontier.sentences)}")
    say(summarise(measured.study, measured.results, measured.verdicts))


def print_runs(runs: Sequence[coterie.Run]) -> None:
    """Print a table of runs, and means over seeds where there are several."""
    table = Table("network", "error %", "parameters", "FLOPs", "training s")
    for row in make_rows(runs):
        figures = (f"{row.error:.2f}", f"{row.parameters:,}", f"{row.flops:.3g}", f"{row.seconds:.1f}")
        table.add_row(escape(printable(row.name)), *figures)
    table_console().print(table)
    for line in describe_means(runs):
        say(line)


def list_parser(given: list[str]) -> ArgumentParser:
    """Options of ``coterie list``."""
    parser = new_parser()
    parser.add_argument("what", help="methods, networks, datasets, recipes or splits")
    about = "networks: every name of timm and torchvision too; splits: every module where the network can be split"
    parser.add_argument("--all", action="store_true", help=about)
    parser.add_argument(
        "--network.name", type=str, default="resnet32", help="splits: of which network; short: --network"
    )
    parser.add_argument(
        "--data.image_size", type=int | None, default=None, help="splits: for square images of so many pixels"
    )
    return parser


def run_list(given: Namespace) -> None:
    """Print the names and a line about each."""
    listings: dict[str, Callable[[], list[tuple[str, str]]]] = {
        "methods": METHODS.summaries,
        "networks": lambda: [*NETWORKS.summaries(), *((name, "") for name in names(given.all) if name not in NETWORKS)],
        "datasets": DATASETS.summaries,
        "recipes": lambda: [(name, (recipe.__doc__ or "").splitlines()[0]) for name, recipe in RECIPES.items()],
        "splits": lambda: _list_splits(given.network.name, given.data.image_size, given.all),
    }
    if given.what not in listings:
        raise unknown_name("listing", given.what, listings)
    for name, text in listings[given.what]():
        say(f"{name:28} {text}".rstrip())
    if given.what == "recipes":
        table_console().print(_compare_recipes())
        say("chosen: set when a training begins, and written into its config.yaml; --recipe.FIELD sets any of them")
    if given.what == "networks" and not given.all:
        say("and timm/NAME and torchvision/NAME; --all lists them")


def _compare_recipes() -> Table:
    """Every recipe's fields side by side."""
    recipes = [kind() for kind in RECIPES.values()]
    table = Table("field", *RECIPES)
    for field in fields(recipes[0]):
        table.add_row(field.name, *(_say_field(field.name, recipe) for recipe in recipes))
    return table


def _say_field(name: str, recipe: Recipe) -> str:
    value = getattr(recipe, name)
    if value is None:
        return "none" if name == "clip_norm" else "chosen"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _list_splits(name: str, image_size: int | None, every: bool) -> list[tuple[str, str]]:
    size = None if image_size is None else (image_size, image_size)
    network = coterie.networks.build(name, image_size=size)
    example = None if size is None else torch.zeros(2, 3, *size)
    points = coterie.peers.split_points(network, example)
    shown = [point for point in points if every or point.useful or point.default]
    lines = [
        (
            point.at,
            f"{point.flops:6.1%} of the FLOPs and {point.parameters:6.1%} of the parameters in the tail"
            + ("  (default)" if point.default else ""),
        )
        for point in shown
    ]
    rest = len(points) - len(shown)
    return lines + ([("", f"and {rest} more between and inside these; --all lists them")] if rest else [])
