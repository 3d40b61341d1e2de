"""The forms in which a network can be run: a Run's deliverables, their ONNX, exported files."""

import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coterie.deploy.formats import Logits, export
from coterie.deploy.opening import no_such_file, open_in_pytorch, open_source, prepares, refusal_of_prepared
from coterie.errors import UserError
from coterie.extras import is_installed, need
from coterie.records import Card, parse_card
from coterie.run import Run

Network = Callable[[Tensor, int], Tensor]

# In kilobytes. Linux counts in ru_maxrss what the process was before it became this one; VmHWM it does not.
_ASK = """
import resource, sys
try:
    print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
except (OSError, StopIteration):
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1))
"""
_WITH_TORCH = "import sys; from coterie.deploy.forms import run_once; run_once(*sys.argv[1:])"
_WITH_ONNX = """
import sys, numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
shape = [int(size) for size in sys.argv[3].split(",")]
session.run(None, {session.get_inputs()[0].name: numpy.zeros(shape, "float32")})
"""
_PATIENCE = 120  # seconds that a process has to say how much memory it took


@dataclass(frozen=True)
class Runnable:
    """A form before it is timed: its file, its card, and what runs it with so many threads."""

    name: str
    runtime: str
    file: Path
    card: Card
    network: Network
    script: str
    arguments: tuple[str, ...]


def as_onnx(run: Run, folder: Path, data: Mapping[str, Any]) -> list[Runnable]:
    """A Run's default deliverable as float32 ONNX; nothing where that cannot be."""
    if not all(map(is_installed, ("onnx", "onnxscript", "onnxruntime"))):
        return []
    folder.mkdir()
    path = export(run, "onnx", folder / "network.onnx", **data).path
    return [_of_onnx(path, f"{run.path}: {run.student(None)}")]


def of_run(run: Run) -> list[Runnable]:
    """A Run's default deliverable and its ensembles in PyTorch."""
    card = run.card
    students = [run.student(None), *(name for name in card["deliverables"] if name.startswith("ensemble"))]
    return [
        _of_torch(
            Logits(run.network(name)).eval(),
            {**card, "student": name},
            run.weights_path(name),
            f"{run.path}: {name}",
            (str(run.path), name),
        )
        for name in dict.fromkeys(students)
    ]


def of_file(path: Path) -> Runnable:
    """An exported file, or a folder for timm.

    Raises:
        UserError: It is missing or damaged.
    """
    if path.suffix == ".onnx":
        if not path.is_file():
            raise no_such_file(path)
        return _of_onnx(path, str(path))
    card, logits = open_in_pytorch(path)
    return _of_torch(logits, card, path / "model.safetensors" if path.is_dir() else path, str(path), (str(path), ""))


def _of_torch(
    logits: Callable[[Tensor], Tensor], card: Any, file: Path, name: str, arguments: tuple[str, str]
) -> Runnable:

    def run(images: Tensor, threads: int) -> Tensor:
        torch.set_num_threads(threads)
        return logits(images)

    script = _WITH_TORCH if card["network"] is not None else ""  # a module of the user's own has no name to open it by
    return Runnable(name, "PyTorch", file, card, run, script, arguments)


def _of_onnx(path: Path, name: str) -> Runnable:
    onnxruntime, sessions = need("onnxruntime", "export"), dict[int, Any]()

    def session(threads: int) -> Any:
        if threads not in sessions:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            try:
                sessions[threads] = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            except Exception as error:
                raise UserError(f"{path}: damaged or no ONNX file; export it again") from error
        return sessions[threads]

    def run(images: Tensor, threads: int) -> Tensor:
        opened = session(threads)
        return torch.from_numpy(np.asarray(opened.run(None, {opened.get_inputs()[0].name: images.numpy()})[0]))

    card = parse_card(session(1).get_modelmeta().custom_metadata_map.get("coterie"), path)
    if prepares(card):
        raise refusal_of_prepared(path)
    return Runnable(name, "ONNX Runtime", path, card, run, _WITH_ONNX, (str(path), ""))


def memory_of(form: Runnable, batch_size: int) -> float | None:
    """The most megabytes that a process of its own took to load the form and run a batch with one thread."""
    if not form.script or sys.platform == "win32":  # which has no such figure
        return None
    shape = ",".join(map(str, (batch_size, form.card["channels"], *form.card["image_size"])))
    command = [sys.executable, "-c", form.script + "\n" + _ASK, *form.arguments, shape]
    try:
        answer = subprocess.run(command, check=True, capture_output=True, text=True, timeout=_PATIENCE).stdout
    except (subprocess.SubprocessError, OSError):
        return None
    return int(answer.split()[-1]) * 1024 / 1e6


def run_once(source: str, student: str, shape: str) -> None:
    """Open a Run or a file, and run zeros of a shape such as ``32,3,32,32``; what :func:`bench` asks processes for."""
    torch.set_num_threads(1)
    open_source(source, student or None).answer(torch.zeros([int(size) for size in shape.split(",")]))
