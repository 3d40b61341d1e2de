"""The deployable network in a form of its own, with what is needed to serve it, checked against the original."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from coterie.bounds import Bounds
from coterie.checking import check_value
from coterie.deploy.formats.base import Deliverable, Logits, Written, card_path
from coterie.deploy.formats.folders import new_folder
from coterie.deploy.formats.graph import ONNX, ONNX_WHOLE, onnx_session
from coterie.deploy.formats.hub import check_hub, push
from coterie.deploy.formats.int8 import quantised
from coterie.deploy.formats.program import TORCH_EXPORT
from coterie.deploy.formats.readme import model_card
from coterie.deploy.formats.subject import deliverable_of
from coterie.deploy.formats.timm_folder import TIMM, check_timm
from coterie.deploy.formats.weights import SAFETENSORS
from coterie.errors import UserError
from coterie.files import locked, replacing, write_text
from coterie.run import Run

__all__ = ["FORMATS", "Exported", "Format", "Logits", "export", "onnx_session"]

Format = Literal["safetensors", "onnx", "onnx-int8", "timm", "torch-export"]
FORMATS: tuple[str, ...] = get_args(Format)

Points = Annotated[float, Bounds(least=0, most=100)]
_TOLERANCE = 0.5

_WRITTEN: dict[str, Written] = {
    "safetensors": SAFETENSORS,
    "onnx": ONNX,
    "onnx-int8": quantised(_TOLERANCE),
    "timm": TIMM,
    "torch-export": TORCH_EXPORT,
}
_MEND = "choose another ⟨out⟩"


@dataclass(frozen=True)
class Exported:
    """What was written, and how it agreed with the network on test images before it was put in place.

    Attributes:
        path: The file, whose card stands beside it under the file's whole name and ``.json``: ``net.onnx.json``. Or the
            folder, whose card is ``coterie.json`` in it.
        difference: Largest difference of its logits from PyTorch's.
        images: How many test images were compared.
        agreement: Share of them, in [0, 1], of which it names the same class.
        error_change: Its error on them less the network's, in percent points.
        uploaded: The address on the Hugging Face Hub; None where it was not uploaded.
    """

    path: Path
    difference: float
    images: int
    agreement: float = 1.0
    error_change: float = 0.0
    uploaded: str | None = None


def export(
    run: Run | str | Path,
    format: Format,
    out: str | Path,
    student: str | None = None,
    *,
    with_preprocessing: bool = False,
    tolerance: Points = _TOLERANCE,
    license: str = "unknown",
    push_to_hub: str | None = None,
    **data: Any,
) -> Exported:
    """Write a run's deployable network, check it on real test images, and only then put it in place.

    What can be opened without coterie (all but the weights of networks that no library has) is opened again in a
    process without it.

    Args:
        run: A finished run, or its folder.
        format: ``safetensors`` (weights by a plain model's names), or for any number of images ``onnx``, ``onnx-int8``
            (of 8 bits, with ranges from training images) and ``torch-export`` (a program for ``torch.export.load``);
            or of timm's networks ``timm``, a folder for ``timm.create_model("local-dir:FOLDER", pretrained=True)``.
        out: The file, whose name ends in ``.safetensors``, ``.onnx`` or, for ``torch-export``, ``.pt2``; or the folder.
        student: Which deliverable; None for the default one.
        with_preprocessing: Of ``onnx``: whether resizing, crop and normalisation are in the graph, which then takes one
            image, uint8 (H, W, channels) of any size, upright and without transparency.
        tolerance: Of ``onnx-int8``: by how many percent points top-1 may fall on the test images, from 0 to 100.
        license: Of ``timm``: the weights' licence, by its name on the Hugging Face Hub, such as ``mit``.
        push_to_hub: Of ``timm``: the name under which the folder is uploaded there, ``OWNER/NAME``; None to keep it
            here.
        data: Options of :func:`coterie.data.load` in place of the run's, for example ``root`` where the images are now.

    Raises:
        UserError: The format is unknown, not the file name's or not for this network, the file exists, the run has not
            finished, or the file does not compute what the network computes.
    """
    run = Run.of(run)
    path = check_value("out", out, Path)
    _check_name(path, format)
    if format != "timm" and (push_to_hub is not None or license != "unknown"):
        option = f"⟨push_to_hub {push_to_hub}⟩" if push_to_hub is not None else f"⟨license {license}⟩"
        raise UserError(f"{option}: of folders for timm alone; give ⟨format timm⟩, or leave it out")
    if format != "onnx" and with_preprocessing:
        raise UserError("⟨with_preprocessing true⟩: of ONNX files alone; give ⟨format onnx⟩, or leave it out")
    tolerance = check_value("⟨tolerance⟩", tolerance, Points)
    if format != "onnx-int8" and tolerance != _TOLERANCE:
        raise UserError(f"⟨tolerance {tolerance:g}⟩: of int8 files alone; give ⟨format onnx-int8⟩, or leave it out")
    if push_to_hub is not None:
        check_hub(push_to_hub)
    written = quantised(tolerance) if format == "onnx-int8" else ONNX_WHOLE if with_preprocessing else _WRITTEN[format]
    refusal = f"{path}: another coterie command is writing it; wait for it, or {_MEND}"
    with locked(path.with_name(f".{path.name}.lock"), refusal):
        done = _export(run, written, path, student, license, data)
    if push_to_hub is None:
        return done
    return Exported(**{**vars(done), "uploaded": push(path, push_to_hub)})


def _export(
    run: Run, written: Written, path: Path, student: str | None, licence: str, data: Mapping[str, Any]
) -> Exported:
    """What ``export`` does while no other command writes the file."""
    folder = not written.ending
    for file in dict.fromkeys((path, card_path(path, folder))):  # of a folder these are the same
        if file.exists():
            raise UserError(f"{file}: exists already; {_MEND}")
    deliverable = deliverable_of(run, student, written.images, written is ONNX_WHOLE, data)
    if written is TIMM:
        check_timm(deliverable)
    with new_folder(path) if folder else replacing(path) as temporary:
        written.write(deliverable, temporary)
        done = _compare(deliverable, written, path, temporary)
        checked = {name: value for name, value in vars(done).items() if name not in ("path", "uploaded")}
        deliverable.card["checked"] = checked
        if folder:
            card_path(temporary, folder).write_text(_as_text(deliverable), encoding="utf-8")
            (temporary / "README.md").write_text(model_card(deliverable, path.name, licence), encoding="utf-8")
    if not folder:
        write_text(card_path(path), _as_text(deliverable))
    return done


def _as_text(deliverable: Deliverable) -> str:
    return json.dumps(deliverable.card, indent=2, ensure_ascii=False) + "\n"


def _compare(deliverable: Deliverable, written: Written, path: Path, temporary: Path) -> Exported:
    """How the file agrees with the network.

    Raises:
        UserError: It does not.
    """
    try:
        logits = written.again(deliverable, temporary)
    except UserError as error:  # which names the file as it was called while it was written
        raise UserError(error.args[0].replace(str(temporary), str(path))) from error
    expected, labels = deliverable.logits, deliverable.labels
    difference = float((logits - expected).abs().max())
    allowed = written.tolerance * max(1.0, float(expected.abs().max()))
    if not difference <= allowed:
        raise UserError(f"{path}: differs from the network by {difference:.2g} (more than {allowed:.2g}); not written")
    theirs, ours = logits.argmax(1), expected.argmax(1)
    agreement = (theirs == ours).double().mean().item()
    error_change = round(100 * ((theirs != labels).double().mean() - (ours != labels).double().mean()).item(), 6)
    if written.most_lost is not None and error_change > written.most_lost:
        raise UserError(
            f"{path}: top-1 falls by {error_change:.2f} points on {len(labels)} test images (more than "
            f"⟨tolerance {written.most_lost:g}⟩); not written"
        )
    return Exported(path, difference, len(labels), agreement, error_change)


def _check_name(path: Path, format: str) -> None:
    """Refuse a file name that says another format than is written: readers go by it."""
    if format not in FORMATS:
        raise UserError(f"⟨format {format}⟩: unknown; use {' or '.join(FORMATS)}")
    ending = _WRITTEN[format].ending
    named = next((name for name, other in _WRITTEN.items() if other.ending and path.name.endswith(other.ending)), None)
    if ending and path.is_dir():
        raise UserError(f"{path}: is a folder; name a file in it")
    if path.name.endswith(ending) and (ending or named is None):
        return
    mend = f"⟨format {named}⟩, or " if named is not None else ""
    if not ending:
        raise UserError(f"⟨out {path}⟩: a name of a file; give {mend}⟨out {path.with_suffix('')}⟩ for the folder")
    file = f"{path.with_suffix('')}{ending}"
    raise UserError(f"⟨out {path}⟩: the name of a file of {format} ends in {ending}; give {mend}⟨out {file}⟩")
