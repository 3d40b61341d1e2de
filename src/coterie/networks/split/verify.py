"""Whether a model split into segments computes exactly what the model computes, asked before anyone trains it."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from coterie.errors import UserError, in_a_line
from coterie.networks.preserve import preserve_state, read_generators, same_generators
from coterie.networks.split.segments import SplitForwards

_DROP = 0.1  # a layer that drops nothing draws no numbers, and a trace that froze its mode would not show


def run_split(model: nn.Module, graphs: SplitForwards, images: Tensor) -> Tensor:
    """Images (B, channels, H, W) to logits (B, C), by the model's segments one after the other."""
    graph = graphs.of(model, images)
    values = graph.trunk(model, images)
    for segment in graph.tails:
        values = segment.run(model, values)
    return values[0]


def check_split(model: nn.Module, graphs: SplitForwards, example: Tensor) -> Tensor | None:
    """Compare a model with its segments; where a trace has frozen something, run the forward again instead.

    Both run in both modes, with drop rates above 0, on random images of the example's shape and of another batch and,
    where the model takes it, another image size: what a trace has frozen shows. Compared are logits, bit for bit,
    the buffers, and the random generators afterwards.

    Returns:
        Images of another size that the model takes; None where it takes only the example's.

    Raises:
        UserError: They differ, or the model cannot be split there.
    """
    usual, *others = _make_images(example)
    taken = next((images for images in others if _takes(model, images)), None)
    given = [usual] if taken is None else [usual, taken]
    wrong = _find_difference(model, graphs, given)
    if wrong and not graphs.resists:
        graphs.give_up_tracing(f"what is traced has {wrong}")
        wrong = _find_difference(model, graphs, given)
    if wrong:
        raise UserError(
            f"{type(model).__name__} split at {' and '.join(graphs.ats)} has {wrong} ({graphs.resists}); "
            "split at another module"
        )
    return taken if taken is not None and taken.shape[2:] != example.shape[2:] else None


def _find_difference(model: nn.Module, graphs: SplitForwards, given: list[Tensor]) -> str:
    """What differs, in words; empty where nothing does."""
    for mode, images in itertools.product((True, False), given):
        with preserve_state(model), _raise_drop_rates(model):
            model.train(mode)
            expected = _compute_outcome(model, lambda images: graphs.answer.of(model, model(images)), images)
            try:
                outcome = _compute_outcome(model, partial(run_split, model, graphs), images)
                difference = expected.describe_difference(outcome)
            except UserError:
                raise
            except Exception as error:  # where a shape is frozen, an operation may fail
                difference = f"an error, {in_a_line(error)},"
        if difference:
            shape = "x".join(map(str, images.shape))
            return f"{difference} in {'training' if mode else 'evaluation'} mode on images {shape}"
    return ""


def _takes(model: nn.Module, images: Tensor) -> bool:
    """Whether the model takes images of this size, in both modes."""
    with preserve_state(model):
        try:
            for mode in (True, False):
                model.train(mode)(images)
        except Exception:
            return False
    return True


@dataclass(frozen=True)
class _Outcome:
    logits: Tensor
    buffers: list[Tensor]
    generators: dict[str, Any]

    def describe_difference(self, other: "_Outcome") -> str:
        if self.logits.shape != other.logits.shape:
            return f"logits of shape {tuple(other.logits.shape)}, not {tuple(self.logits.shape)},"
        if not _equal(self.logits, other.logits):
            return f"logits that differ by {(self.logits - other.logits).abs().max().item():.2g}"
        if not all(map(_equal, self.buffers, other.buffers)):
            return "other buffers after the forward"
        if not same_generators(self.generators, other.generators):
            return "other random numbers drawn"
        return ""


def _compute_outcome(model: nn.Module, forward: Callable[[Tensor], Tensor], images: Tensor) -> _Outcome:
    with preserve_state(model):
        torch.manual_seed(0)  # both draw the same numbers, or differ in how many they draw
        logits = forward(images)
        if not isinstance(logits, Tensor):
            raise UserError(f"{type(model).__name__} returns no plain logits; wrap it in a module that does")
        if logits.dim() != 2:
            raise UserError(
                f"{type(model).__name__} gives logits of shape {tuple(logits.shape)} for {len(images)} images, and "
                "(images, classes) is expected; reshape them at the end of its forward, or name others with logits="
            )
        return _Outcome(logits, [buffer.clone() for buffer in model.buffers()], read_generators())


def _equal(one: Tensor, other: Tensor) -> bool:
    if one.is_meta or one.shape != other.shape:
        return one.shape == other.shape
    return torch.equal(one.nan_to_num(), other.nan_to_num())  # a network may give NaN both ways: no difference


def _make_images(example: Tensor) -> Iterator[Tensor]:
    """Random images of the example's shape, of another size and batch, and of another batch."""
    batch, channels, height, width = example.shape
    # Networks halve their maps up to five times: sizes stay multiples of 32 where they are large enough.
    step = 32 if min(height, width) >= 128 else 8
    other = (height - step, width - 2 * step) if min(height, width) > 2 * step else (height + step, width + 2 * step)
    for shape in (example.shape, (batch + 1, channels, *other), (batch + 1, channels, height, width)):
        yield torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(example)


@contextmanager
def _raise_drop_rates(model: nn.Module) -> Iterator[None]:
    """Set drop rates of 0 above it."""
    changed = []
    for module in model.modules():
        for name in ("p", "drop_prob") if "drop" in type(module).__name__.lower() else ():
            if vars(module).get(name) in (0, 0.0):
                changed.append((module, name, vars(module)[name]))
                setattr(module, name, _DROP)
    try:
        yield
    finally:
        for module, name, value in changed:
            setattr(module, name, value)
