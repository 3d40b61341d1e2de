"""Checkpoints: nested states in one safetensors file, whole or absent, never pickled."""

import hashlib
import json
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import torch
from safetensors.torch import save_file
from torch import Tensor

from coterie.bounds import NonNegative, NonNegativeInt
from coterie.checking import check_value, make_checked
from coterie.data import ImageData, Images
from coterie.errors import UserError, in_a_line
from coterie.files import parse_json, read_tensors, replacing

_MEND = "delete it and train again"


def save(path: Path, state: Any) -> None:
    """Write a tree of dicts, lists, scalars and tensors.

    Raises:
        UserError: The disk is full.
    """
    tensors: dict[str, Tensor] = {}
    names: dict[tuple[Any, ...], str] = {}

    def encode(value: Any) -> Any:
        if isinstance(value, Tensor):
            # A tensor that several modules share is written once.
            identity = (value.data_ptr(), value.shape, value.stride(), value.dtype)
            if identity not in names or value.numel() == 0:
                names[identity] = str(len(tensors))
                # Cloned from channels-last to plain order: the file holds no strides.
                tensors[names[identity]] = value.detach().cpu().contiguous().clone()
            return {"tensor": names[identity]}
        if isinstance(value, dict):
            return {"dict": [[key, encode(item)] for key, item in value.items()]}
        if isinstance(value, (list, tuple)):
            return {"list": [encode(item) for item in value]}
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")

    tree = json.dumps(encode(state))
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"coterie": tree})


class SavedStage(TypedDict):
    """What ``checkpoints/last.safetensors`` holds: a stage in training, see ``StageRun.state``.

    Attributes:
        parts: That a batch is computed in.
        rate: Of the last step, the highest of all parameters.
        best: The epoch that the validation split chose, its error, and whether (1 or 0) it is the average's, where
            there is one; empty without a validation split.
        data: Which images are trained and measured on, see :func:`describe_data`.
    """

    stage: NonNegativeInt
    epoch: NonNegativeInt
    step: NonNegativeInt
    seconds: NonNegative
    flops_per_image: float | None
    parts: NotRequired[int | None]
    rate: NotRequired[NonNegative]
    sums: dict[str, Tensor]
    modules: dict[str, dict[str, Any]]
    optimisers: list[dict[str, Any]]
    schedules: list[dict[str, Any]]
    best: dict[str, float]
    data: NotRequired[dict[str, int | str]]


def load(path: Path) -> Any:
    """The tree that :func:`save` wrote, tensors on the CPU.

    Raises:
        UserError: The file is damaged.
    """
    tensors, text = read_tensors(path, _MEND)
    tree = parse_json(text or "", f"{path}, its tree", _MEND)

    def decode(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if "tensor" in value:
            return tensors[value["tensor"]]
        if "dict" in value:
            return {key: decode(item) for key, item in value["dict"]}
        return [decode(item) for item in value["list"]]

    try:
        return decode(tree)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: no checkpoint of coterie ({in_a_line(error)}); {_MEND}") from error


def load_stage(path: Path) -> SavedStage:
    """The checkpoint of a stage in training.

    Raises:
        UserError: The file is damaged, or a field is missing or wrong.
    """
    return make_checked(SavedStage, str(path), load(path), others=True)


def load_states(path: Path) -> dict[str, dict[str, Any]]:
    """The modules' states of a finished stage, or of the best epoch.

    Raises:
        UserError: The file is damaged.
    """
    states: dict[str, dict[str, Any]] = check_value(str(path), load(path), dict[str, dict[str, Any]])
    return states


def describe_data(data: ImageData) -> dict[str, int | str]:
    """How many images each split has, and a digest of their labels, files and framing, for a resumed training."""
    found: dict[str, int | str] = {}
    digest = hashlib.blake2b(digest_size=8)
    for split in ("train", "validation", "test"):
        images: Images | None = getattr(data, split)
        found[split] = 0 if images is None else len(images)
        if images is not None:
            digest.update(images.labels.tobytes())
            # Of its path only what a moved folder keeps.
            for name in images.names or ():
                digest.update("/".join(Path(name).parts[-2:]).encode("utf-8", "surrogateescape"))
    if (framing := (data.crop_ratio, data.interpolation)) != (1.0, "bicubic"):
        digest.update(repr(framing).encode())
    return found | {"digest": digest.hexdigest()}


def check_data(saved: SavedStage, data: ImageData, path: Path) -> None:
    """Refuse to go on with other images than a training began with.

    Raises:
        UserError: Says what is different.
    """
    now = describe_data(data)
    before = saved.get("data", now)
    for split in ("train", "validation", "test"):
        if before.get(split) != now[split]:
            raise UserError(
                f"data '{data.name}' has {now[split]} {split} images, and the run in {path} began with "
                f"{before.get(split)}; restore them, or choose another ⟨out⟩"
            )
    if before.get("digest") != now["digest"]:
        raise UserError(
            f"data '{data.name}' has other images or labels than the run in {path} began with; restore them, or choose "
            "another ⟨out⟩"
        )


def load_optimiser(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load an optimiser's state, its averages laid out in memory as their parameters are (fused kernels need it)."""
    optimiser.load_state_dict(state)
    for parameter, values in optimiser.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
