"""What a network's answers are worth, and what it costs."""

from coterie.evaluation.costs import Cost, cost
from coterie.evaluation.figures import ClassFigures, Evaluation, count_figures
from coterie.evaluation.intervals import wilson
from coterie.evaluation.latency import latencies
from coterie.evaluation.predictions import (
    Predictions,
    as_peer_output,
    confusion,
    disagreement,
    errors_and_nll,
    measures,
    predict_batches,
)
from coterie.evaluation.tta import Copies

__all__ = [
    "ClassFigures",
    "Copies",
    "Cost",
    "Evaluation",
    "Predictions",
    "as_peer_output",
    "confusion",
    "cost",
    "count_figures",
    "disagreement",
    "errors_and_nll",
    "latencies",
    "measures",
    "predict_batches",
    "wilson",
]
