"""Which parameters of a stage have rates of their own."""

from collections.abc import Iterator, Sequence, Set
from fnmatch import fnmatch
from math import prod

import numpy as np
from torch import nn
from torch.optim import Optimizer

from coterie.data.transforms import normalise, resized
from coterie.errors import UserError
from coterie.methods import Stage
from coterie.networks.depth import find_depths
from coterie.networks.logits import Logits
from coterie.networks.parameters import own_parameters
from coterie.peers import NativeEnsemble
from coterie.training.stages.setting import Setting


def factors_of(stage: Stage, setting: Setting) -> dict[nn.Parameter, float]:
    """What the recipe's rate is multiplied by, for parameters of which it is: by their depth, and by their names.

    Raises:
        UserError: The stage trains what is delivered, and nothing in it has the names of the method's network.
    """
    first = setting.recipe.first_layer_rate
    factors = {parameter: first ** (1 - depth) for parameter, depth in _depths_of(stage, setting).items()}
    if not setting.names:
        return factors
    copies = [copy for turn in stage.turns for copy in _copies(turn.module, setting.names)]
    if stage.deliver and not copies:
        raise UserError(
            f"⟨recipe.layer_rates⟩: no network of stage '{stage.name}' has the parameters' names of the method's; "
            "leave it out"
        )
    named = {parameter: name for copy in copies for name, parameter in own_parameters(copy).items()}
    for parameter, name in named.items():
        own = [factor for pattern, factor in setting.recipe.layer_rates.items() if fnmatch(name, pattern)]
        factors[parameter] = factors.get(parameter, 1.0) * prod(own)
    return factors


def highest_rate(optimisers: Sequence[Optimizer]) -> float:
    """The highest rate now: of a method's small helpers, such as discriminators, it may be lower."""
    return max(group["lr"] for optimiser in optimisers for group in optimiser.param_groups)


def _copies(module: nn.Module, names: Set[str]) -> Iterator[nn.Module]:
    """Networks with parameters of these names, in a module at any depth, and the branches that are tails of one."""
    if own_parameters(module).keys() >= names:
        yield module
        return
    for child in module.children():
        yield from _copies(child, names)
    if isinstance(module, NativeEnsemble) and any(_copies(module.target, names)):
        inside = "module" if isinstance(module.target, Logits) else ""
        yield from (branch.get_submodule(inside) for branch in module.branches)


def _depths_of(stage: Stage, setting: Setting) -> dict[nn.Parameter, float]:
    """How deep the network's parameters lie, where rates depend on it."""
    network, data = stage.network, setting.data
    if setting.recipe.first_layer_rate == 1 or network is None:
        return {}
    pixels = resized(data.train.pixels(np.arange(min(2, len(data.train)))), data.image_size)
    return find_depths(network, normalise(pixels, data.mean, data.std).to(setting.accelerator.device))
