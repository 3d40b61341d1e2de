"""The command line: ``coterie train | evaluate | predict | export | report | list``."""

import logging
import re
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

import coterie
from coterie.data import DATASETS, load
from coterie.errors import UserError, unknown_name
from coterie.methods import METHODS, method_class
from coterie.networks import OWN, Network, names
from coterie.training import RECIPES, Interrupted, Recipe, recipe_class, train
from coterie.training.precision import PrecisionChoice
from coterie.training.train import DeviceChoice

console = Console(highlight=False)

# `--method one` is short for `--method.name one`: the other options of these groups depend on the name.
_GROUPS = {"method": "one", "network": "resnet32", "data": None, "recipe": "short"}


@dataclass(frozen=True)
class Command:
    """One subcommand.

    Attributes:
        summary: One line.
        example: A command line that works.
        parser: Makes its parser from the arguments.
        run: Does it.
    """

    summary: str
    example: str
    parser: Callable[[list[str]], ArgumentParser]
    run: Callable[[Namespace], None]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; user errors are one line on standard error and exit code 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    logging.getLogger("coterie").handlers = [
        RichHandler(console=Console(stderr=True), show_time=False, show_path=False)
    ]
    try:
        if not given or given[0] in ("-h", "--help"):
            _overview()
            return
        if given[0] == "--version":
            print(f"coterie {coterie.__version__}")
            return
        if given[0] not in COMMANDS:
            raise unknown_name("command", given[0], COMMANDS)
        _run(given[0], COMMANDS[given[0]], given[1:])
    except Interrupted as stopped:
        name = signal.Signals(stopped.number).name
        words = [word for word in given if word != "--resume"]
        print(f"\nstopped by {name} at {stopped}; go on with: coterie {' '.join(words)} --resume", file=sys.stderr)
        sys.exit(128 + stopped.number)
    except UserError as error:
        print(f"coterie: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(141)


def _run(name: str, command: Command, given: list[str]) -> None:
    given = _expanded(_with_config(given) if name == "train" else given)
    parser = command.parser(given)
    parser.prog = f"coterie {name}"
    parser.description = command.summary
    parser.epilog = f"Example: {command.example}"
    # A name may stand twice, from the file and from the line: the line's comes last and holds.
    try:
        parsed = parser.parse_args(given)
    except SystemExit:
        raise
    except Exception as error:
        raise _plain(error, parser) from error
    command.run(parsed)


def _plain(error: Exception, parser: ArgumentParser) -> UserError:
    """A parser's complaint in one line, with the nearest option where one is unknown."""
    text = " ".join(str(error).split())
    unknown = re.search(r"[Uu]nrecognized arguments: (\S+)", text)
    if unknown:
        option = unknown.group(1).split("=")[0]
        known = [each for action in parser._actions for each in action.option_strings]
        close = get_close_matches(option, known, n=2)
        hint = f"; did you mean {' or '.join(close)}?" if close else "; see --help"
        return UserError(f"unknown option {option}{hint}")
    text = re.sub(r'^Parser key "([^"]+)": ?', lambda match: f"--{match.group(1)}: ", text)
    return UserError(text[:300])


def _with_config(given: list[str]) -> list[str]:
    """The options of ``--config FILE`` before those of the line; ``--resume`` takes the run's own file."""
    rest, files = [], []
    words = iter(given)
    for word in words:
        if word == "--config" or word.startswith("--config="):
            files.append(Path(word.partition("=")[2] or next(words, "")))
        else:
            rest.append(word)
    if "--resume" in rest and not files and (out := _value(rest, "out")) and (Path(out) / "config.yaml").is_file():
        files.append(Path(out) / "config.yaml")
    found: list[str] = []
    for file in files:
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--config {file}: cannot be read; name a YAML file, or a Run's config.yaml") from error
        except yaml.YAMLError as error:
            raise UserError(f"{file}: not valid YAML ({' '.join(str(error).split())[:120]})") from error
        if not isinstance(content, dict):
            raise UserError(f"{file}: holds no options; write lines such as 'method: one'")
        found += _flags(content)
    # A group's name on the line takes the place of the file's, whose options may be another class's.
    for group in _GROUPS:
        if (name := _value(rest, group) or _value(rest, f"{group}.name")) and name != _value(found, f"{group}.name"):
            found = [flag for flag in found if not flag.startswith((f"--{group}.", f"--{group}="))]
    return found + rest


def _flags(content: dict[str, Any], place: str = "") -> list[str]:
    flags: list[str] = []
    for key, value in content.items():
        name = f"{place}{key}"
        if value is None and name in _GROUPS:
            raise UserError(f"config: {name} was an object of your own; repeat this run from Python with that object")
        if isinstance(value, dict) and (not place or value):
            flags += _flags(value, f"{name}.")
        elif name in _GROUPS:
            flags.append(f"--{name}.name={value}")
        elif isinstance(value, bool) and name in ("resume", "compile"):
            flags += [f"--{name}"] if value else []
        elif value != {}:
            text = yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n...\n").strip()
            flags.append(f"--{name}={text}")
    return flags


def _expanded(given: list[str]) -> list[str]:
    """``--method one`` as ``--method.name one``."""
    pattern = re.compile(rf"^--({'|'.join(_GROUPS)})(=.*)?$")
    return [pattern.sub(r"--\1.name\2", word) for word in given]


def _value(given: list[str], option: str) -> str | None:
    """The last value of an option."""
    found = None
    for index, word in enumerate(given):
        if word.startswith(f"--{option}="):
            found = word.partition("=")[2]
        elif word == f"--{option}" and index + 1 < len(given):
            found = given[index + 1]
    return found


def _parser() -> ArgumentParser:
    return ArgumentParser(exit_on_error=False, allow_abbrev=False, default_env=False)


def _train_parser(given: list[str]) -> ArgumentParser:
    parser = _parser()
    method = method_class(_value(given, "method.name") or "one")
    recipe = recipe_class(_value(given, "recipe.name") or "short")
    parser.add_argument("--config", help="YAML file of options; a Run's config.yaml repeats that run")
    parser.add_argument("--method.name", type=str, default="one", help=f"one of: {', '.join(METHODS)}; short: --method")
    parser.add_class_arguments(method, "method", skip={"network"})
    parser.add_argument(
        "--network.name", type=str, default="resnet32", help="see `coterie list networks`; short: --network"
    )
    parser.add_class_arguments(Network, "network", skip={"name"})
    parser.add_argument("--data.name", type=str, help=f"one of: {', '.join(DATASETS)}; short: --data")
    parser.add_function_arguments(load, "data", skip={"name", "default_image_size"})
    parser.add_argument(
        "--recipe.name", type=str, default="short", help=f"one of: {', '.join(RECIPES)}; short: --recipe"
    )
    parser.add_class_arguments(recipe, "recipe")
    parser.add_argument("--epochs", type=int, default=30, help="length of each stage")
    parser.add_argument("--out", type=str, help="the Run's folder; default runs/METHOD-NETWORK-DATA-SEED")
    parser.add_argument(
        "--batch_size", type=int | None, default=None, help="over all processes; default 128, or all images"
    )
    parser.add_argument("--seed", type=int, default=0, help="of initialisation, order, augmentation and noise")
    parser.add_argument("--resume", action="store_true", help="go on from the folder's last checkpoint")
    parser.add_argument(
        "--precision", type=PrecisionChoice, default="auto", help="auto is a fixed rule; trial measures"
    )
    parser.add_argument("--threads", type=int | None, default=None, help="CPU threads")
    parser.add_argument("--device", type=DeviceChoice, default="auto", help="where to train")
    parser.add_argument("--compile", type=bool, nargs="?", const=True, default=False, help="use torch.compile")
    parser.add_argument("--tensorboard", type=bool, default=True, help="write figures for TensorBoard too")
    return parser


def _train(given: Namespace) -> None:
    if given.data.name is None:
        raise UserError(f"--data is missing; name a data set: {', '.join(DATASETS)}")
    network = _options(given.network)
    name = network["name"]
    chosen = Network(**network)
    preprocessing = chosen.preprocessing()
    data = _options(given.data)
    if preprocessing is not None:
        data["default_image_size"] = preprocessing.image_size
        data["mean"] = data["mean"] or preprocessing.mean
        data["std"] = data["std"] or preprocessing.std
    method, recipe = _options(given.method), _options(given.recipe)
    trained = method_class(method.pop("name"))(network=chosen, **method)
    run_recipe = recipe_class(recipe.pop("name"))(**recipe)
    out = given.out or f"runs/{given.method.name}-{name.replace('/', '-')}-{given.data.name}-{given.seed}"
    run = train(
        trained,
        load(**data),
        epochs=given.epochs,
        out=out,
        batch_size=given.batch_size,
        seed=given.seed,
        recipe=run_recipe,
        resume=given.resume,
        precision=given.precision,
        threads=given.threads,
        device=given.device,
        compile=given.compile,
        tensorboard=given.tensorboard,
    )
    _print_runs([run])
    console.print(f"{run.path}: done; next: coterie report {run.path} --out report.html", markup=False)


def _options(group: Namespace) -> dict[str, Any]:
    options = {key: value for key, value in vars(group).items()}
    return {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}


def _run_parser(given: list[str], *extra: tuple[str, dict[str, Any]]) -> ArgumentParser:
    parser = _parser()
    parser.add_argument("run", help="a Run folder")
    for name, options in extra:
        parser.add_argument(name, **options)
    return parser


_STUDENT: tuple[str, dict[str, Any]] = (
    "--student",
    {"type": str, "default": None, "help": "which deliverable, for example ensemble"},
)


def _evaluate(given: Namespace) -> None:
    options = {key: value for key, value in vars(given.data).items() if value is not None}
    measured = coterie.evaluate(coterie.Run(given.run), student=given.student, split=given.split, **options)
    table = Table("measure", "value")
    for name, value in measured.items():
        table.add_row(name, f"{value:.4f}")
    console.print(table)


def _evaluate_parser(given: list[str]) -> ArgumentParser:
    split = ("--split", {"type": str, "default": "test", "help": "test, validation or train"})
    parser = _run_parser(given, _STUDENT, split)
    parser.add_argument(
        "--data.name", type=str | None, default=None, help="other data of the same classes; short: --data"
    )
    parser.add_argument("--data.root", type=str | None, default=None, help="where the data are now")
    return parser


def _predict_parser(given: list[str]) -> ArgumentParser:
    parser = _parser()
    parser.add_argument("source", help="a Run folder, or an exported .onnx or .safetensors file")
    parser.add_argument("images", nargs="+", help="image files")
    parser.add_argument(_STUDENT[0], **_STUDENT[1])
    parser.add_argument("--top", type=int, default=3, help="how many classes to name")
    return parser


def _predict(given: Namespace) -> None:
    for found in coterie.predict(given.source, given.images, student=given.student, top=given.top):
        said = "  ".join(f"{name} {value:.1%}" for name, value in zip(found.classes, found.probabilities, strict=True))
        console.print(f"{found.path}  {said}", markup=False, soft_wrap=True)


def _export_parser(given: list[str]) -> ArgumentParser:
    kind = ("--format", {"type": str, "default": "safetensors", "help": "safetensors or onnx"})
    return _run_parser(given, kind, ("--out", {"type": str, "required": True, "help": "the file"}), _STUDENT)


def _export(given: Namespace) -> None:
    done = coterie.export(coterie.Run(given.run), given.format, given.out, given.student)
    console.print(
        f"{done.path}: checked on {done.images} test images, largest difference {done.difference:.2g}", markup=False
    )


def _report_parser(given: list[str]) -> ArgumentParser:
    parser = _parser()
    parser.add_argument("runs", nargs="+", help="Run folders to compare; the first of `vanilla` is the baseline")
    parser.add_argument("--out", type=str, default="report.html", help="the page")
    return parser


def _report(given: Namespace) -> None:
    runs = [coterie.Run(path) for path in given.runs]
    page = coterie.report(runs, given.out)
    _print_runs(runs)
    console.print(f"{page}: open it in a browser", markup=False)


def _print_runs(runs: Sequence[coterie.Run]) -> None:
    from coterie.report.table import means, rows

    table = Table("network", "error %", "parameters", "FLOPs", "training s")
    for row in rows(runs):
        table.add_row(row.name, f"{row.error:.2f}", f"{row.parameters:,}", f"{row.flops:.3g}", f"{row.seconds:.1f}")
    console.print(table)
    for line in means(runs):
        console.print(line, markup=False)


def _list_parser(given: list[str]) -> ArgumentParser:
    parser = _parser()
    parser.add_argument("what", help="methods, networks, datasets, recipes or cuts")
    parser.add_argument("--all", action="store_true", help="networks: every name of timm and torchvision too")
    parser.add_argument("--network.name", type=str, default="resnet32", help="cuts: of which network; short: --network")
    return parser


def _list(given: Namespace) -> None:
    listings: dict[str, Callable[[], list[tuple[str, str]]]] = {
        "methods": lambda: [(name, method.summary) for name, method in METHODS.items()],
        "networks": lambda: [(name, OWN[name].summary if name in OWN else "") for name in names(given.all)],
        "datasets": lambda: [(name, entry.summary) for name, entry in DATASETS.items()],
        "recipes": lambda: [(name, (recipe.__doc__ or "").splitlines()[0]) for name, recipe in RECIPES.items()],
        "cuts": lambda: [
            (point.at, f"{point.flops:.1%} of the FLOPs in the tail")
            for point in coterie.networks.cuts(coterie.networks.build(given.network.name))
        ],
    }
    if given.what not in listings:
        raise unknown_name("listing", given.what, listings)
    for name, text in listings[given.what]():
        print(f"{name:28} {text}".rstrip())
    if given.what == "networks" and not given.all:
        print("and timm/NAME and torchvision/NAME; --all lists them")


def _overview() -> None:
    print("coterie: train any image classifier as its own ensemble, and get the same network back, more accurate.\n")
    for name, command in COMMANDS.items():
        print(f"  {name:9} {command.summary}\n            {command.example}")
    print("\n`coterie COMMAND --help` explains a command's options.")


COMMANDS: dict[str, Command] = {
    "train": Command(
        "Train a network by a method on data, into a Run folder.",
        "coterie train --method one --network resnet32 --data fashion_mnist --epochs 30 --out runs/one",
        _train_parser,
        _train,
    ),
    "evaluate": Command(
        "Measure a Run's network: error, NLL, calibration.",
        "coterie evaluate runs/one --student ensemble",
        _evaluate_parser,
        _evaluate,
    ),
    "predict": Command(
        "Name the classes of image files, with probabilities.",
        "coterie predict runs/one photo.jpg",
        _predict_parser,
        _predict,
    ),
    "export": Command(
        "Write the deployable network to a file, checked against the original.",
        "coterie export runs/one --format onnx --out model.onnx",
        _export_parser,
        _export,
    ),
    "report": Command(
        "Draw one page from one or more Runs.",
        "coterie report runs/one runs/alone --out report.html",
        _report_parser,
        _report,
    ),
    "list": Command(
        "List methods, networks, datasets, recipes, or a network's cuts.",
        "coterie list cuts --network timm/resnet18",
        _list_parser,
        _list,
    ),
}

__all__ = ["COMMANDS", "Recipe", "main"]

if __name__ == "__main__":
    main()
