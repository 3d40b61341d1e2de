"""What a training changes around it, and puts back: PyTorch's switches, and where a module of the user's own is."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import nn

from coterie.errors import UserError
from coterie.methods import Method
from coterie.networks.zoo import Backbone

# How cuBLAS is told to compute the same every time; it reads this once in a process.
_WORKSPACE, _EXACT = "CUBLAS_WORKSPACE_CONFIG", (":4096:8", ":16:8")


@contextmanager
def keep_surroundings(method: Method) -> Iterator[None]:
    """After the block, PyTorch's switches are as before, and a module of the user's own is on the device it came from.

    Within it the module is on the CPU, where methods build and cut, until a stage moves it.

    Raises:
        UserError: A kernel is not deterministic, and only such were allowed.
    """
    threads, workspace = torch.get_num_threads(), os.environ.get(_WORKSPACE)
    kernels = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    exact, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    own = Backbone.of(method.network).source
    device = _device(own) if isinstance(own, nn.Module) else None
    if device is not None and device.type == "meta":
        raise UserError(
            f"network {type(own).__name__} is on the meta device, where weights have no values; build it on the CPU"
        )
    try:
        if isinstance(own, nn.Module) and device is not None:
            own.to("cpu")
        yield
    except RuntimeError as error:
        if line := _explained(str(error)):
            raise UserError(line) from error
        raise
    finally:
        torch.set_num_threads(threads)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = kernels
        torch.use_deterministic_algorithms(exact, warn_only=warns)
        if workspace is None:
            os.environ.pop(_WORKSPACE, None)
        if isinstance(own, nn.Module) and device is not None:
            own.to(device)


def set_switches(threads: int | None, deterministic: bool) -> None:
    """Set PyTorch's switches for a training.

    Args:
        threads: Of the CPU; None leaves them.
        deterministic: Whether only kernels may run that compute the same every time.

    Raises:
        UserError: cuBLAS was told otherwise by the environment.
    """
    torch.set_num_threads(threads or torch.get_num_threads())
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    if not deterministic:
        return
    told = os.environ.setdefault(_WORKSPACE, _EXACT[0])
    if told not in _EXACT:
        raise UserError(f"⟨deterministic⟩: {_WORKSPACE} is {told}; unset it, or set it to {_EXACT[0]}")
    torch.use_deterministic_algorithms(True)


def _device(module: nn.Module) -> torch.device | None:
    tensor = next(chain(module.parameters(), module.buffers()), None)
    return None if tensor is None else tensor.device


def _explained(text: str) -> str | None:
    """The line for a kernel that ``--deterministic`` does not allow; None for any other error."""
    if "does not have a deterministic implementation" in text:
        kernel = text.split(" does not have", 1)[0].split()[-1]
        return f"⟨deterministic⟩: {kernel} computes in another order every time; leave ⟨deterministic⟩ out"
    if _WORKSPACE in text:
        return (
            "⟨deterministic⟩: this process has used cuBLAS before; train in a new one, or start it with "
            f"{_WORKSPACE}={_EXACT[0]}"
        )
    return None
