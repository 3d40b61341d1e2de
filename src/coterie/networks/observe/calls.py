"""What a network's modules do in one forward: their calls, by which everything here that looks into a network goes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from coterie.networks.layers import LAYERS
from coterie.networks.preserve import preserve_state


@dataclass(eq=False)
class Call:
    """One call of a module.

    Attributes:
        path: The module's; empty for the network itself.
        module: The module.
        outer: The calls around it, from the outermost in.
        began: How many calls had ended when it began.
        input: Its first positional argument; None where it has none.
        ended: How many calls had ended before it ended: its place in the list of calls.
        output: What the module gives.
        flops_before: FLOPs of the forward before it, where they are counted.
        flops: Its own, with those of the modules that it calls.
    """

    path: str
    module: nn.Module
    outer: tuple["Call", ...]
    began: int
    input: Any
    flops_before: int = 0
    ended: int = 0
    output: Any = None
    flops: int = 0

    def __post_init__(self) -> None:
        self._input_version, self._output_version = _version(self.input), 0

    def end(self, ended: int, output: Any, flops: int) -> None:
        """Note what is known once the module has run; ``flops`` are the forward's so far."""
        self.ended, self.output, self.flops = ended, output, flops - self.flops_before
        self._output_version = _version(output)

    @property
    def input_overwritten(self) -> bool:
        """Whether the input has been written in place since the call began."""
        return self._input_version != _version(self.input)

    @property
    def output_overwritten(self) -> bool:
        """Whether the output has been written in place since the call ended."""
        return self._output_version != _version(self.output)


@contextmanager
def collect_calls(
    network: nn.Module, paths: Sequence[str] | None = None, flops: Callable[[], int] = lambda: 0
) -> Iterator[list[Call]]:
    """Within the block, calls of a network's modules join the list, in the order in which they end.

    Args:
        network: Any module. A compiled call passes hooks by: run its ``forward``.
        paths: Which modules; None for all, the network itself (the path "") among them.
        flops: Tells how many FLOPs have been computed so far.
    """
    calls: list[Call] = []
    running: list[Call] = []
    watched = {module: path for path, module in network.named_modules() if paths is None or path in paths}

    def begin(module: nn.Module, args: tuple[Any, ...]) -> None:
        given = args[0] if args else None
        running.append(Call(watched[module], module, tuple(running), len(calls), given, flops()))

    def end(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        call = running.pop()
        call.end(len(calls), output, flops())
        calls.append(call)

    handles = []
    try:
        for module in watched:
            if not isinstance(module, torch.jit.ScriptModule):  # these refuse hooks: they are looked at from outside
                handles += [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def record(network: nn.Module, images: Tensor, *, flops: bool = False) -> list[Call]:
    """Run a network once in evaluation mode, without gradients, and leave it as it was.

    Args:
        network: Any module that takes images.
        images: (B, channels, H, W); they are moved to where its weights are.
        flops: Whether FLOPs of products and convolutions are counted.

    Returns:
        All calls of its modules in the order in which they end; the last is the network's own.
    """
    reference = next(network.parameters(), images)
    images = images.detach().to(reference.device, reference.dtype)
    with preserve_state(network):
        network.eval()
        for module in network.modules():
            if module._compiled_call_impl is not None:
                module._compiled_call_impl = None  # a compiled call passes hooks by; an attribute, and so put back
        if not flops:
            with collect_calls(network) as calls:
                network(images)
            return calls
        with _Flops() as counter, collect_calls(network, flops=lambda: counter.total) as calls:  # type: ignore[no-untyped-call]
            network(images)
        return calls


def last_layer(calls: Sequence[Call]) -> Call | None:
    """The last linear layer or convolution: a classifier, where the network ends in one."""
    return next((call for call in reversed(calls) if isinstance(call.module, LAYERS)), None)


class _Flops(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the FLOPs of products and convolutions.

    Torch's own counter hooks modules too, which fails where a parameter is an argument; it leaves out attention on
    CPUs, and its import brings Triton's. Torch's fake tensors, which would save the computation, bring its compiler's.
    """

    total = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # what says so to the compiler imports it first, which takes longer than torch itself

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        self.total += _count_flops(func.overloadpacket, args, output)
        return output


def _count_flops(operation: Any, args: Sequence[Any], output: Any) -> int:
    """Two for each multiplication of an operation on tensors, as torch's counter has it."""
    aten = torch.ops.aten
    if operation in (aten.mm, aten.bmm):
        return 2 * output.numel() * args[0].shape[-1]
    if operation in (aten.addmm, aten.baddbmm):
        return 2 * output.numel() * args[1].shape[-1]
    if operation is aten.convolution:
        transposed = args[6]
        return 2 * (args[0] if transposed else output).numel() * args[1][0].numel()
    if operation.__name__.startswith("_scaled_dot_product"):  # one for each kind of device
        query, key, value = args[:3]
        return 2 * query[..., 0].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])
    return 0


def _version(value: Any) -> int:
    """How often a tensor was written in place; not counted in inference mode."""
    return value._version if isinstance(value, Tensor) and not value.is_inference() else 0
