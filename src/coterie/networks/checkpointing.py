"""Activation checkpointing: a network's blocks keep their inputs alone, and are computed again in the backward."""

from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from coterie.errors import UserError

# By which modules say that they checkpoint: those here and timm's, torchvision's, Hugging Face's.
_FLAGS = ("grad_checkpointing", "memory_efficient")
_SAID = (*_FLAGS, "gradient_checkpointing")
# By which they are told to: timm's, Hugging Face's, and Hugging Face's of before.
_SWITCHES = ("set_grad_checkpointing", "activation_checkpointing_enable", "gradient_checkpointing_enable")


class Blocks(nn.Sequential):
    """Blocks in a row, each a region of activation checkpointing where that is on."""

    grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """What the last block makes of it."""
        for block in self:
            x = checkpoint(block, x, use_reentrant=False) if self.grad_checkpointing else block(x)
        return x


def checkpoint_activations(network: nn.Module) -> nn.Module:
    """The network, its activation checkpointing switched on.

    Args:
        network: Of timm, of Hugging Face, a DenseNet of torchvision or one of :class:`Blocks`; is changed.

    Raises:
        UserError: It offers none.
    """
    if any(_switch_on(module) for module in network.modules()):
        return network
    flags = [(each, name) for each in network.modules() for name in _FLAGS if hasattr(each, name)]
    for module, name in flags:
        setattr(module, name, True)
    if flags:
        return network
    raise UserError(
        f"⟨network.checkpoint_activations⟩: {type(network).__name__} offers no activation checkpointing; use a network "
        "of timm that does, such as timm/resnet18, a CIFAR network of coterie's, or ⟨accumulate⟩"
    )


def checkpoints(module: nn.Module) -> bool:
    """Whether parts of a module are computed again in the backward, as far as they say."""
    return any(getattr(each, name, False) is True for each in module.modules() for name in _SAID)


def _switch_on(module: Any) -> bool:
    switch = next((getattr(module, name) for name in _SWITCHES if hasattr(module, name)), None)
    if switch is None:
        return False
    try:
        switch()
    except (AssertionError, ValueError):  # how timm and Hugging Face say that this network has none
        return False
    return True
