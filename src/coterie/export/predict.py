"""Classes and probabilities of image files, from a Run or an exported file."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coterie.data import decode
from coterie.data.transforms import normalise
from coterie.errors import UserError
from coterie.export.deploy import Logits, onnx_session
from coterie.files import read_tensors
from coterie.methods import Spec, method_class
from coterie.networks.zoo import Network
from coterie.run import Run, load_weights


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
    source: Run | str | Path, images: Sequence[str | Path], *, student: str | None = None, top: int = 3
) -> list[Prediction]:
    """Classify image files.

    Args:
        source: A run, its folder, or an exported ``.safetensors`` or ``.onnx`` file.
        images: Files of any format and size.
        student: Which deliverable of a run; None for the default one.
        top: How many classes to name for each image.

    Raises:
        UserError: The source is none of these, or an image does not decode.
    """
    if top < 1:
        raise UserError(f"--top is {top}; use 1 or more")
    card, network = _opened(source, student)
    classes = card["classes"]
    found = []
    for path in map(Path, images):
        pixels = decode(path, tuple(card["image_size"]), card["channels"])
        batch = normalise(torch.from_numpy(pixels.copy()).unsqueeze(0), tuple(card["mean"]), tuple(card["std"]))
        best = network(batch)[0].softmax(0).topk(min(top, len(classes)))
        names = tuple(classes[index] for index in best.indices.tolist())
        found.append(Prediction(path, names, tuple(best.values.tolist())))
    return found


def _opened(source: Run | str | Path, student: str | None) -> tuple[dict[str, Any], Callable[[Tensor], Tensor]]:
    if not isinstance(source, Run) and Path(source).suffix == ".onnx":
        _refuse(student)
        session = onnx_session(_existing(Path(source)))
        text = session.get_modelmeta().custom_metadata_map.get("coterie")
        name = session.get_inputs()[0].name
        return _card(text, Path(source)), lambda images: torch.from_numpy(
            np.asarray(session.run(None, {name: images.contiguous().numpy()})[0])
        )
    if not isinstance(source, Run) and Path(source).suffix == ".safetensors":
        _refuse(student)
        _, text = read_tensors(_existing(Path(source)), "export it again")
        card = _card(text, Path(source))
        network = _network(card, Path(source))
    else:
        run = source if isinstance(source, Run) else Run(source)
        card, network = run.card, run.network(student)
    logits = Logits(network).eval()
    return card, torch.inference_mode()(logits)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"{path}: no such file; name a Run folder, or a file that `coterie export` made")
    return path


def _refuse(student: str | None) -> None:
    if student is not None:
        raise UserError("--student: an exported file holds one network; choose it when you export")


def _card(text: str | None, path: Path) -> dict[str, Any]:
    """The card that an exported file carries."""
    try:
        card: dict[str, Any] = json.loads(text or "")
    except ValueError as error:
        raise UserError(f"{path}: has no card of coterie's; export it again, or name the Run") from error
    return card


def _network(card: dict[str, Any], path: Path) -> torch.nn.Module:
    if card["network"] is None:
        raise UserError(f"{path}: weights of a module of your own; export ONNX, which carries the network itself")
    spec = Spec(len(card["classes"]), card["channels"], tuple(card["image_size"]))
    if card["student"] == "target":
        network = Network(card["network"]).build(spec.num_classes, spec.channels, spec.image_size)
    else:
        options = {**card["options"], "network": card["network"]}
        network = method_class(card["method"])(**options).deliverables(spec)[card["student"]]
    load_weights(network, path)
    return network.eval()
