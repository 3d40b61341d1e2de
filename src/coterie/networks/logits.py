"""Where a model's output holds its logits: models return tensors, dictionaries, tuples and objects of their own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from torch import Tensor, nn

from coterie.errors import UserError
from coterie.networks.layers import classifiers
from coterie.networks.preserve import preserve_state

LogitsAt = str | int | Callable[[Any], Tensor]

_USUAL = ("logits", "out")  # names under which libraries give them: Hugging Face's, torchvision's


@dataclass(frozen=True)
class Place:
    """Where one mode's output holds the logits.

    Attributes:
        at: A key, an attribute, an index, or a function of the output; None where the output is the logits.
        attribute: Whether a name is an attribute's, and no key.
    """

    at: LogitsAt | None = None
    attribute: bool = False

    def __call__(self, output: Any) -> Any:
        """The logits in an output; either may stand for one that is yet to be computed."""
        if self.at is None:
            return output
        if callable(self.at):
            return self.at(output)
        return getattr(output, str(self.at)) if self.attribute else output[self.at]


@dataclass(frozen=True)
class Answer:
    """Where a model's outputs hold the logits in its two modes: torchvision's GoogLeNet gives more in training."""

    training: Place = Place()
    evaluation: Place = Place()

    @property
    def plain(self) -> bool:
        """Whether the model returns its logits and nothing else."""
        return self == Answer()

    def of(self, model: nn.Module, output: Any) -> Any:
        """The logits in what the model has returned."""
        return (self.training if model.training else self.evaluation)(output)


def find_answer(
    model: nn.Module,
    images: Tensor,
    logits: LogitsAt | None = None,
    num_classes: int | None = None,
    option: str = "logits=",
) -> Answer:
    """Find the logits in what a model returns, by running it once in each mode; it is left as it was.

    Tensors are logits. Else those named ``logits`` or ``out`` are, and else the only tensor (B, C); of several, the
    only one with as many columns as there are classes.

    Args:
        model: A classifier.
        images: Two or more, (B, channels, H, W), on its device.
        logits: Where they are: a key or attribute, an index, or a function of the output.
        num_classes: C; None for as many as the model's last layer has outputs.
        option: How the user names them, for the error.

    Raises:
        UserError: None or several of them might be, or ``logits`` names none.
    """
    places = []
    for mode in (True, False):
        with preserve_state(model):
            output = model.train(mode)(images)
        places.append(_place(model, output, len(images), logits, num_classes, option))
    return Answer(*places)


def _place(
    model: nn.Module, output: Any, batch: int, logits: LogitsAt | None, num_classes: int | None, option: str
) -> Place:
    if isinstance(output, Tensor) and not callable(logits):
        return Place()
    if logits is not None:
        return _find_named(model, output, logits)
    parts = _parts(output)
    for name in _USUAL:
        if isinstance(parts.get(name), Tensor):
            return _place_of(output, name)
    tables = {name: part.shape[1] for name, part in parts.items() if _is_table(part, batch)}
    if len(tables) > 1:
        heads = classifiers(model)
        widths = {num_classes} if num_classes else {len(model.get_submodule(path).weight) for path in heads}  # type: ignore[arg-type]
        fitting = [name for name, width in tables.items() if width in widths]
        tables = {name: tables[name] for name in fitting} if len(fitting) == 1 else tables
    if len(tables) != 1:
        what = "no tensor (B, C)" if not tables else f"{len(tables)} that may be the logits, {_list_names(tables)}"
        raise UserError(
            f"{type(model).__name__} returns {_kind(output)} with {what}; say which they are with {option}, a name, "
            "an index, or a function of the output"
        )
    return _place_of(output, next(iter(tables)))


def _find_named(model: nn.Module, output: Any, logits: LogitsAt) -> Place:
    parts = _parts(output)
    if not callable(logits) and isinstance(logits, int) and logits < 0 and parts:
        logits = list(parts)[logits] if isinstance(output, (tuple, list)) else logits
    place = Place(logits) if callable(logits) else _place_of(output, logits)
    try:
        value = place(output)
    except Exception as error:
        reason = f": {type(error).__name__}: {' '.join(str(error).split())[:120]}" if callable(logits) else ""
        raise UserError(
            f"logits={_spell(logits)} is not in what {type(model).__name__} returns, {_kind(output)} of "
            f"{_list_names(parts)}{reason}; name one of these"
        ) from error
    if not isinstance(value, Tensor):
        raise UserError(
            f"logits={_spell(logits)} is {_kind(value)} in what {type(model).__name__} returns; name a tensor (B, C)"
        )
    return place


def _place_of(output: Any, name: str | int) -> Place:
    by_key = isinstance(name, int) or (isinstance(output, Mapping) and name in output)
    return Place(name, attribute=not by_key)


def _parts(output: Any) -> dict[str | int, Any]:
    """What an output holds, by key, attribute or index."""
    if isinstance(output, Mapping):
        return dict(output)
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return dict(zip(output._fields, output, strict=True))
    if isinstance(output, (tuple, list)):
        return dict(enumerate(output))
    if is_dataclass(output):
        return {field.name: getattr(output, field.name) for field in fields(output)}
    return {name: value for name, value in getattr(output, "__dict__", {}).items() if not name.startswith("_")}


def _is_table(value: Any, batch: int) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() == 2 and len(value) == batch


def _kind(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _list_names(parts: Mapping[str | int, Any]) -> str:
    names = [repr(name) for name in parts]
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "") if names else "nothing"


def _spell(logits: LogitsAt) -> str:
    return getattr(logits, "__name__", "function") if callable(logits) else repr(logits)


class Logits(nn.Module):
    """A model that returns more than its logits, as one that returns these alone.

    Maps images (B, channels, H, W) to logits (B, C). The state dict is the model's own, under the model's own names,
    and loads into the model itself. ``coterie.train`` makes one where a module or factory of the user's own needs it.

    Args:
        module: The model, which is trained itself.
        logits: Where its output holds them: a key or attribute, an index, or a function of the output; or an
            :class:`Answer`. None for the usual places, see :func:`find_answer`.

    Attributes:
        answer: Where they are; looked for when it first runs.
    """

    def __init__(self, module: nn.Module, logits: LogitsAt | Answer | None = None) -> None:
        super().__init__()
        self.module = module
        self.answer = logits if isinstance(logits, Answer) else None
        self.logits = None if isinstance(logits, Answer) else logits
        self.training = module.training
        self.register_state_dict_post_hook(_without_prefix)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_with_prefix)  # type: ignore[no-untyped-call]

    def forward(self, images: Tensor) -> Tensor:
        """Images to logits."""
        logits: Tensor = self.look(images).of(self, self.module(images))
        return logits

    def look(self, images: Tensor, num_classes: int | None = None) -> Answer:
        """Look where the logits are, where that is not known yet; the arguments are :func:`find_answer`'s."""
        if self.answer is None:
            self.answer = find_answer(self.module, images, self.logits, num_classes, "Logits(model, …)")
        return self.answer


_PREFIX = "module."


def _without_prefix(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name in [name for name in state if name.startswith(prefix + _PREFIX)]:
        state[prefix + name.removeprefix(prefix + _PREFIX)] = state.pop(name)


def _with_prefix(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name in [name for name in state if name.startswith(prefix)]:
        state[prefix + _PREFIX + name.removeprefix(prefix)] = state.pop(name)
