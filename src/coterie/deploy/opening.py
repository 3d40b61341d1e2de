"""What answers with logits: a Run's network, or a file or folder that ``coterie export`` made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coterie.deploy.formats import Logits, onnx_session
from coterie.deploy.formats.program import open_program
from coterie.deploy.formats.timm_folder import is_timm_folder, open_timm_folder
from coterie.errors import UserError, in_a_line
from coterie.files import user_path
from coterie.records import Card, parse_card
from coterie.run import Run, open_exported

_SUFFIXES = (".onnx", ".safetensors", ".pt2")


@dataclass(frozen=True)
class Opened:
    """A network that is ready to answer.

    Attributes:
        path: Of the Run or the exported file.
        card: What the network is.
        answer: Normalised images (B, channels, H, W) to logits (B, C). It refuses a network that is not its card's.
        answer_whole: Whole images, uint8 (H, W, channels) of any size, to logits (B, C), of a file that prepares them
            itself; else None.
    """

    path: Path
    card: Card
    answer: Callable[[Tensor], Tensor]
    answer_whole: Callable[[Sequence[np.ndarray[Any, Any]]], Tensor] | None = None


def is_exported(source: Run | str | Path) -> bool:
    """Whether this names an exported file or folder, and no Run."""
    if not isinstance(source, str | PathLike):
        return False
    path = user_path(source)
    return path.suffix in _SUFFIXES or is_timm_folder(path)


def open_in_pytorch(path: Path) -> tuple[Card, Callable[[Tensor], Tensor]]:
    """The card of an exported file or folder that PyTorch runs, and what gives logits (B, C) for normalised images.

    Raises:
        UserError: It is missing, damaged or without a card.
    """
    if path.suffix not in _SUFFIXES and is_timm_folder(path):
        return open_timm_folder(path)
    if not path.is_file():
        raise no_such_file(path)
    if path.suffix == ".pt2":
        return open_program(path)
    card, network = open_exported(path)
    return card, Logits(network).eval()


def no_such_file(path: Path) -> UserError:
    """The refusal of a file that is not there."""
    return UserError(f"{path}: no such file; name a Run folder, or a file that `coterie export` made")


def open_source(source: Run | str | Path, student: str | None = None) -> Opened:
    """Open a Run's network or an exported file.

    Args:
        source: A run, its folder, or an exported ``.safetensors``, ``.onnx`` or ``.pt2`` file or folder for timm.
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
    if path.suffix == ".onnx":
        if not path.is_file():
            raise no_such_file(path)
        session = onnx_session(path)
        card = parse_card(session.get_modelmeta().custom_metadata_map.get("coterie"), path)
        if prepares(card):
            return Opened(path, card, partial(_refuse, path), partial(_run_whole, session))
        return _opened(path, card, partial(_run_session, session))
    card, network = open_in_pytorch(path)
    return _opened(path, card, torch.inference_mode()(network))


def prepares(card: Card) -> bool:
    """Whether an exported file prepares whole images itself."""
    return bool(card.get("preprocessing", {}).get("in_graph"))


def refusal_of_prepared(path: Path) -> UserError:
    """The refusal of a file that prepares whole images, where prepared ones are at hand."""
    return UserError(
        f"{path}: prepares whole images itself; use `coterie predict`, or a file that was exported without "
        "⟨with_preprocessing⟩"
    )


def _refuse(path: Path, images: Tensor) -> Tensor:
    raise refusal_of_prepared(path)


def _run_whole(session: Any, images: Sequence[np.ndarray[Any, Any]]) -> Tensor:
    name = session.get_inputs()[0].name
    return torch.from_numpy(np.concatenate([session.run(None, {name: image})[0] for image in images]))


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
