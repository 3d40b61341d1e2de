"""Weights from a safetensors file into a network that may have another class count."""

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from coterie.errors import UserError, in_a_line
from coterie.files import read_tensors
from coterie.networks.layers import LAYERS, classifiers

log = logging.getLogger("coterie")

_TORCH = (".pth", ".pt", ".pth.tar")


def load_matching(
    network: nn.Module, path: Path, *, replace_classifier: bool = True, option: str = "⟨network.weights⟩"
) -> bool:
    """Load weights by name; a classifier of another class count stays fresh, and is said.

    Every other tensor of the network must be in the file with its shape, and nothing else.

    Args:
        network: Changed in place.
        path: A safetensors file, or one of PyTorch (:func:`read_state`).
        replace_classifier: False refuses a classifier of another class count.
        option: Where the user named the file, for errors.

    Returns:
        Whether the classifier stayed fresh.

    Raises:
        UserError: The file is missing, damaged, or another network's. The network is then unchanged.
    """
    state = read_state(path, f"check {option}")
    own = network.state_dict()
    replaced = _classifier_keys(network, own, state)
    if replaced and not replace_classifier:
        classes = state[replaced[0]].shape[0], own[replaced[0]].shape[0]
        raise UserError(f"{option} {path}: knows {classes[0]} classes, and the data have {classes[1]}; give another")
    wrong = [key for key in own if key not in state or (own[key].shape != state[key].shape and key not in replaced)]
    wrong += [key for key in state if key not in own]
    if wrong:
        raise UserError(
            f"{path}: weights of another network (first mismatches: {', '.join(wrong[:3])}); "
            f"check the network's name and {option}"
        )
    if replaced:
        classes = state[replaced[0]].shape[0], own[replaced[0]].shape[0]
        log.warning("%s: its classifier of %d classes is replaced by a fresh one of %d", path, *classes)
    network.load_state_dict(state | {key: own[key] for key in replaced})
    return bool(replaced)


def read_state(path: Path, mend: str) -> dict[str, Tensor]:
    """The tensors of a weights file by name, on the CPU.

    Args:
        path: A safetensors file, or one that ``torch.save`` wrote (``.pth``, ``.pt``, ``.pth.tar``): a state dict, or
            one under ``state_dict`` or ``model``, as training scripts write it. Of the latter only tensors and plain
            values are read: no code that such a file may hold is run.
        mend: What the user can do where it cannot be read; ends the error's line.

    Raises:
        UserError: It is missing, damaged, or holds something else.
    """
    if not path.name.endswith(_TORCH):
        return read_tensors(path, mend)[0]
    if not path.is_file():
        raise UserError(f"{path}: {'is no file' if path.exists() else 'no such file'}; {mend}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or foreign file raises whatever its bytes spell
        what = f"damaged, or holds more than weights ({in_a_line(error)[:100]})"
        raise UserError(f"{path}: {what}; save its state dict as safetensors") from error
    for name in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{path}: holds no state dict; {mend}")
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def portable(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict as contiguous tensors on the CPU, for a file.

    One tensor under several names (a module registered twice, tied weights) is written under each of them, so that
    the file loads strictly into a plain network.
    """
    tensors: dict[str, Tensor] = {}
    memory: set[int] = set()
    for name, tensor in state.items():
        mine = tensor.detach().cpu().contiguous()
        shared = mine.numel() > 0 and mine.untyped_storage().data_ptr() in memory
        tensors[name] = mine.clone() if shared else mine
        memory.add(tensors[name].untyped_storage().data_ptr())
    return tensors


def _classifier_keys(network: nn.Module, own: dict[str, Tensor], state: dict[str, Tensor]) -> list[str]:
    """The tensors of the classifier, where they differ from the file's in the class count and in nothing else.

    Auxiliary classifiers deep inside a network go with it: all layers of as many outputs in both.
    """
    heads = classifiers(network)
    if not heads:
        return []
    layers = [path for path, module in network.named_modules() if isinstance(module, LAYERS)]
    last = f"{heads[0]}.weight"
    if last not in own or last not in state:
        return []
    ours, theirs = own[last].shape[0], state[last].shape[0]
    keys = [f"{path}.{part}" for path in layers for part in ("weight", "bias")]
    return [
        key
        for key in keys
        if ours != theirs
        and key in own
        and key in state
        and state[key].shape == (theirs, *own[key].shape[1:])
        and own[key].shape[0] == ours
    ]
