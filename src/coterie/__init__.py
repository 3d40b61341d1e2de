"""Train any image classifier as its own ensemble, and get the same network back: same size, same speed."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from coterie import data, evaluation, losses, methods, networks
    from coterie.errors import UserError
    from coterie.evaluation.evaluate import evaluate
    from coterie.export import Exported, Prediction, export, predict
    from coterie.networks.branch import branch
    from coterie.networks.native import NativeEnsemble
    from coterie.outputs import Batch, LossTerms, PeerOutput
    from coterie.report import report
    from coterie.run import Run
    from coterie.training.interrupt import Interrupted
    from coterie.training.train import train

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

# Where each name is. It is imported when it is asked for: a command must be able to say a line at a signal while torch
# is imported, which takes seconds, and `coterie --version` needs none of it.
_PLACES = {
    "UserError": "errors",
    "evaluate": "evaluation.evaluate",
    "Exported": "export",
    "export": "export",
    "Prediction": "export",
    "predict": "export",
    "branch": "networks.branch",
    "NativeEnsemble": "networks.native",
    "Batch": "outputs",
    "LossTerms": "outputs",
    "PeerOutput": "outputs",
    "report": "report",
    "Run": "run",
    "Interrupted": "training",
    "train": "training",
}
_ROOMS = ("data", "errors", "evaluation", "files", "losses", "methods", "networks", "outputs", "run", "training")

# Two names are a function's and a package's. Python sets a package's name here when it is first imported, which happens
# now (their files hold no imports); from then on the name is free for the function.
for _name in ("export", "report"):
    import_module(f"coterie.{_name}")
    del globals()[_name]


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        value = getattr(import_module(f"coterie.{_PLACES[name]}"), name)
    elif name in _ROOMS:
        value = import_module(f"coterie.{name}")
    else:
        raise AttributeError(f"module 'coterie' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})
