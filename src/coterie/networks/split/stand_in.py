"""What stands for a module in a forward that is run on shells, see ``rerun.py``."""

from collections.abc import Callable
from typing import Any

from torch import nn


class StandIn:
    """Stands for a module in a shell: a call goes to the run, all else to the module."""

    def __init__(self, module: nn.Module, path: str, call: Callable[..., Any]) -> None:
        self.__dict__.update(_module=module, _path=path, _call=call)

    # Forwards ask isinstance(layer, nn.Linear) and the like.
    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self._module)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Let the run say what the module gives."""
        return self._call(self._path, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_module"], name)
