"""The command line: ``coterie train | compare | evaluate | predict | export | bench | serve | report …``."""

import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from coterie.console.signals import Signalled, ended_by_signals, line, started
from coterie.errors import UserError, in_a_line, unknown_name
from coterie.version import __version__

# All else is imported when a command runs: it takes seconds, in which a signal must leave a line and no traceback.
if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    Parts = dict[str, tuple[Callable[[list[str]], ArgumentParser], Callable[[Namespace], None]]]


class Command(NamedTuple):
    """One subcommand.

    Attributes:
        summary: One line.
        example: A command line that works.
    """

    summary: str
    example: str


COMMANDS: dict[str, Command] = {
    "train": Command(
        "Train a network by a method on data, into a Run folder.",
        "coterie train --method one --network resnet32 --data fashion_mnist --epochs 30 --out runs/one",
    ),
    "evaluate": Command(
        "Measure a Run or an exported file: error with its interval, NLL, calibration, each class.",
        "coterie evaluate runs/one --student ensemble",
    ),
    "predict": Command(
        "Name the classes of images, with probabilities: files, folders, patterns, a list.",
        "coterie predict runs/one photo.jpg",
    ),
    "export": Command(
        "Write the deployable network to a file, checked against the original.",
        "coterie export runs/one --format onnx --out model.onnx",
    ),
    "bench": Command(
        "Time Runs and exported files: latency, throughput, memory, size, beside the error.",
        "coterie bench runs/one model.onnx",
    ),
    "serve": Command(
        "Answer over HTTP with the classes of images, and on a page to drop images on.",
        "coterie serve model.onnx --port 8000",
    ),
    "report": Command(
        "Draw one page from one or more Runs.",
        "coterie report runs/one runs/alone --out report.html",
    ),
    "list": Command(
        "List methods, networks, datasets, recipes, or where a network can be split.",
        "coterie list splits --network timm/resnet18",
    ),
    "compare": Command(
        "Find the training that gives the best network on your images, at equal cost, in a given time.",
        "coterie compare --network timm/resnet18 --data folder --data.root photos --budget 2h --out comparison",
    ),
    "study": Command(
        "Run what a paper's claims ask for, with seeds enough to tell, or see what it will cost.",
        "coterie study one --plan",
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; user errors are one line on standard error and exit code 2, signals one line and 128 + number."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    with ended_by_signals(_advice(given), to_the_end=arguments is None):
        try:
            _answer(given)
        except Signalled as stopped:
            print(f"\n{line(stopped.number, str(stopped))}", file=sys.stderr)
            sys.exit(128 + stopped.number)
        except KeyboardInterrupt:
            sys.exit(130)


def _answer(given: list[str]) -> None:
    from coterie.console.terminal import options_as_flags, prepare_streams, say

    prepare_streams()
    try:
        if not given or given[0] in ("-h", "--help"):
            _overview()
        elif given[0] == "--version":
            print(f"coterie {__version__}")
        elif given[0] not in COMMANDS:
            raise unknown_name("command", given[0], COMMANDS)
        else:
            with options_as_flags():
                _run(given[0], given[1:])
    except UserError as error:
        say(f"coterie: {' '.join(error.with_flags().split())}", sys.stderr)
        if int(os.environ.get("WORLD_SIZE") or 1) > 1:
            # Threads of the connection to a process that is lost abort this one while Python ends.
            sys.stderr.flush()
            os._exit(2)
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(141)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        say(f"coterie: {in_a_line(error)}; free some space and run the command again", sys.stderr)
        sys.exit(2)


def _advice(given: Sequence[str]) -> str:
    """How to go on with a command that a signal ended; nothing where it is simply run again."""
    if given[:1] != ["train"]:
        return ""
    import shlex

    return "go on with: " + shlex.join(["coterie", *(word for word in given if word != "--resume"), "--resume"])


def _run(name: str, given: list[str]) -> None:
    import logging

    from coterie.cli.arguments import expanded, plain, with_config
    from coterie.console.terminal import log_handler
    from coterie.extras import is_installed

    if name != "serve" and not is_installed("torch"):
        raise UserError(
            "torch is not installed, which only `coterie serve` can do without; install it: pip install torch"
        )
    make_parser, run = (serve_parts() if name == "serve" else find_parts())[name]
    log = logging.getLogger("coterie")
    log.handlers = [log_handler()]
    log.setLevel(logging.INFO)
    started()
    given = expanded(with_config(given) if name == "train" else given)
    parser = make_parser(given)
    parser.prog = f"coterie {name}"
    parser.description = COMMANDS[name].summary
    parser.epilog = f"Example: {COMMANDS[name].example}"
    # A name may stand twice, from the file and from the line: the line's comes last and holds.
    try:
        parsed = parser.parse_args(given)
    except SystemExit:
        raise
    except Exception as error:
        raise plain(error, parser, given) from error
    run(parsed)


def serve_parts() -> "Parts":
    """Those of ``coterie serve``, which needs none of the others' libraries: an ONNX file is served without torch."""
    from coterie.cli import serve

    return {"serve": (serve.serve_parser, serve.run_serve)}


def find_parts() -> "Parts":
    """What makes each command's parser from its arguments, and what does it."""
    from coterie.cli import bench, compare, measuring, runs, study, train

    return {
        "train": (train.train_parser, train.run_train),
        "evaluate": (measuring.evaluate_parser, measuring.run_evaluate),
        "predict": (measuring.predict_parser, measuring.run_predict),
        "export": (runs.export_parser, runs.run_export),
        "bench": (bench.bench_parser, bench.run_bench),
        **serve_parts(),
        "report": (runs.report_parser, runs.run_report),
        "list": (runs.list_parser, runs.run_list),
        "compare": (compare.compare_parser, compare.run_compare),
        "study": (study.study_parser, study.run_study),
    }


def _overview() -> None:
    print("coterie: train any image classifier as its own ensemble, and get the same network back:")
    print("same size, same speed.\n")
    for name, command in COMMANDS.items():
        print(f"  {name:9} {command.summary}\n            {command.example}")
    print("\n`coterie COMMAND --help` explains a command's options.")


__all__ = ["COMMANDS", "Command", "main"]
