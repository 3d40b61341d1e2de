"""The deployable network in a file of its own, with what is needed to serve it, checked against the original."""

import json
import logging
import warnings
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from coterie.checking import check_value
from coterie.data import evaluation_batches
from coterie.errors import UserError
from coterie.extras import need
from coterie.files import locked, replacing, write_text
from coterie.outputs import answer
from coterie.run import Run, load_weights, portable_state

Format = Literal["safetensors", "onnx"]
FORMATS: tuple[str, ...] = get_args(Format)

# Largest difference of float32 logits, as a share of their largest value, that another runtime may show.
_TOLERANCE = 1e-3
_CHECKED = 64


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: The file; its card stands beside it under the file's whole name and ``.json``: ``net.onnx.json``.
        difference: Largest difference of its logits from PyTorch's on ``images`` real test images.
        images: How many were compared.
    """

    path: Path
    difference: float
    images: int


class Logits(nn.Module):
    """A deliverable as images to logits (B, C): the ensemble's, where the network is a group of peers."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, channels, H, W) to logits (B, C)."""
        return answer(self.network(images))


def export(run: Run | str | Path, format: Format, out: str | Path, student: str | None = None, **data: Any) -> Exported:
    """Write a run's deployable network, check it on real test images, and only then put it in place.

    Args:
        run: A finished run, or its folder.
        format: ``safetensors`` (weights by a plain model's names) or ``onnx`` (dynamic batch).
        out: The file, whose name ends in ``.safetensors`` or ``.onnx``, as the format does.
        student: Which deliverable; None for the default one.
        data: Options of :func:`coterie.data.load` in place of the run's, for example ``root`` where the images are now.

    Raises:
        UserError: The format is unknown or not the file name's, the file exists, the run has not finished, or the file
            does not compute what the network computes.
    """
    run = Run.of(run)
    path = check_value("out", out, Path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file in it")
    _check_suffix(path, format)
    refusal = f"{path}: another coterie command is writing it; wait for it, or choose another ⟨out⟩"
    with locked(path.with_name(f".{path.name}.lock"), refusal):
        return _export(run, format, path, student, data)


def _export(run: Run, format: Format, path: Path, student: str | None, data: Mapping[str, Any]) -> Exported:
    """What ``export`` does while no other command writes the file."""
    beside = card_path(path)
    for file in (path, beside):
        if file.exists():
            raise UserError(f"{file}: exists already; choose another ⟨out⟩")
    network = run.network(student)
    images = _real_images(run, data)
    with torch.inference_mode():
        expected = Logits(network)(images)
    card = run.card
    card["student"], card["epochs"] = run.student(student), run.config["epochs"]
    with replacing(path) as temporary:
        if format == "onnx":
            _write_onnx(network, images, card, temporary)
            difference = float((run_onnx(temporary, images) - expected).abs().max())
        else:
            save_file(portable_state(network), temporary, metadata={"coterie": json.dumps(card)})
            again = run.network(student)
            load_weights(again, temporary)
            with torch.inference_mode():
                difference = float((Logits(again)(images) - expected).abs().max())
        allowed = _TOLERANCE * max(1.0, float(expected.abs().max()))
        if not difference <= allowed:
            raise UserError(
                f"{path}: differs from the network by {difference:.2g} (more than {allowed:.2g}); not written"
            )
    write_text(beside, json.dumps(card, indent=2, ensure_ascii=False) + "\n")
    return Exported(path, difference, len(images))


def card_path(path: Path) -> Path:
    """Where the card of an exported file stands: beside it, so that two formats of one name have a card each."""
    return path.with_name(f"{path.name}.json")


def run_onnx(path: Path, images: Tensor) -> Tensor:
    """Logits (B, C) of an ONNX file for normalised images (B, channels, H, W), by ONNX Runtime on the CPU.

    Raises:
        UserError: It is no ONNX file.
    """
    return torch.from_numpy(onnx_session(path).run(None, {"images": images.contiguous().numpy()})[0])


def onnx_session(path: Path) -> Any:
    """An ONNX Runtime session.

    Raises:
        UserError: It is no ONNX file.
    """
    onnxruntime = need("onnxruntime", "export")
    try:
        return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:
        raise UserError(f"{path}: damaged or no ONNX file; export it again") from error


def _check_suffix(path: Path, format: str) -> None:
    """Refuse a file name that says another format than is written: readers go by it."""
    if format not in FORMATS:
        raise UserError(f"⟨format {format}⟩: unknown; use {' or '.join(FORMATS)}")
    if path.suffix == f".{format}":
        return
    named = path.suffix.removeprefix(".")
    mend = f"⟨format {named}⟩, or " if named in FORMATS else ""
    file = f"{path.with_suffix('')}.{format}"
    raise UserError(f"⟨out {path}⟩: the name of a file of {format} ends in .{format}; give {mend}⟨out {file}⟩")


def _real_images(run: Run, options: Mapping[str, Any]) -> Tensor:
    data = run.data(**options)
    return next(evaluation_batches(data, data.test, batch_size=_CHECKED)).images


def _write_onnx(network: nn.Module, images: Tensor, card: Mapping[str, Any], path: Path) -> None:
    onnx = need("onnx", "export")
    need("onnxscript", "export")  # which PyTorch's exporter imports
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")  # the exporter's own deprecations are not the user's concern
        program = torch.onnx.export(
            Logits(network).eval(),
            (images[:2].contiguous(),),
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: "batch"},),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, {"coterie": json.dumps(card)})
    onnx.save(model, str(path))
