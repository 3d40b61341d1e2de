"""Train any image classifier as its own ensemble, and get the same network back, more accurate."""

__version__ = "0.1.0"

from coterie import data, evaluation, losses, methods, networks
from coterie.errors import UserError
from coterie.networks.branch import NativeEnsemble, branch
from coterie.outputs import Batch, LossTerms, PeerOutput
from coterie.run import Run
from coterie.training import Interrupted, train

__all__ = [
    "Batch",
    "Interrupted",
    "LossTerms",
    "NativeEnsemble",
    "PeerOutput",
    "Run",
    "UserError",
    "branch",
    "data",
    "evaluation",
    "losses",
    "methods",
    "networks",
    "train",
]
