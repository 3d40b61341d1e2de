"""What is found before a training begins rather than in it, or at its end."""

from collections.abc import Mapping

import numpy as np
from safetensors.torch import save
from torch import Tensor, nn

from coterie.data import ImageData
from coterie.data.transforms import normalise, resized
from coterie.errors import UserError
from coterie.methods import Stage
from coterie.networks.fitting import check_logits
from coterie.networks.weights import portable

_IMAGES = 4


def check_first_stage(stage: Stage, data: ImageData) -> None:
    """Ask a stage's network about a few training images, and whether what it delivers can be written to a file.

    Nothing is changed: no weight, buffer, mode or random generator.

    Args:
        stage: The first one.
        data: What it is trained on.

    Raises:
        UserError: The logits do not fit the classes or are not finite; or a network holds what no file of weights can.
    """
    networks = dict(stage.deliver)
    if stage.network is not None:
        count = min(_IMAGES, len(data.train))
        pixels = resized(data.train.pixels(np.arange(count)), data.image_size)
        check_logits(stage.network, normalise(pixels, data.mean, data.std), len(data.classes))
        networks.setdefault("network", stage.network)
    check_writable(networks)


def check_writable(networks: Mapping[str, nn.Module]) -> None:
    """Check that networks' states are tensors of kinds that a safetensors file holds.

    Raises:
        UserError: Names what is not.
    """
    for network in networks.values():
        for name, value in network.state_dict().items():
            owner = type(network.get_submodule(name.rpartition(".")[0])).__name__ if _has(network, name) else "it"
            if not isinstance(value, Tensor):
                raise UserError(
                    f"'{name}' is a {type(value).__name__} that {owner} keeps in its state (get_extra_state), and a "
                    "file of weights holds tensors alone; make it a buffer, or leave it out of the state"
                )
            try:
                save(portable({name: value.flatten()[:1]}))
            except Exception as error:  # sparse, quantised, complex: whatever the format does not know
                raise UserError(
                    f"'{name}', a tensor of {owner}, cannot be written to a file of weights "
                    f"({value.dtype}, {value.layout}: {' '.join(str(error).split())[:100]}); keep it as a dense tensor"
                ) from error


def _has(network: nn.Module, name: str) -> bool:
    try:
        network.get_submodule(name.rpartition(".")[0])
    except AttributeError:  # a wrapper names its state otherwise
        return False
    return True
