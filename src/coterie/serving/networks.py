"""The networks that answer: an ONNX file through ONNX Runtime alone, anything else through PyTorch."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coterie.errors import UserError, in_a_line
from coterie.extras import is_installed, need
from coterie.files import user_path
from coterie.records import Card, parse_card

if TYPE_CHECKING:
    from coterie.run import Run

Array = np.ndarray[Any, Any]
Network = Callable[[Array], Array]


@dataclass(frozen=True)
class Served:
    """What a server answers with.

    Attributes:
        card: What the network is.
        student: Which deliverable it is, such as ``target``.
        network: float32 normalised images (B, channels, H, W) to logits (B, C).
        ensemble: The same of the ensemble that was trained with it; None where there is none.
    """

    card: Card
    student: str
    network: Network
    ensemble: Network | None = None

    def normalise(self, pixels: Array) -> Array:
        """uint8 (B, H, W, channels) to float32 (B, channels, H, W)."""
        mean, std = (np.asarray(self.card[name], np.float32) for name in ("mean", "std"))
        images = (pixels.astype(np.float32) / 255 - mean) / std
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))

    def zeros(self, count: int) -> Array:
        """Black images, uint8 (count, H, W, channels), to try the networks with."""
        return np.zeros((count, *self.card["image_size"], self.card["channels"]), np.uint8)


def open_served(source: "Run | str | Path", student: str | None = None, threads: int | None = None) -> Served:
    """Open a Run, or a file that ``coterie export`` made, and try it on one image.

    Args:
        source: A Run or its folder: its ensemble, where it delivers one, answers beside the network. Or an exported
            file: of an ``.onnx`` file no torch is needed.
        student: Which deliverable of a Run; None for the default one.
        threads: Of the CPU, for the network; None for the runtime's own choice.

    Raises:
        UserError: It is none of these, it is damaged, or what it needs is not installed.
    """
    name = user_path(source) if isinstance(source, str | Path) else source.path
    if name.suffix == ".onnx":
        if student is not None:
            raise UserError("⟨student⟩: an exported file holds one network; choose it when you export")
        served = _open_onnx(name, threads)
    elif not is_installed("torch"):
        raise UserError(f"{name}: is served by torch, which is not installed; install it, or name an .onnx file")
    else:
        served = _open_torch(source, student, threads)
    for network in filter(None, (served.network, served.ensemble)):
        _try(network, served, name)
    return served


def _open_onnx(path: Path, threads: int | None) -> Served:
    if not path.is_file():
        raise UserError(f"{path}: no such file; name a Run folder, or a file that `coterie export` made")
    onnxruntime = need("onnxruntime", "serve")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0  # 0 is the runtime's own choice
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise UserError(f"{path}: damaged or no ONNX file; export it again") from error
    card = parse_card(session.get_modelmeta().custom_metadata_map.get("coterie"), path)
    taken = session.get_inputs()[0]
    if taken.type != "tensor(float)":
        raise UserError(f"{path}: takes {taken.type}, not normalised images; export it without preprocessing")

    def network(images: Array) -> Array:
        return np.asarray(session.run(None, {taken.name: images})[0])

    return Served(card, card["student"], network)


def _open_torch(source: "Run | str | Path", student: str | None, threads: int | None) -> Served:
    import torch

    from coterie.deploy.opening import is_exported, open_source
    from coterie.run import Run

    if threads is not None:
        torch.set_num_threads(threads)

    def numpy_of(answer: Callable[[torch.Tensor], torch.Tensor]) -> Network:
        return lambda images: answer(torch.from_numpy(images)).numpy()

    if is_exported(source):
        opened = open_source(source, student)
        return Served(opened.card, opened.card["student"], numpy_of(opened.answer))
    run = Run.of(source)
    opened, name = open_source(run, student), run.student(student)
    other = None if run.ensemble in (None, name) else numpy_of(open_source(run, run.ensemble).answer)
    return Served(opened.card, name, numpy_of(opened.answer), other)


def _try(network: Network, served: Served, name: Path) -> None:
    """Refuse a network that is not the one that its card describes."""
    expected = (1, len(served.card["classes"]))
    try:
        shape = network(served.normalise(served.zeros(1))).shape
    except UserError:
        raise
    except Exception as error:  # a runtime raises errors of its own
        raise UserError(f"{name}: cannot be run on images of its card ({in_a_line(error)}); export it again") from error
    if shape != expected:
        raise UserError(
            f"{name}: gives {list(shape)} for an image, and its card has {expected[1]} classes; export it again"
        )
