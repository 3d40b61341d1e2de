"""The commands that ask a trained network: ``coterie evaluate`` and ``coterie predict``."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace

import coterie
from coterie.bounds import PositiveInt
from coterie.checking import check_value
from coterie.cli.arguments import check_data_name, new_parser
from coterie.cli.figures import print_figures, write_figures
from coterie.cli.runs import METHOD, ROOT, STUDENT, data_options, open_run
from coterie.console.counting import Counter, show_counts
from coterie.console.terminal import say
from coterie.data.say import plural
from coterie.deploy.images import Item, items_of
from coterie.deploy.measuring import measure
from coterie.deploy.opening import is_exported, open_source
from coterie.deploy.prediction import Prediction, check_copies, classify
from coterie.deploy.results import results_file, results_path
from coterie.errors import UserError
from coterie.evaluation.figures import percent_interval
from coterie.evaluation.tta import check_test_time, passes, passes_line

_SOURCE: tuple[str, dict[str, Any]] = ("source", {"help": "a Run folder, or an exported .onnx or .safetensors file"})

TTA: tuple[str, dict[str, Any]] = (
    "--tta",
    {
        "type": int | str | None,
        "default": None,
        "help": "average over each image and its mirror image (flip), or over so many moved views (a number)",
    },
)
_OF_A_CSV = {
    "file": "of data csv: another list of images and labels",
    "image_column": "of data csv: the column that names the images",
    "label_column": "of data csv: the column of their classes",
    "split_column": "of data csv: the column that says train, val or test",
}


def _source(given: Namespace) -> coterie.Run | str:
    """What is asked: an exported file, or a Run, of one's own method where it is the one that is named."""
    source: str = given.source
    return source if is_exported(source) or given.method.name is None else open_run(source, given)


def evaluate_parser(given: list[str]) -> ArgumentParser:
    """Options of ``coterie evaluate``."""
    parser = new_parser()
    parser.add_argument(_SOURCE[0], **_SOURCE[1])
    parser.add_argument(STUDENT[0], **STUDENT[1])
    parser.add_argument("--split", type=Literal["test", "validation", "train"], default="test", help="which images")
    about = "other data of the same classes; of an exported file, its data; short: --data"
    parser.add_argument("--data.name", type=str | None, default=None, help=about)
    parser.add_argument(ROOT[0], **ROOT[1])
    for option, about in _OF_A_CSV.items():
        parser.add_argument(f"--data.{option}", type=str | None, default=None, help=about)
    parser.add_argument(METHOD[0], **METHOD[1])
    parser.add_argument(TTA[0], **TTA[1])
    about = "how many classes are shown, the worst by recall, or all (default: 5; in JSON and CSV all)"
    parser.add_argument("--classes", type=int | Literal["all"] | None, default=None, help=about)
    about = "of what is printed, or of --out (default: as its name ends)"
    parser.add_argument("--format", type=Literal["text", "json", "csv"] | None, default=None, help=about)
    parser.add_argument("--out", type=str | None, default=None, help="a file for the figures; the tables are printed")
    return parser


def run_evaluate(given: Namespace) -> None:
    """Print what a network is worth, or write it to a file."""
    if given.data.name is not None:
        check_data_name(given.data.name)
    if given.classes not in (None, "all"):
        check_value("⟨classes⟩", given.classes, PositiveInt)
    write = None if given.out is None else write_figures(given.out, given.format)
    with show_counts():
        measured = measure(
            _source(given), student=given.student, split=given.split, tta=given.tta, **data_options(given)
        )
    if write is not None:
        write(measured, given.classes)
    print_figures(measured, "text" if write is not None else given.format or "text", given.classes)


def predict_parser(given: list[str]) -> ArgumentParser:
    """Options of ``coterie predict``."""
    parser = new_parser()
    parser.add_argument(_SOURCE[0], **_SOURCE[1])
    about = "image files, folders, patterns in quotes, or - for a list on standard input"
    parser.add_argument("images", nargs="+", help=about)
    parser.add_argument(STUDENT[0], **STUDENT[1])
    parser.add_argument(METHOD[0], **METHOD[1])
    parser.add_argument("--top", type=int, default=3, help="how many classes to name")
    parser.add_argument("--batch_size", type=int, default=64, help="how many images the network is given at once")
    parser.add_argument(TTA[0], **TTA[1])
    parser.add_argument("--out", type=str | None, default=None, help="a .csv or .jsonl file in place of the lines")
    about = "go on without images that cannot be read, and count them"
    parser.add_argument("--skip_damaged", action="store_true", help=about)
    return parser


def run_predict(given: Namespace) -> None:
    """Print a line for each image or write them to a file, then what is known of them all."""
    top = check_value("⟨top⟩", given.top, PositiveInt)
    batch_size = check_value("⟨batch_size⟩", given.batch_size, PositiveInt)
    tta = check_test_time(given.tta)
    out = None if given.out is None else results_path(given.out)
    items, total = _items(given.images)
    opened = open_source(_source(given), given.student)
    check_copies(opened, tta)
    tally = _Tally()
    with ExitStack() as stack:
        facts = {} if tta is None else {"tta": tta, "forward_passes": passes(tta)}
        columns = min(top, len(opened.card["classes"]))
        write = _print if out is None else stack.enter_context(results_file(out, columns, facts))
        counter = stack.enter_context(Counter("images", total))
        damaged = tally.add_damaged if given.skip_damaged else None
        for said in classify(opened, items, top, batch_size, damaged, tta):
            write(said)
            tally.add(said)
            counter.advance()
        tally.check()
    tally.say()
    if tta is not None:
        say(f"coterie: {passes_line(tta)}", sys.stderr)
    if out is not None:
        say(f"{out}: {plural(tally.images, 'image')}")


def _items(names: list[str]) -> tuple[Iterable[Item], int | None]:
    """The images that the command line names, and how many they are where no list on standard input is among them."""
    if "-" in names:
        return items_of(_with_list(names)), None
    items = list(items_of(names))
    return items, len(items)


def _with_list(names: list[str]) -> Iterator[str]:
    """The names, those on standard input in the place of ``-``, each read when its turn comes."""
    reconfigure = getattr(sys.stdin, "reconfigure", None)  # a test's stream has none
    if reconfigure is not None:
        reconfigure(errors="surrogateescape")  # as Python reads names of files that are no UTF-8
    for name in names:
        if name != "-":
            yield name
            continue
        try:
            yield from (line.rstrip("\r\n") for line in sys.stdin if line.strip())
        except (OSError, ValueError) as error:  # closed, or bytes that are no text
            raise UserError("standard input cannot be read as a list of images; give a name a line") from error


def _print(said: Prediction) -> None:
    pairs = zip(said.classes, said.probabilities, strict=True)
    say(f"{said.path}  " + "  ".join(f"{name} {value:.1%}" for name, value in pairs))


class _Tally:
    """Counts images, those that could not be read, and those that lie in a class's folder."""

    def __init__(self) -> None:
        self.images = self.damaged = self.labelled = self.wrong = 0

    def add(self, said: Prediction) -> None:
        """One image."""
        self.images += 1
        self.labelled += said.label is not None
        self.wrong += said.label is not None and said.label != said.classes[0]

    def add_damaged(self, error: UserError) -> None:
        """One that could not be read."""
        self.damaged += 1
        say(f"coterie: skipped {error.with_flags()}", sys.stderr)

    def check(self) -> None:
        """Refuse to say nothing of nothing.

        Raises:
            UserError: No image was given, or none could be read.
        """
        if not self.images and self.damaged:
            raise UserError(f"none of {plural(self.damaged, 'image')} could be read; name image files")
        if not self.images:
            raise UserError("the list of images is empty; name image files, a line each")

    def say(self) -> None:
        """What is known at the end, on standard error: standard output has a line for each image alone."""
        if self.damaged:
            of = self.damaged + self.images
            say(f"coterie: skipped {self.damaged} of {plural(of, 'image')}, which could not be read", sys.stderr)
        if self.labelled:
            low, high = percent_interval(self.wrong, self.labelled)
            others = self.images - self.labelled
            rest = f"; {plural(others, 'other image')} in no class's folder" if others else ""
            say(
                f"coterie: {self.wrong} of {plural(self.labelled, 'image')} in folders named as classes are wrong: "
                f"error {100 * self.wrong / self.labelled:.2f} % [{low:.2f}, {high:.2f}]{rest}",
                sys.stderr,
            )
