"""Analyses of what a trial of a study has trained: flatness, diversity, generalisation, curves.

Each but the curves is a function of a finished Run and its data, and gives part -> metric -> figure. Errors are in
percent of images, their differences in points, NLL in nats.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations, permutations

import torch
from torch import Tensor, nn

from coterie.data import Batch, ImageData, Images, evaluation_batches
from coterie.data.splits import stratified
from coterie.evaluation.predictions import Predictions, disagreement, errors_and_nll, predict_batches
from coterie.functional import kl_divergence
from coterie.outputs import answer
from coterie.processor import memory_format
from coterie.records import AVERAGE
from coterie.run import Run

Figures = dict[str, dict[str, float]]
Curves = dict[str, dict[str, list[tuple[int, float]]]]

DISTANCES = (0.1, 0.2, 0.3, 0.4, 0.5)
_DIRECTIONS, _IMAGES = 5, 1000


def measure_flatness(run: Run, data: ImageData) -> Figures:
    """How much worse the deployable network gets when its weights are moved at random.

    ``flatness_D`` is the increase of the test error (points) and ``flatness_nll_D`` that of the test NLL at relative
    distance D (:func:`perturb`), the mean of five directions that are the same for networks of one architecture, on
    up to 1,000 test images, stratified.

    That ONE's parameters lie in a flatter place is shown so by Lan, Zhu, Gong (2018, section on model generalisation):
    θ* + d v for random directions v; their distances and how v is scaled are not verified, so that these figures
    compare with each other alone.
    """
    network = run.model.to(memory_format=memory_format())
    few = min(_IMAGES, len(data.test))
    images = data.test.subset(stratified(data.test.labels, few, seed=0)[0])
    batches = list(evaluation_batches(data, images))
    before, found = _measure_errors(network, batches), dict[str, float]()
    for distance in DISTANCES:
        moved = []
        for seed in range(_DIRECTIONS):
            with perturb(network, distance, seed):
                moved.append(_measure_errors(network, batches))
        for metric, name in (("error", "flatness"), ("nll", "flatness_nll")):
            worse = sum(each[metric] for each in moved) / len(moved) - before[metric]
            found[f"{name}_{distance:g}"] = worse
    return {run.student(): found}


@contextmanager
def perturb(network: nn.Module, distance: float, seed: int) -> Iterator[None]:
    """Move a network's weights in a random direction, and put them back exactly.

    Each filter w (what makes one output channel of a convolution or linear layer) becomes w + d ‖w‖ v / ‖v‖ with v
    from N(0, 1): filter normalisation (Li, Xu, Taylor, Studer, Goldstein, *Visualizing the loss landscape of neural
    nets*, NeurIPS 2018, section 4), without which a network of larger weights would seem flatter. As there, biases and
    the parameters of norms stay as they are. So do the running statistics of batch norms: what is moved is the network
    that is deployed, and that has them fixed. They do not undo the normalisation: a filter scaled by c, and its
    statistics with it, is moved c times as far, and the network computes the same.

    Args:
        network: Its parameters are changed inside the ``with`` only.
        distance: d, relative to each filter's norm.
        seed: Of the direction.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = [parameter for parameter in network.parameters() if parameter.dim() > 1]
    before = [weight.detach().clone() for weight in weights]
    try:
        with torch.no_grad():
            for weight in weights:
                direction = torch.randn(weight.shape, generator=generator).to(weight)
                filters = weight.flatten(1).norm(dim=1) / direction.flatten(1).norm(dim=1)
                weight.add_(direction * filters.view(-1, *[1] * (weight.dim() - 1)), alpha=distance)
        yield
    finally:
        with torch.no_grad():
            for weight, old in zip(weights, before, strict=True):
                weight.copy_(old)


def measure_diversity(run: Run, data: ImageData) -> Figures:
    """How differently the members of a run's ensemble answer on the test images, mean over pairs of members.

    On part ``ensemble``: ``disagreement``, the percent of images that two members class differently;
    ``error_correlation``, of whether they err (1: always on the same images; a pair with a member that errs on none, or
    on all, has none and is left out); ``member_divergence``, KL between their predictions, in nats. Nothing for a run
    without an ensemble.
    """
    if run.ensemble is None:
        return {}
    said = _predict(run, run.ensemble, data, data.test)
    logits = said.logits
    if logits.shape[1] < 2:
        return {}
    ordered = list(permutations(range(logits.shape[1]), 2))
    apart = [kl_divergence(logits[:, one], logits[:, other]).item() for one, other in ordered]
    found = {"disagreement": 100 * disagreement(logits), "member_divergence": sum(apart) / len(apart)}
    correlation = error_correlation(logits, _true_labels(said, data.test))
    return {run.ensemble: found if correlation is None else found | {"error_correlation": correlation}}


def error_correlation(logits: Tensor, labels: Tensor) -> float | None:
    """Pearson's correlation of whether two members err, mean over pairs; None where no pair has one.

    Args:
        logits: (N, m, C).
        labels: (N,).
    """
    wrong = (logits.argmax(2) != labels[:, None]).double()
    varying = [each for each in wrong.unbind(1) if 0 < each.mean() < 1]
    found = [torch.corrcoef(torch.stack(pair))[0, 1].item() for pair in combinations(varying, 2)]
    return sum(found) / len(found) if found else None


def measure_generalisation(run: Run, data: ImageData) -> Figures:
    """What every part errs on the training images as they are, not augmented, and the gap to the test images.

    For every deliverable and every member of an ensemble: ``clean_train_error`` (percent), ``clean_train_nll`` (nats),
    ``generalisation_gap``, the test error minus that (points), and ``nll_gap``. Where training labels were made wrong
    it is measured against the right ones, as ``coterie evaluate --split train`` does.
    """
    found: Figures = {}
    for student in sorted(run.card["deliverables"], key=lambda name: name.removesuffix(AVERAGE) != "ensemble"):
        if student in found:  # it was heard as a member of the ensemble
            continue
        train, test = (_measure_parts(run, student, data, images) for images in (data.train, data.test))
        for part, learned in train.items():
            found[part] = {
                "clean_train_error": learned["error"],
                "clean_train_nll": learned["nll"],
                "generalisation_gap": test[part]["error"] - learned["error"],
                "nll_gap": test[part]["nll"] - learned["nll"],
            }
    return found


MEASURES: dict[str, Callable[[Run, ImageData], Figures]] = {
    "flatness": measure_flatness,
    "diversity": measure_diversity,
    "generalisation": measure_generalisation,
}
CURVES = "curves"  # a measure too, of another shape


def collect_curves(run: Run) -> Curves:
    """Errors in the course of training: part -> ``train_error`` and ``test_error`` -> (epoch, percent), last stage.

    The training error is of that epoch's images as they were trained on: augmented, and with weights that moved
    meanwhile. The test error is of the end of the epoch, and known at those epochs only that had a look at the test
    images.
    """
    rows = [row for row in run.metrics if row["stage"] == run.metrics[-1]["stage"]]
    found: Curves = {}
    for row in rows:
        tested = {name.removeprefix("test_error_"): value for name, value in row.items() if "test_error_" in name}
        for part, error in tested.items():
            if error is not None:
                kept = found.setdefault(part, {"train_error": [], "test_error": []})
                kept["test_error"].append((int(row["epoch"]), float(error)))
                if (learned := row.get(f"train_error_{part.removesuffix(AVERAGE)}")) is not None:
                    kept["train_error"].append((int(row["epoch"]), float(learned)))
    return found


def _predict(run: Run, student: str, data: ImageData, images: Images) -> Predictions:
    return predict_batches(run.network(student), evaluation_batches(data, images))


def _true_labels(said: Predictions, images: Images) -> Tensor:
    return said.labels if images.clean is None else torch.from_numpy(images.clean)


def _measure_parts(run: Run, student: str, data: ImageData, images: Images) -> Figures:
    """Errors and NLL of a deliverable, and of its members where it is a group of several."""
    said = _predict(run, student, data, images)
    labels, members = _true_labels(said, images), said.logits.shape[1] > 1
    ending = AVERAGE if student.endswith(AVERAGE) else ""
    named = said.by_name(run.card["peers"]) if members else {}
    parts = {name + ending: logits for name, logits in named.items()}
    parts[student] = answer(said)
    return {part: errors_and_nll(logits, labels) for part, logits in parts.items()}


def _measure_errors(network: nn.Module, batches: Sequence[Batch]) -> dict[str, float]:
    said = predict_batches(network, batches)
    return errors_and_nll(answer(said), said.labels)
