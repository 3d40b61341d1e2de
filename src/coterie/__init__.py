"""Train any image classifier as its own ensemble, and get the same network back: same size, same speed."""

__version__ = "0.1.0"

from coterie import data, evaluation, losses, methods, networks
from coterie.errors import UserError
from coterie.evaluation.evaluate import evaluate
from coterie.export import Exported, Prediction, export, predict
from coterie.networks.branch import branch
from coterie.networks.native import NativeEnsemble
from coterie.outputs import Batch, LossTerms, PeerOutput
from coterie.report import report
from coterie.run import Run
from coterie.training import Interrupted, train

__all__ = [
    "Batch",
    "Exported",
    "Interrupted",
    "LossTerms",
    "NativeEnsemble",
    "PeerOutput",
    "Prediction",
    "Run",
    "UserError",
    "branch",
    "data",
    "evaluate",
    "evaluation",
    "export",
    "losses",
    "methods",
    "networks",
    "predict",
    "report",
    "train",
]
