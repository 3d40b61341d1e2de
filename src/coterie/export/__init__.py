"""The trained network for the world outside."""

from coterie.export.deploy import Exported, Logits, export
from coterie.export.predict import Prediction, predict

__all__ = ["Exported", "Logits", "Prediction", "export", "predict"]
