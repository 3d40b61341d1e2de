"""Train any image classifier as its own ensemble, and get the same network back: same size, same speed."""

import sys
import warnings
from typing import TYPE_CHECKING

from coterie.lazy import lazy_names
from coterie.version import __version__

if TYPE_CHECKING:
    from coterie import (
        comparison,
        data,
        deploy,
        evaluation,
        functional,
        losses,
        methods,
        networks,
        peers,
        reports,
        serving,
        studies,
        training,
    )
    from coterie.comparison.running import compare
    from coterie.console.interrupt import Interrupted
    from coterie.deploy.formats import Exported, export
    from coterie.deploy.measuring import measure
    from coterie.deploy.prediction import Prediction, predict, predictions
    from coterie.deploy.speed import bench
    from coterie.errors import UserError
    from coterie.evaluation.figures import Evaluation
    from coterie.evaluation.runs import evaluate
    from coterie.outputs import Batch, LossTerms, PeerOutput
    from coterie.peers.branching import branch
    from coterie.peers.native_ensemble import NativeEnsemble
    from coterie.reports.page import report
    from coterie.run import Run
    from coterie.training.loop import train

__all__ = [
    "Batch",
    "Evaluation",
    "Exported",
    "Interrupted",
    "LossTerms",
    "NativeEnsemble",
    "PeerOutput",
    "Prediction",
    "Run",
    "UserError",
    "__version__",
    "bench",
    "branch",
    "compare",
    "comparison",
    "data",
    "deploy",
    "evaluate",
    "evaluation",
    "export",
    "functional",
    "losses",
    "measure",
    "methods",
    "networks",
    "peers",
    "predict",
    "predictions",
    "report",
    "reports",
    "serving",
    "studies",
    "train",
    "training",
]

# In a notebook without ipywidgets tqdm, which other libraries import, would say so. Nothing here shows its bars.
if "ipykernel" in sys.modules:
    warnings.filterwarnings("ignore", "IProgress not found")

# A command must be able to say a line at a signal while torch is imported, which takes seconds, and a loop of one's own
# needs no more than torch.
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Batch": "coterie.outputs",
        "Evaluation": "coterie.evaluation.figures",
        "Exported": "coterie.deploy.formats",
        "Interrupted": "coterie.console.interrupt",
        "LossTerms": "coterie.outputs",
        "NativeEnsemble": "coterie.peers.native_ensemble",
        "PeerOutput": "coterie.outputs",
        "Prediction": "coterie.deploy.prediction",
        "Run": "coterie.run",
        "UserError": "coterie.errors",
        "bench": "coterie.deploy.speed",
        "branch": "coterie.peers.branching",
        "compare": "coterie.comparison.running",
        "comparison": "coterie.comparison",
        "data": "coterie.data",
        "deploy": "coterie.deploy",
        "evaluate": "coterie.evaluation.runs",
        "evaluation": "coterie.evaluation",
        "export": "coterie.deploy.formats",
        "functional": "coterie.functional",
        "losses": "coterie.losses",
        "measure": "coterie.deploy.measuring",
        "methods": "coterie.methods",
        "networks": "coterie.networks",
        "peers": "coterie.peers",
        "predict": "coterie.deploy.prediction",
        "predictions": "coterie.deploy.prediction",
        "report": "coterie.reports.page",
        "reports": "coterie.reports",
        "serving": "coterie.serving",
        "studies": "coterie.studies",
        "train": "coterie.training.loop",
        "training": "coterie.training",
    },
)
