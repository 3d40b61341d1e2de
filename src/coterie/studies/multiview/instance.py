"""A compact instance of the theory: its data, its networks, and what is measured of them.

Shapes: K networks, k classes, n samples, l = 2 features a class.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from coterie.studies.multiview.distribution import MultiView, Samples, stream
from coterie.studies.multiview.networks import MultiViewNetworks, make_networks

Metrics = dict[str, float | None]
Results = dict[str, Metrics]


@dataclass(frozen=True, kw_only=True)
class Instance:
    """Sizes of an instance.

    Attributes:
        data: The distribution.
        samples: N, of training.
        single: μ, the share of single-view samples among them.
        test_single: Test samples with one view.
        test_multi: Test samples with both.
        filters: m, of a class.
        power: q, of the activation.
        linear_from: From where on the activation is linear.
        scale: σ_0, the first filters' standard deviation.
        rate: The learning rate.
        boost: Its factor during the first plateau, where networks learn from labels.
    """

    data: MultiView = field(default_factory=MultiView)
    samples: int = 200
    single: float = 0.05
    test_single: int = 800
    test_multi: int = 400
    filters: int = 2
    power: float = 4.0
    linear_from: float = 0.5
    scale: float = 0.015
    rate: float = 3.0
    boost: float = 4.0


class Problem:
    """An instance's features and samples for one seed; every draw has a stream of its own.

    Args:
        instance: The sizes.
        seed: The study's seed, from 0 up.
    """

    def __init__(self, instance: Instance, seed: int) -> None:
        data = instance.data
        # The settings were chosen on the seeds 0, 11 and 12, the first form of the study ran on 101 to 105, after which
        # students became as many as teachers: what is reported has others.
        self.instance, self.seed = instance, seed + 201
        self.features = data.features(self.seed)
        self.train = data.sample(self.features, instance.samples, instance.single, stream(self.seed, 1))
        self.test_single = data.sample(self.features, instance.test_single, 1.0, stream(self.seed, 2))
        self.test_multi = data.sample(self.features, instance.test_multi, 0.0, stream(self.seed, 3))

    def networks(self, count: int, *purpose: int) -> MultiViewNetworks:
        """Untrained networks.

        Args:
            count: K.
            purpose: What they are for, the first number from 4 up; the same gives the same filters.
        """
        size = self.instance
        shape = (count, size.data.classes, size.filters, size.data.dimension)
        return self.holding(make_networks(*shape, size.scale, stream(self.seed, *purpose)))

    def holding(self, weight: Tensor) -> MultiViewNetworks:
        """Networks with these filters, which they own from now on."""
        return MultiViewNetworks(weight, self.instance.power, self.instance.linear_from)

    def measure(self, networks: MultiViewNetworks) -> dict[str, float]:
        """Errors and coverage in percent, means over the networks."""
        each = {name: networks.logits(samples.patches) for name, samples in self.splits().items()}
        return {**self.errors(each), "both": 100 * both(networks.seen(self.features))}

    def measure_mean(self, networks: MultiViewNetworks, size: int | None = None) -> dict[str, float]:
        """Errors in percent of the mean of the networks' logits.

        Args:
            networks: The members.
            size: How many form one ensemble: disjoint ones, over which the errors are averaged; None for all in one.
        """
        size = size or len(networks.weight)
        groups = len(networks.weight) // size
        each = {}
        for name, samples in self.splits().items():
            logits = networks.logits(samples.patches)[: groups * size]
            each[name] = logits.view(groups, size, *logits.shape[1:]).mean(1)
        return self.errors(each)

    def splits(self) -> dict[str, Samples]:
        """Test samples with one view and with both, and those of training."""
        return {"single_view": self.test_single, "multi_view": self.test_multi, "train": self.train}

    def errors(self, logits: Mapping[str, Tensor]) -> dict[str, float]:
        """Errors in percent, by split.

        Args:
            logits: Of each split, (…, n, k); the mean is over the leading dimensions too.
        """
        return {f"{name}_error": error(logits[name], samples.labels) for name, samples in self.splits().items()}


def error(logits: Tensor, labels: Tensor) -> float:
    """The share of wrong answers in percent.

    Args:
        logits: (…, n, k); the mean is over the leading dimensions too.
        labels: Class indices (n,).
    """
    return 100 * (logits.argmax(-1) != labels).double().mean().item()


def both(seen: Tensor) -> float:
    """The share of (network, class) that sees both features: the weaker by more than 0.2 times the stronger.

    Args:
        seen: (K, k, 2), of :meth:`MultiViewNetworks.seen`.
    """
    return (seen.amin(2) > 0.2 * seen.amax(2)).double().mean().item()


def winner(before: Tensor, after: Tensor) -> float:
    """The share of (network, class) whose feature seen best at first is seen best in the end.

    Args:
        before: (K, k, 2), of the first filters.
        after: (K, k, 2), of the last.
    """
    return (before.clamp(min=0).argmax(2) == after.clamp(min=0).argmax(2)).double().mean().item()


def gain(
    metrics: Mapping[str, float],
    baseline: Mapping[str, float],
    ensemble: Mapping[str, float],
    metric: str = "single_view_error",
) -> Metrics:
    """The metrics, with what was gained over the baseline, and as a share of what the ensemble gained.

    Args:
        metrics: Of a part.
        baseline: Of what learned in the same way from labels alone.
        ensemble: Of the ensemble.
        metric: The error that falls.

    Returns:
        Also ``gain`` in points, and ``kept_gain`` in percent; None where the ensemble gained nothing.
    """
    here, before, best = metrics[metric], baseline[metric], ensemble[metric]
    kept = 100 * (before - here) / (before - best) if before > best else None
    return {**metrics, "gain": before - here, "kept_gain": kept}
