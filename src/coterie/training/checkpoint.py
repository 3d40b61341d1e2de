"""Checkpoints: nested states in one safetensors file, whole or absent, never pickled."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from coterie.errors import UserError
from coterie.files import read_tensors, replacing


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
        try:
            save_file(tensors, temporary, metadata={"coterie": tree})
        except SafetensorError as error:
            if "No space left" in str(error):
                raise UserError(f"{path}: the disk is full; free some space and go on with --resume") from error
            raise


def load(path: Path) -> Any:
    """The tree that :func:`save` wrote, tensors on the CPU.

    Raises:
        UserError: The file is damaged.
    """
    mend = "delete it and train again"
    tensors, text = read_tensors(path, mend)
    try:
        tree = json.loads(text or "")
    except ValueError as error:
        raise UserError(f"{path}: no checkpoint of coterie; {mend}") from error

    def decode(value: Any) -> Any:
        if isinstance(value, dict):
            if "tensor" in value:
                return tensors[value["tensor"]]
            if "dict" in value:
                return {key: decode(item) for key, item in value["dict"]}
            return [decode(item) for item in value["list"]]
        return value

    return decode(tree)


def load_optimiser(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load an optimiser's state, its averages laid out in memory as their parameters are (fused kernels need it)."""
    optimiser.load_state_dict(state)
    for parameter, values in optimiser.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
