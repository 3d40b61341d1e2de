"""Whether a network fits a task, asked before anyone trains it; every misfit is one line with its mend."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from safetensors.torch import save
from torch import Tensor, nn

from coterie.errors import UserError, in_a_line
from coterie.networks.logits import Logits, find_answer
from coterie.networks.preserve import preserve_state
from coterie.networks.weights import portable
from coterie.outputs import PeerOutput


def fit(network: nn.Module, num_classes: int, in_channels: int, image_size: tuple[int, int]) -> nn.Module:
    """A network of the user's own as one that gives plain logits: itself where it does.

    Args:
        network: Asked about two random images in both modes; it is left as it was.
        num_classes: C.
        in_channels: Channels of the images.
        image_size: (height, width) in pixels.

    Raises:
        UserError: It cannot take such images, it is not to be told which of its outputs are the logits, or these do
            not fit the classes; or it holds what no file of weights can.
    """
    images = torch.rand(2, in_channels, *image_size, generator=torch.Generator().manual_seed(0))
    images = images.to(_device(network))
    with _explain_misfits(network, images):
        if isinstance(network, Logits):
            network.look(images, num_classes)
        else:
            option = "network=coterie.networks.Logits(model, …)"
            answer = find_answer(network, images, num_classes=num_classes, option=option)
            network = network if answer.plain else Logits(network, answer)
    check_logits(network, images, num_classes, finite=False)
    check_writable(network)
    return network


def check_logits(network: nn.Module, images: Tensor, num_classes: int, *, finite: bool = True) -> None:
    """Check that a network gives logits for these images, in both modes; it is left as it was.

    Args:
        network: Images (B, channels, H, W) to logits (B, C) or a :class:`~coterie.outputs.PeerOutput`.
        images: (B, channels, H, W), two or more; they are moved to where the network is.
        num_classes: C.
        finite: Whether infinities and NaN are refused too, and logits through which nothing can be trained.

    Raises:
        UserError: It gives something else; names what came, what was expected, and the mend.
    """
    images = images.to(_device(network))
    for mode in (True, False):
        with _explain_misfits(network, images), preserve_state(network), torch.set_grad_enabled(finite and mode):
            output = network.train(mode)(images)
        logits = output.logits if isinstance(output, PeerOutput) else output
        count = logits.shape[1:2] if isinstance(output, PeerOutput) else ()
        _check_shape(_name(network), logits, (len(images), *count, num_classes))
        if finite and not bool(logits.isfinite().all()):
            kinds = [kind for kind, test in (("NaN", torch.isnan), ("infinity", torch.isinf)) if test(logits).any()]
            raise UserError(
                f"{_name(network)} answers {' and '.join(kinds)} before any training, in "
                f"{'training' if mode else 'evaluation'} mode on images of the data, where finite logits are expected; "
                "look for such values in its weights"
            )
        if finite and mode and not logits.requires_grad:
            raise UserError(
                f"{_name(network)} gives logits that no weight can learn from: all its weights are frozen "
                "(requires_grad), or its forward cuts them off (detach, no_grad); let gradients through"
            )


def check_writable(network: nn.Module) -> None:
    """Check that a network's state is tensors of kinds that a safetensors file holds.

    Raises:
        UserError: Names what is not.
    """
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


def _check_shape(name: str, logits: Tensor, wanted: tuple[int, ...]) -> None:
    shape = tuple(logits.shape)
    if len(shape) == len(wanted) and shape[:-1] == wanted[:-1] and shape != wanted:
        raise UserError(
            f"{name} gives {shape[-1]} outputs, and the data have {wanted[-1]} classes; give its last layer "
            f"{wanted[-1]} outputs (a factory is told num_classes)"
        )
    if shape != wanted:
        raise UserError(
            f"{name} gives logits of shape {shape} for {wanted[0]} images, and {wanted} is expected, (images, "
            "classes); reshape them at the end of its forward"
        )
    if not logits.is_floating_point():
        raise UserError(f"{name} gives {logits.dtype} where logits are expected; return them before any argmax")


@contextmanager
def _explain_misfits(network: nn.Module, images: Tensor) -> Iterator[None]:
    """Within the block, a network that cannot take the images is one line that says why not."""
    if any(nn.parameter.is_lazy(tensor) for tensor in _tensors(network)):
        raise UserError(f"{_name(network)} has lazy layers without weights; give it one batch before it is trained")
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{_name(network)} {_describe_misfit(network, images, error)}") from error


def _describe_misfit(network: nn.Module, images: Tensor, error: Exception) -> str:
    weight = next((parameter for parameter in network.parameters() if parameter.is_floating_point()), None)
    if weight is not None and weight.dtype != images.dtype:
        kind = str(weight.dtype).removeprefix("torch.")
        return (
            f"has {kind} weights, and the images are float32; call .float() on it (training in mixed precision is "
            "⟨precision bf16⟩)"
        )
    stem = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    channels, (height, width) = images.shape[1], images.shape[2:]
    if stem is not None and stem.in_channels != channels:
        return (
            f"takes images of {stem.in_channels} channels, and the data have {channels}; use ⟨data.channels⟩ "
            f"{stem.in_channels}, or give its first convolution {channels} (a factory is told in_channels)"
            if stem.in_channels in (1, 3)
            else f"takes images of {stem.in_channels} channels, and the data have {channels}; give its first "
            f"convolution {channels} (a factory is told in_channels)"
        )
    return (
        f"cannot take images of {channels}x{height}x{width}, channels x height x width "
        f"({in_a_line(error)}); let it take them, or set ⟨data.image_size⟩"
    )


def _device(network: nn.Module) -> torch.device:
    return next((tensor.device for tensor in _tensors(network)), torch.device("cpu"))


def _tensors(network: nn.Module) -> chain[Tensor]:
    return chain(network.parameters(), network.buffers())


def _name(network: nn.Module) -> str:
    """The class, of the network that is delivered rather than of what holds it."""
    for name in ("peers", "target", "module"):  # of a Group, of peers, of a Logits
        inner = getattr(network, name, None) if type(network).__module__.startswith("coterie.") else None
        network = inner if isinstance(inner, nn.Module) else network
    return f"network {type(network).__name__}"
