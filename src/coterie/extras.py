"""Libraries that not everyone needs: they are imported where they begin to be needed, and asked for in one line."""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Literal

from coterie.errors import UserError

Extra = Literal["data", "export", "prune", "ray", "report", "serve", "studies", "tensorboard", "wandb", "mlflow"]


def is_installed(library: str) -> bool:
    """Whether a library is there; it is not imported."""
    return find_spec(library) is not None


def need(module: str, extra: Extra) -> ModuleType:
    """A library's module, imported.

    Args:
        module: Its name, such as ``matplotlib`` or ``scipy.stats``.
        extra: The extra of this package that installs it.

    Raises:
        UserError: The library is not installed; names the extra.
    """
    library = module.partition(".")[0]
    if not is_installed(library):
        raise UserError(f"{library} is not installed; install it with: pip install 'coterie[{extra}]'")
    return import_module(module)
