"""The command line: ``coterie train | evaluate | predict | export | report | list | study``."""

import logging
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jsonargparse import ArgumentParser, Namespace

import coterie
from coterie.cli.arguments import expanded, plain, with_config
from coterie.cli.runs import (
    evaluate_parser,
    export_parser,
    list_parser,
    predict_parser,
    report_parser,
    run_evaluate,
    run_export,
    run_list,
    run_predict,
    run_report,
)
from coterie.cli.study import run_study, study_parser
from coterie.cli.train import run_train, train_parser
from coterie.errors import UserError, unknown_name
from coterie.terminal import log_handler, prepare_streams, say
from coterie.training import Interrupted


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


COMMANDS: dict[str, Command] = {
    "train": Command(
        "Train a network by a method on data, into a Run folder.",
        "coterie train --method one --network resnet32 --data fashion_mnist --epochs 30 --out runs/one",
        train_parser,
        run_train,
    ),
    "evaluate": Command(
        "Measure a Run's network: error, NLL, calibration.",
        "coterie evaluate runs/one --student ensemble",
        evaluate_parser,
        run_evaluate,
    ),
    "predict": Command(
        "Name the classes of image files, with probabilities.",
        "coterie predict runs/one photo.jpg",
        predict_parser,
        run_predict,
    ),
    "export": Command(
        "Write the deployable network to a file, checked against the original.",
        "coterie export runs/one --format onnx --out model.onnx",
        export_parser,
        run_export,
    ),
    "report": Command(
        "Draw one page from one or more Runs.",
        "coterie report runs/one runs/alone --out report.html",
        report_parser,
        run_report,
    ),
    "list": Command(
        "List methods, networks, datasets, recipes, or a network's cuts.",
        "coterie list cuts --network timm/resnet18",
        list_parser,
        run_list,
    ),
    "study": Command(
        "Run what a paper's claims ask for, with seeds enough to tell, or see what it will cost.",
        "coterie study one --plan",
        study_parser,
        run_study,
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; user errors are one line on standard error and exit code 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    prepare_streams()
    log = logging.getLogger("coterie")
    log.handlers = [log_handler()]
    log.setLevel(logging.INFO)
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
        say(f"coterie: {' '.join(str(error).split())}", sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(141)


def _run(name: str, command: Command, given: list[str]) -> None:
    given = expanded(with_config(given) if name == "train" else given)
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
        raise plain(error, parser) from error
    command.run(parsed)


def _overview() -> None:
    print("coterie: train any image classifier as its own ensemble, and get the same network back:")
    print("same size, same speed.\n")
    for name, command in COMMANDS.items():
        print(f"  {name:9} {command.summary}\n            {command.example}")
    print("\n`coterie COMMAND --help` explains a command's options.")


__all__ = ["COMMANDS", "Command", "main"]
