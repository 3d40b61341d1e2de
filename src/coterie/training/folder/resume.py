"""``config.yaml``: written when a training begins, compared when it goes on."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from coterie.data import ImageData
from coterie.errors import UserError
from coterie.methods import Method
from coterie.networks.zoo import Backbone
from coterie.recipes import RECIPES, Recipe
from coterie.records import Configuration
from coterie.run import Run
from coterie.training.folder.run_folder import LOCK
from coterie.training.options import TrainingOptions


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
            **{field.name: _plain(getattr(value, field.name)) for field in fields(value)},
        }
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def previous_configuration(path: Path, resume: bool, say: Callable[[str], None]) -> Configuration | None:
    """The configuration of the run to go on with, if there is one.

    Raises:
        UserError: There is one, and ``resume`` is false.
    """
    if not resume:
        if path.exists() and (not path.is_dir() or any(file.name != LOCK for file in path.iterdir())):
            raise UserError(f"{path}: exists already; go on with ⟨resume true⟩, or choose another ⟨out⟩")
        return None
    if not (path / "config.yaml").is_file():
        say(f"{path}: no run to resume there; starting from the beginning")
        return None
    if not any((path / place).is_file() for place in ("model.json", "checkpoints/last.safetensors")):
        say(f"{path}: no checkpoint yet; starting from the beginning")
    return Run(path).config


def recorded_recipe(path: Path) -> str | None:
    """The name of the recipe that the run in a folder began with; None where there is none of a known name."""
    if not (path / "config.yaml").is_file():
        return None
    recipe: Any = dict(Run(path).config).get("recipe")
    name = recipe.get("name") if isinstance(recipe, dict) else None
    return name if name in RECIPES else None


# What may be another when a training is resumed: none of these says what is computed. With other threads, or on another
# device, sums are rounded in another order.
_FREE = (
    "data.root",
    "data.file",
    "data.workers",
    "data.memory_gb",
    "data.cache_gb",
    "data.download",
    "network.checkpoint_activations",
    "timeout_minutes",
    "track",
    "tensorboard",  # what 0.1.0 had before it
)
_ROUNDING = ("threads", "device", "deterministic", "capture")
# What Runs did that were trained before there was the option, if that is not null. A recipe that gained a field does by
# its base's default what it did without.
_UNWRITTEN = {
    "accumulate": 1,
    "sync_batch_norm": False,
    "capture": False,
    "deterministic": False,
    "data.crop_ratio": 1.0,
    "data.interpolation": "bicubic",
    "method.discriminator_divisor": 2,
    "method.divergence": "kl",
    **{f"recipe.{name}": value for name, value in asdict(Recipe()).items()},
}

_WHOLE = ("method.epochs", "recipe.layer_rates")  # whose keys are the user's own


def check_resumable(path: Path, now: Mapping[str, Any], before: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """Refuse to go on with a run under options that make it another training.

    Args:
        path: The Run's folder.
        now: The configuration.
        before: That of the run.
        say: Takes a line on each option that may change results in their last digits.

    Raises:
        UserError: Names the first option that differs.
    """
    for option, *values in _differences(now, before):
        value, old = ("null" if each is None else each for each in values)  # as the shell and YAML write it
        if option in _ROUNDING:
            say(f"{option} is {value}, and the run had {old}: results may differ in their last digits")
        elif option not in _FREE:
            raise UserError(
                f"⟨{option}⟩ is {value}, and the run in {path} has {old}; give {old} to go on, or choose another ⟨out⟩"
            )


def _differences(now: Any, before: Any, option: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(now, dict) and isinstance(before, dict) and option not in _WHOLE:
        differences = []
        for key in [*now, *(key for key in before if key not in now)]:
            place = f"{option}.{key}".lstrip(".")
            differences += _differences(now.get(key), before.get(key, _UNWRITTEN.get(place)), place)
        return differences
    plain = list(now) if isinstance(now, tuple) else now
    return [] if plain == before else [(option.removesuffix(".name"), now, before)]
