"""What answers with logits: a Run's network, or a file that ``coterie export`` made."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coterie.deploy.formats import Logits, onnx_session
from coterie.errors import UserError, in_a_line
from coterie.files import user_path
from coterie.records import Card, parse_card
from coterie.run import Run, open_exported

_SUFFIXES = (".onnx", ".safetensors")


@dataclass(frozen=True)
class Opened:
    """A network that is ready to answer.

    Attributes:
        path: Of the Run or the exported file.
        card: What the network is.
        answer: Normalised images (B, channels, H, W) to logits (B, C). It refuses a network that is not its card's.
    """

    path: Path
    card: Card
    answer: Callable[[Tensor], Tensor]


def is_exported(source: Run | str | Path) -> bool:
    """Whether this names an exported file, and no Run."""
    return isinstance(source, str | PathLike) and user_path(source).suffix in _SUFFIXES


def open_source(source: Run | str | Path, student: str | None = None) -> Opened:
    """Open a Run's network or an exported file.

    Args:
        source: A run, its folder, or an exported ``.safetensors`` or ``.onnx`` file.
        student: Which deliverable of a run; None for the default one.

    Raises:
        UserError: It is none of these, or a student of an exported file was asked for.
    """
    if not is_exported(source):
        run = Run.of(source)
        return _opened(run.path, run.card, torch.inference_mode()(Logits(run.network(student)).eval()))
    assert not isinstance(source, Run)
    if student is not None:
        raise UserError("⟨student⟩: an exported file holds one network; choose it when you export")
    path = user_path(source)
    if not path.is_file():
        raise UserError(f"{path}: no such file; name a Run folder, or a file that `coterie export` made")
    if path.suffix == ".onnx":
        session = onnx_session(path)
        card = parse_card(session.get_modelmeta().custom_metadata_map.get("coterie"), path)
        return _opened(path, card, partial(_run_session, session))
    card, network = open_exported(path)
    return _opened(path, card, torch.inference_mode()(Logits(network).eval()))


def _run_session(session: Any, images: Tensor) -> Tensor:
    name = session.get_inputs()[0].name
    return torch.from_numpy(np.asarray(session.run(None, {name: images.contiguous().numpy()})[0]))


def _opened(path: Path, card: Card, network: Callable[[Tensor], Tensor]) -> Opened:
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

    return Opened(path, card, answer)
