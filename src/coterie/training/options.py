"""A run's options, what is derived from them, and ``config.yaml``."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch

from coterie.bounds import Bounds, NonNegativeInt, PositiveInt
from coterie.checking import check_fields, check_value, show_value
from coterie.data import ImageData
from coterie.errors import UserError
from coterie.methods import Method
from coterie.networks.zoo import Backbone
from coterie.records import Configuration
from coterie.training.precision import PrecisionChoice
from coterie.training.recipes import Recipe

DeviceChoice = Literal["auto", "cpu", "cuda", "mps"]

_DEFAULT_BATCH = 128
_WEEK = 7 * 24 * 60  # minutes


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How a method is trained.

    Here an option of training stands once: :func:`coterie.train` takes the fields as keyword arguments, the command
    line makes flags of them, and ``config.yaml`` holds them.

    Attributes:
        epochs: The length of each stage.
        batch_size: Images in a step over all processes; None for 128, or all images where there are fewer.
        seed: Of initialisation, order, augmentation and noise.
        precision: ``auto`` is a fixed rule, ``trial`` measures, ``bf16`` and ``fp32`` are themselves.
        threads: CPU threads; None for PyTorch's own choice.
        device: Where to train; ``auto`` takes CUDA or MPS where present.
        timeout_minutes: How long a process waits for the others, where there are several, before it ends.
        compile: Whether the network goes through torch.compile.
        deterministic: Whether only kernels may run that compute the same every time; CUDA has faster ones that do not.
        test_every: Epochs from one look at the test images to the next; the last epoch of a stage always has one.
        tensorboard: Whether figures are also written for TensorBoard.
    """

    epochs: Annotated[int, Bounds(least=1, most=1_000_000)] = 30
    batch_size: Annotated[int, Bounds(least=2)] | None = None
    seed: NonNegativeInt = 0
    precision: PrecisionChoice = "auto"
    threads: Annotated[int, Bounds(least=1, most=1024)] | None = None
    device: DeviceChoice = "auto"
    timeout_minutes: Annotated[float, Bounds(above=0, most=_WEEK)] = 30
    compile: bool = False
    deterministic: bool = False
    test_every: PositiveInt = 1
    tensorboard: bool = True

    def __post_init__(self) -> None:
        check_fields(self, "")

    def fit_to(self, data: ImageData, say: Callable[[str], None]) -> "TrainingOptions":
        """The same options with the default batch size, which is no larger than the data.

        Raises:
            UserError: There are too few images for a batch.
        """
        count = len(data.train)
        if count < 2:
            raise UserError(f"data '{data.name}' has {count} training image; batch norm needs two or more")
        if self.batch_size is None:
            if count < _DEFAULT_BATCH:
                say(f"batch size {count} instead of {_DEFAULT_BATCH}: there are {count} training images")
            return replace(self, batch_size=min(_DEFAULT_BATCH, count))
        if self.batch_size > count:
            raise UserError(
                f"⟨batch_size⟩ is {self.batch_size}, and there are {count} training images; use {count} at most"
            )
        return self

    def take_over(self, previous: Configuration) -> "TrainingOptions":
        """The same options with an earlier session's precision and threads, where these are left open now."""
        precision = previous.get("precision", "auto") if self.precision in ("auto", "trial") else self.precision
        return replace(self, precision=precision, threads=self.threads or previous.get("threads"))

    def settle(self, precision: str) -> "TrainingOptions":
        """The same options with this precision and PyTorch's number of threads: nothing is left open."""
        return replace(
            self, precision=cast(PrecisionChoice, precision), threads=self.threads or torch.get_num_threads()
        )


def check_objects(method: Any, data: Any, out: Any, recipe: Any, **switches: Any) -> None:
    """Refuse what is no object of ours, such as the names that the command line takes.

    Raises:
        UserError: Names the argument, and what makes the object.
    """
    wanted = (
        ("method", method, Method, "a method, for example coterie.methods.One(network='resnet32')"),
        ("data", data, ImageData, "what coterie.data.load gives, for example coterie.data.load('digits')"),
        ("recipe", recipe, Recipe | None, "a recipe, for example coterie.training.Transformer()"),
        ("out", out, str | PathLike, "the path of a folder, for example 'runs/one'"),
    )
    for name, value, kind, example in wanted:
        if not isinstance(value, kind):
            raise UserError(f"{name} is {show_value(value)}; give {example}")
    for name, value in switches.items():
        check_value(f"⟨{name}⟩", value, bool)


def configuration(method: Method, data: ImageData, recipe: Recipe, options: TrainingOptions) -> dict[str, Any]:
    """All that is needed to repeat a run, for ``config.yaml``."""
    return {
        "method": {"name": method.name, **method_options(method)},
        # Repeating a run of a module, a factory or data of the user's own needs the object.
        "network": Backbone.of(method.network).to_record(),
        "data": dict(data.options) or None,
        "recipe": {"name": recipe.name, **asdict(recipe)},
        **asdict(options),
    }


def method_options(method: Method) -> dict[str, Any]:
    """A method's options but for its network, as plain values."""
    return {field.name: _plain(getattr(method, field.name)) for field in fields(method) if field.name != "network"}


def _plain(value: Any) -> Any:
    """Parts of a composed method as mappings that name their kind, tuples as lists."""
    if is_dataclass(value) and not isinstance(value, type):
        return {
            "kind": type(value).__name__,
            **{each.name: _plain(getattr(value, each.name)) for each in fields(value)},
        }
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value


# What may be another when a training is resumed: none of these says what is computed. With other threads, or on another
# device, sums are rounded in another order.
_FREE = ("data.root", "data.workers", "data.memory_gb", "data.download", "timeout_minutes", "tensorboard")
_ROUNDING = ("threads", "device", "deterministic")
# What Runs of 0.1.0 did where they have not written the option, if that is not null.
_UNWRITTEN = {"deterministic": False, "method.discriminator_divisor": 2}


def resume_differences(path: Path, now: dict[str, Any], before: Mapping[str, Any]) -> list[str]:
    """Refuse to go on with a run under options that make it another training.

    Returns:
        Lines to say, of options that may change results in their last digits.

    Raises:
        UserError: Names the first option that differs.
    """
    lines = []
    for option, *values in _differences(now, before):
        value, old = ("null" if each is None else each for each in values)  # as the shell and YAML write it
        if option in _ROUNDING:
            lines.append(f"{option} is {value}, and the run had {old}: results may differ in their last digits")
        elif option not in _FREE:
            raise UserError(
                f"⟨{option}⟩ is {value}, and the run in {path} has {old}; give {old} to go on, or choose another ⟨out⟩"
            )
    return lines


def _differences(now: Any, before: Any, option: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(now, dict) and isinstance(before, dict):
        found = []
        for key in [*now, *(key for key in before if key not in now)]:
            place = f"{option}.{key}".lstrip(".")
            found += _differences(now.get(key), before.get(key, _UNWRITTEN.get(place)), place)
        return found
    plain = list(now) if isinstance(now, tuple) else now
    return [] if plain == before else [(option.removesuffix(".name"), now, before)]
