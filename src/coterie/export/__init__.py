"""The trained network for the world outside."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coterie.export.deploy import Exported, Logits, export
    from coterie.export.predict import Prediction, predict

__all__ = ["Exported", "Logits", "Prediction", "export", "predict"]


def __getattr__(name: str) -> Any:
    """Its files are imported when a name is asked for: see the package above."""
    if name not in __all__:
        raise AttributeError(f"module 'coterie.export' has no attribute '{name}'")
    deploy, asking = import_module("coterie.export.deploy"), import_module("coterie.export.predict")
    globals().update(Exported=deploy.Exported, Logits=deploy.Logits, export=deploy.export)
    globals().update(Prediction=asking.Prediction, predict=asking.predict)
    return globals()[name]
