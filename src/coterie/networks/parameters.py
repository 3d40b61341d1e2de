"""Parameters by patterns of their names, as of a shell's file names."""

import fnmatch
from collections.abc import Mapping
from difflib import get_close_matches

from torch import nn

from coterie.errors import UserError
from coterie.networks.logits import Logits


def own_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """A network's parameters by their names in the user's own one, in order."""
    return dict((network.module if isinstance(network, Logits) else network).named_parameters())


def matching(parameters: Mapping[str, nn.Parameter], pattern: str, option: str) -> list[str]:
    """The names that match a pattern.

    Args:
        parameters: By name, in order.
        pattern: For example ``layer1.*``.
        option: Where the pattern stands, as a :class:`~coterie.errors.UserError` marks it.

    Raises:
        UserError: None do; names the nearest, or the first and the last.
    """
    names = fnmatch.filter(parameters, pattern)
    if names:
        return names
    modules = dict.fromkeys(f"{name[:end]}.*" for name in parameters for end, sign in enumerate(name) if sign == ".")
    near = get_close_matches(pattern, [*modules, *parameters], n=3, cutoff=0.5)
    first, last = next(iter(parameters)), next(reversed(list(parameters)))
    hint = f"; near it: {', '.join(map(repr, near))}" if near else ""
    raise UserError(f"{option}: no parameter is named {pattern!r}; they go from '{first}' to '{last}'{hint}")


def freeze(network: nn.Module, patterns: str | None) -> nn.Module:
    """The network, without gradients for the parameters whose names match one of the patterns.

    Args:
        network: Is changed.
        patterns: With commas between; None for none.

    Raises:
        UserError: A pattern matches no parameter, or all of them are frozen.
    """
    parameters = own_parameters(network)
    for pattern in [] if patterns is None else [each.strip() for each in patterns.split(",")]:
        for name in matching(parameters, pattern, "⟨network.freeze⟩"):
            parameters[name].requires_grad_(False)
    if patterns is not None and not any(parameter.requires_grad for parameter in parameters.values()):
        raise UserError(f"⟨network.freeze {patterns}⟩ leaves nothing to train; name fewer parameters")
    return network
