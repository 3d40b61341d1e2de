"""A forward that cannot be traced, split by running its own Python code once for each stretch.

The trunk is the model's forward up to the first module of the tail, where it is left; what every module gave on the
way is kept. A tail is the same forward from its start: modules of the trunk give at once what they gave before, with
the random generators moved to where they then were, and from the split on modules are called. Whatever the forward does
between its modules, loops and conditions on values among it, is done again and comes out the same. That costs those
operations once more for each branch, and torch.compile passes such a network by.

The forward runs on shells: objects of the model's own classes that hold its attributes, and in the place of each
module one that stands for it. The model itself is not touched.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from coterie.errors import UserError
from coterie.networks.layers import LAYERS, holds_layer
from coterie.networks.logits import Answer
from coterie.networks.preserve import read_generators, set_generators
from coterie.networks.split.checkpointing import watch_checkpoints
from coterie.networks.split.graph import Segment, SplitForward
from coterie.networks.split.stand_in import StandIn
from coterie.networks.split.tracing import find_parents

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_STRUCTURE = ("_modules", "_parameters", "_buffers")


def split_by_rerunning(
    model: nn.Module, ats: tuple[str, ...], images: Tensor, maps: bool = False, answer: Answer | None = None
) -> SplitForward:
    """Cut a model's forward without a trace.

    Args:
        model: Run once on ``images`` to see which modules each stretch calls, on shells.
        ats: Paths of modules in the order of the forward.
        images: Of a shape that the model takes.
        maps: Whether the last feature map is given after what the classifier reads.
        answer: Where the model's outputs hold the logits; None where they are the logits.

    Raises:
        UserError: A split is not reached, or no module comes before it.
    """
    inside = _add_containers(model, find_parents(ats), ats)
    seen = _Seen(ats)
    while True:  # each round opens the module that holds the classifier, until the classifier itself is seen
        seen = _Seen(ats)
        # With gradients, as in training: some forwards checkpoint activations only where they are wanted.
        with torch.set_grad_enabled(model.training), watch_checkpoints(seen.recompute):
            _Play(model, model, inside, seen=seen).run(images)
        last = next((path for _, path in reversed(seen.calls) if holds_layer(model.get_submodule(path))), None)
        if last is None or isinstance(model.get_submodule(last), LAYERS):
            break
        inside = _add_containers(model, inside | find_parents([f"{last}.*"]), ats)
    missing = next((at for at in ats[seen.reached :]), None)
    if missing is not None:
        raise UserError(f"no module '{missing}' runs in the forward of {type(model).__name__} in this order")
    if seen.calls[0][0] > 0:
        raise UserError(f"nothing comes before '{ats[0]}', so no layer would be shared; split later")
    taps = [last, seen.last_map(last) if maps else None]
    taken = [tap for tap in taps if tap]
    stretches = [_Stretch(model, inside, at, taken, answer or Answer()) for at in (*ats, None)]
    reads = [(_list_paths(seen.calls, number), _list_paths(seen.reads, number)) for number in range(1, len(ats) + 1)]
    # Shells and stand-ins are no code for a compiler. Not as a decorator: that would import the compiler for everyone.
    disable: Callable[..., Any] = torch.compiler.disable
    segments = [Segment(disable(run.go_on), *read) for run, read in zip(stretches[1:], reads, strict=True)]
    return SplitForward(disable(stretches[0].begin), tuple(segments))


@dataclass
class _Kept:
    """What modules gave in earlier stretches, in the order of their calls, apart from the tensors.

    Attributes:
        images: What the forward began with.
        start: The random generators when it began.
        calls: The module's path, the structure of its output, and the random generators afterwards.
    """

    images: Tensor
    start: dict[str, Any]
    calls: list[tuple[str, Any, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class _Stretch:
    """Runs the forward of ``model`` up to the module ``until``, or to its end."""

    model: nn.Module
    inside: frozenset[str]
    until: str | None
    taps: list[str]
    answer: Answer

    def begin(self, root: nn.Module, images: Tensor) -> tuple[Any, ...]:
        return self._run(root, _Kept(images, read_generators()), [])

    def go_on(self, root: nn.Module, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return self._run(root, values[0], list(values[1:]))

    def _run(self, root: nn.Module, kept: _Kept, given: list[Tensor]) -> tuple[Any, ...]:
        base = root if type(root) is type(self.model) else self.model
        play = _Play(base, root, self.inside, kept, given, self.until, self.taps)
        try:
            output = play.run(kept.images)
        except _Left:
            return (_Kept(kept.images, kept.start, kept.calls + play.calls), *given, *play.tensors)
        return (self.answer.of(base, output), *(play.tapped[tap] for tap in self.taps if tap in play.tapped))


class _Left(Exception):
    """The forward has come to the split."""


@dataclass
class _Seen:
    """What a whole run tells of its stretches: which modules each calls, and which tensors it reads itself."""

    ats: tuple[str, ...]
    reached: int = 0
    calls: list[tuple[int, str]] = field(default_factory=list)
    reads: list[tuple[int, str]] = field(default_factory=list)
    maps: list[str] = field(default_factory=list)
    recomputing: bool = False

    @contextmanager
    def recompute(self, function: Callable[..., Any]) -> Iterator[None]:
        """Within the block, what is called is under activation checkpointing."""
        before, self.recomputing = self.recomputing, True
        try:
            yield
        finally:
            self.recomputing = before

    def note_call(self, path: str) -> None:
        if self.recomputing:  # what is run once for each stretch cannot be run yet again in the backward
            raise UserError(f"activations are checkpointed around '{path}'; switch that off, or split elsewhere")
        self.reached += self.reached < len(self.ats) and path == self.ats[self.reached]
        self.calls.append((self.reached, path))

    def note_output(self, path: str, output: Any) -> None:
        if isinstance(output, Tensor) and output.dim() in (3, 4) and output.shape[1:].numel() > max(output.shape[1:]):
            self.maps.append(path)

    def last_map(self, classifier: str | None) -> str | None:
        return next((path for path in reversed(self.maps) if path != classifier), None)


class _Play:
    """One run of a forward."""

    def __init__(
        self,
        base: nn.Module,
        root: nn.Module,
        inside: frozenset[str],
        kept: _Kept | None = None,
        given: list[Tensor] | None = None,
        until: str | None = None,
        taps: list[str] | None = None,
        seen: _Seen | None = None,
    ) -> None:
        self.base, self.root, self.inside = base, root, inside
        self.earlier = kept.calls if kept else []
        self.start: dict[str, Any] = kept.start if kept else {}
        self.given = iter(given or [])
        self.until, self.taps, self.seen = until, taps or [], seen
        self.calls: list[tuple[str, Any, Any]] = []
        self.tensors: list[Tensor] = []
        self.tapped: dict[str, Any] = {}
        self.repeated = 0
        self.names = {module: path for path, module in base.named_modules()}
        self.shells: dict[str, nn.Module] = {}
        # Of a forward that is run more than once, only the target's last run may leave something on it.
        self.leaves_traces = base is root and until is None and seen is None

    def run(self, images: Tensor) -> Any:
        self.now = read_generators()
        if self.earlier:
            set_generators(self.start)
        output = self._make_shell("")(images)
        if self.leaves_traces:
            for path, shell in self.shells.items():
                own = vars(self.base.get_submodule(path))
                own.update((name, value) for name, value in vars(shell).items() if name not in _STRUCTURE)
        return output

    def call(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What stands for a module is called."""
        if self.repeated < len(self.earlier):
            return self._repeat(path)
        if self.earlier and not self.calls:  # the first new call draws from where the stretch before left off
            set_generators(self.now)
        if path == self.until:
            raise _Left
        if self.seen:
            self.seen.note_call(path)
        if path in self.taps[:1] and args:
            self.tapped[path] = args[0]
        output = _find_module(self.root, self.base, path)(*args, **kwargs)
        if self.seen:
            self.seen.note_output(path, output)
        self._keep(path, output)
        return output

    def _keep(self, path: str, output: Any) -> None:
        leaves, spec = pytree.tree_flatten(output)
        self.tensors += [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        fixed = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self.calls.append((path, (spec, fixed, [isinstance(leaf, Tensor) for leaf in leaves]), read_generators()))
        if path in self.taps[1:]:
            self.tapped[path] = output

    def _repeat(self, path: str) -> Any:
        kept, (spec, fixed, is_tensor), state = self.earlier[self.repeated]
        if kept != path:
            raise RuntimeError(f"the forward calls '{path}' where it called '{kept}' before")
        self.repeated += 1
        leaves = [next(self.given) if tensor else leaf for leaf, tensor in zip(fixed, is_tensor, strict=True)]
        output = pytree.tree_unflatten(leaves, spec)
        set_generators(state)
        if path in self.taps[1:]:
            self.tapped[path] = output
        return output

    def _make_shell(self, path: str) -> nn.Module:
        real = self.base.get_submodule(path)
        shell: nn.Module = object.__new__(type(real))  # of its class, whose forward runs; __init__ would build layers
        self.shells[path] = shell
        vars(shell).update(vars(real))
        modules = {
            name: None if child is None else self._make_stand_in(self.names[child], child)
            for name, child in real._modules.items()
        }
        # A branch holds what it uses of its own under the same paths; all else is the target's.
        own = _find_module(self.root, self.base, path)
        parameters = {**real._parameters, **own._parameters}
        buffers = real._buffers
        if not self.leaves_traces:  # a forward that counts its calls in a buffer is to count once
            buffers = {
                name: None if value is None else value.clone() for name, value in (buffers | own._buffers).items()
            }
        if self.seen:
            parameters, buffers = _Read(parameters, path, self.seen), _Read(buffers, path, self.seen)
        vars(shell).update(_modules=modules, _parameters=parameters, _buffers=buffers)
        return shell

    def _make_stand_in(self, path: str, module: nn.Module) -> Any:
        return self._make_shell(path) if path in self.inside else StandIn(module, path, self.call)


class _Read(dict[str, Any]):
    """Notes which of its tensors are read, and in which stretch."""

    def __init__(self, tensors: dict[str, Any], path: str, seen: _Seen) -> None:
        super().__init__(tensors)
        self.path, self.seen = path, seen

    def __getitem__(self, name: str) -> Any:
        self.seen.reads.append((self.seen.reached, f"{self.path}.{name}".lstrip(".")))
        return super().__getitem__(name)


def _find_module(root: nn.Module, base: nn.Module, path: str) -> nn.Module:
    """The branch's own module where it has one, else the target's."""
    try:
        return root.get_submodule(path)
    except AttributeError:
        return base.get_submodule(path)


def _add_containers(model: nn.Module, inside: frozenset[str], ats: tuple[str, ...]) -> frozenset[str]:
    """``inside``, and the lists and sequences in these modules: their parents may walk through them."""
    opened = set(inside)
    for path, module in model.named_modules():
        if isinstance(module, _CONTAINERS) and path not in ats and path.rpartition(".")[0] in opened:
            opened.add(path)
    return frozenset(opened)


def _list_paths(noted: list[tuple[int, str]], number: int) -> tuple[str, ...]:
    return tuple(dict.fromkeys(path for stretch, path in noted if stretch == number))
