"""Full-batch gradient descent of the theorems' networks.

Shapes: K networks, k classes, n samples.
"""

from dataclasses import dataclass
from math import log

import torch
from torch import Tensor
from torch.nn import functional

from coterie.studies.multiview.distribution import Samples
from coterie.studies.multiview.networks import MultiViewNetworks


@dataclass(frozen=True, kw_only=True)
class Objective:
    """α CE(F, y) + β τ² KL(target ‖ softmax(F / τ)), mean over the samples.

    Attributes:
        labels: α.
        soft: β.
        temperature: τ.
        target: Probabilities (n, k) for all networks or (K, n, k), one for each; None where β is 0.
    """

    labels: float = 1.0
    soft: float = 0.0
    temperature: float = 1.0
    target: Tensor | None = None

    def gradient(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The gradient for the logits, (K, n, k): (α (softmax(F) - Y) + β τ (softmax(F / τ) - target)) / n.

        Args:
            logits: F (K, n, k).
            labels: Class indices (n,).
        """
        total = torch.zeros_like(logits)
        if self.labels:
            total += self.labels * (logits.softmax(2) - functional.one_hot(labels, logits.shape[2]))
        if self.soft:
            assert self.target is not None
            total += self.soft * self.temperature * ((logits / self.temperature).softmax(2) - self.target)
        return total / len(labels)


def descend(
    networks: MultiViewNetworks,
    samples: Samples,
    objective: Objective,
    steps: int,
    rate: float,
    boost: float = 1.0,
) -> MultiViewNetworks:
    """Train the networks in place, each as if it were alone (but for the boost), and give them back.

    Args:
        networks: To train.
        samples: All of them, at every step.
        objective: What to lower.
        steps: How many.
        rate: The learning rate.
        boost: Its factor while the networks' mean cross-entropy is above 0.97 log k: it shortens the first plateau.
    """
    plateau = 0.97 * log(networks.weight.shape[1])
    for _ in range(steps):
        response = networks.respond(samples.patches)
        logits = response.logits
        upstream = objective.gradient(logits, samples.labels)
        lifted = boost != 1 and _cross_entropy(logits, samples.labels) > plateau
        gradient = networks.gradient(samples.patches, response.slope, upstream)
        networks.weight.sub_(gradient, alpha=rate * boost if lifted else rate)
    return networks


def _cross_entropy(logits: Tensor, labels: Tensor) -> float:
    return functional.cross_entropy(logits.flatten(0, 1), labels.repeat(len(logits))).item()
