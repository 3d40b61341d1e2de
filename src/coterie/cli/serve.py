"""``coterie serve``. Nothing here needs torch until a Run is opened."""

import warnings
from dataclasses import fields
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace
from PIL import Image

from coterie.bounds import PositiveInt
from coterie.checking import check_value
from coterie.cli.arguments import new_parser
from coterie.console.terminal import say
from coterie.errors import UserError
from coterie.extras import need
from coterie.serving.networks import open_served
from coterie.serving.options import ServingOptions

if TYPE_CHECKING:
    from coterie.run import Run

_ABOUT = {
    "max_batch": "the most images that the network is given at once",
    "batch_wait_ms": "how long an image waits for others that are accepted already, to share a batch",
    "queue": "how many images are accepted and not yet answered; beyond it: 429 with Retry-After",
    "deadline_ms": "from a request's last byte to its answer; beyond it: 503 if it was waiting, else 504",
    "max_bytes": "of an image's file; beyond it: 413",
    "max_pixels": "of an image, width times height, before it is decoded; beyond it: 413",
    "max_images": "of a request; beyond it: 413",
}


def serve_parser(given: list[str]) -> ArgumentParser:
    """Options of ``coterie serve``."""
    parser = new_parser()
    about = "an exported .onnx file, for which no torch is needed; or a Run folder, or an exported .safetensors file"
    parser.add_argument("source", help=about)
    parser.add_argument("--student", type=str, default=None, help="which deliverable of a Run, for example ensemble")
    about = "the address to listen at; 127.0.0.1 is reached from this machine alone, 0.0.0.0 from everywhere"
    parser.add_argument("--host", type=str, default="127.0.0.1", help=about)
    parser.add_argument("--port", type=int, default=8000, help="0 for any that is free")
    about = "of the CPU, for the network (default: the runtime's choice)"
    parser.add_argument("--threads", type=int | None, default=None, help=about)
    for field in fields(ServingOptions):
        parser.add_argument(f"--{field.name}", type=field.type, default=field.default, help=_ABOUT[field.name])
    about = "package.module:Class of a method of your own; short: --method"
    parser.add_argument("--method.name", type=str | None, default=None, help=about)
    return parser


def run_serve(given: Namespace) -> None:
    """Open the network, then answer until SIGTERM or Ctrl-C."""
    options = ServingOptions(**{field.name: given[field.name] for field in fields(ServingOptions)})
    threads = check_value("⟨threads⟩", given.threads, PositiveInt | None)
    if not 0 <= given.port <= 65535:
        raise UserError(f"⟨port {given.port}⟩: use a number from 0 to 65535")
    for library in ("fastapi", "uvicorn", "python_multipart"):
        need(library, "serve")
    # These need what has just been asked for.
    from coterie.serving.process import serve

    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # such images are refused, in an answer
    served = open_served(_source(given), given.student, threads)
    beside = " beside its ensemble" if served.ensemble is not None else ""
    say(f"coterie: serving {served.student}{beside} of {given.source}")
    serve(served, options, given.host, given.port, lambda line: print(f"coterie: {line}", flush=True))


def _source(given: Namespace) -> "Run | str":
    """What is served: a file, or a Run, of one's own method where it is the one that is named."""
    source: str = given.source
    if given.method.name is None:
        return source
    from coterie.cli.runs import open_run  # torch

    return open_run(source, given)
