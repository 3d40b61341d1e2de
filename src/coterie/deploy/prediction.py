"""Classes and probabilities of image files, from a Run or an exported file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coterie.bounds import PositiveInt
from coterie.checking import check_value
from coterie.data import decode
from coterie.data.say import say_once
from coterie.data.transforms import normalise
from coterie.deploy.formats import Logits, onnx_session
from coterie.errors import UserError, in_a_line
from coterie.files import user_path
from coterie.records import Card, parse_card
from coterie.run import Run, open_exported


@dataclass(frozen=True)
class Prediction:
    """What a network says of an image.

    Attributes:
        path: The image's file.
        classes: The likeliest classes, best first.
        probabilities: Theirs, in [0, 1].
    """

    path: Path
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


def predict(
    source: Run | str | Path, images: str | Path | Sequence[str | Path], *, student: str | None = None, top: int = 3
) -> list[Prediction]:
    """Classify image files.

    Args:
        source: A run, its folder, or an exported ``.safetensors`` or ``.onnx`` file.
        images: Files of any format and size, or one of them.
        student: Which deliverable of a run; None for the default one.
        top: How many classes to name for each image.

    Raises:
        UserError: The source is none of these, or an image does not decode.
    """
    top = check_value("⟨top⟩", top, PositiveInt)
    files = [images] if isinstance(images, str | PathLike) else images
    if any(str(file) == "" for file in files):
        raise UserError("the name of an image is empty; name image files")
    card, network = _open(source, student)
    classes = card["classes"]
    framing = card.get("crop_ratio", 1.0), card.get("interpolation", "bicubic")  # cards of 0.1.0 do not say it
    found = []
    for path in map(user_path, files):
        size, span = card["image_size"], card.get("pixel_range")
        pixels = decode(path, size, card["channels"], span, say_once, False, *framing)
        batch = normalise(torch.from_numpy(pixels.copy()).unsqueeze(0), card["mean"], card["std"])
        best = network(batch)[0].softmax(0).topk(min(top, len(classes)))
        names = tuple(classes[index] for index in best.indices.tolist())
        found.append(Prediction(path, names, tuple(best.values.tolist())))
    return found


def _open(source: Run | str | Path, student: str | None) -> tuple[Card, Callable[[Tensor], Tensor]]:
    if not isinstance(source, Run) and user_path(source).suffix == ".onnx":
        _refuse(student)
        path = _check_file(user_path(source))
        session = onnx_session(path)
        card = parse_card(session.get_modelmeta().custom_metadata_map.get("coterie"), path)
        return card, _check_answers(partial(_run_session, session), card, path)
    if not isinstance(source, Run) and user_path(source).suffix == ".safetensors":
        _refuse(student)
        path = _check_file(user_path(source))
        card, network = open_exported(path)
    else:
        run = source if isinstance(source, Run) else Run(source)
        path, card, network = run.path, run.card, run.network(student)
    logits = Logits(network).eval()
    return card, _check_answers(torch.inference_mode()(logits), card, path)


def _run_session(session: Any, images: Tensor) -> Tensor:
    name = session.get_inputs()[0].name
    return torch.from_numpy(np.asarray(session.run(None, {name: images.contiguous().numpy()})[0]))


def _check_answers(network: Callable[[Tensor], Tensor], card: Card, path: Path) -> Callable[[Tensor], Tensor]:
    """The network, which is refused where it is not the one that its card describes."""

    def answer(images: Tensor) -> Tensor:
        try:
            logits = network(images)
        except Exception as error:  # a runtime raises errors of its own
            raise UserError(
                f"{path}: cannot be run on images of its card ({in_a_line(error)}); export it again"
            ) from error
        if logits.shape != (len(images), len(card["classes"])):
            raise UserError(
                f"{path}: gives {list(logits.shape)} for {len(images)} images, and its card has "
                f"{len(card['classes'])} classes; export it again"
            )
        return logits

    return answer


def _check_file(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"{path}: no such file; name a Run folder, or a file that `coterie export` made")
    return path


def _refuse(student: str | None) -> None:
    if student is not None:
        raise UserError("⟨student⟩: an exported file holds one network; choose it when you export")
