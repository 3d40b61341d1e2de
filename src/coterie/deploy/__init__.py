"""The trained network for the world outside: exported files, predictions from them, and what they cost to run."""

from typing import TYPE_CHECKING

from coterie.lazy import lazy_names

if TYPE_CHECKING:
    from coterie.deploy.formats import Exported, Logits, export
    from coterie.deploy.measuring import measure
    from coterie.deploy.opening import Opened, open_source
    from coterie.deploy.prediction import Prediction, predict, predictions
    from coterie.deploy.speed import Form, Timing, bench

__all__ = [
    "Exported",
    "Form",
    "Logits",
    "Opened",
    "Prediction",
    "Timing",
    "bench",
    "export",
    "measure",
    "open_source",
    "predict",
    "predictions",
]

# A command that only shows its help must not wait for torch.
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Exported": "coterie.deploy.formats",
        "Form": "coterie.deploy.speed",
        "Logits": "coterie.deploy.formats",
        "Prediction": "coterie.deploy.prediction",
        "Timing": "coterie.deploy.speed",
        "bench": "coterie.deploy.speed",
        "export": "coterie.deploy.formats",
        "measure": "coterie.deploy.measuring",
        "Opened": "coterie.deploy.opening",
        "open_source": "coterie.deploy.opening",
        "predict": "coterie.deploy.prediction",
        "predictions": "coterie.deploy.prediction",
    },
)
