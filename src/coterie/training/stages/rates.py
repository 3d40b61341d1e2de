"""Which parameters of a stage have rates of their own."""

import numpy as np
from torch import nn

from coterie.data.transforms import normalise, resized
from coterie.methods import Stage
from coterie.networks.depth import find_depths
from coterie.training.stages.setting import Setting


def depths_of(stage: Stage, setting: Setting) -> dict[nn.Parameter, float] | None:
    """How deep the network's parameters lie, where rates depend on it."""
    network, data = stage.network, setting.data
    if setting.recipe.first_layer_rate == 1 or network is None:
        return None
    pixels = resized(data.train.pixels(np.arange(min(2, len(data.train)))), data.image_size)
    return find_depths(network, normalise(pixels, data.mean, data.std).to(setting.accelerator.device))
