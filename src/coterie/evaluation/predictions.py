"""What a network says of a split, and what that is worth. Shapes: N images, m peers, C classes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional

from coterie.evaluation.tta import Copies
from coterie.outputs import Batch, PeerOutput


@dataclass(frozen=True)
class Predictions:
    """Logits of every image of a split, in the split's order.

    Attributes:
        labels: (N,).
        logits: (N, m, C).
        ensemble: (N, C), or None.
        weights: The gate's (N, m), or None.
    """

    labels: Tensor
    logits: Tensor
    ensemble: Tensor | None = None
    weights: Tensor | None = None

    @classmethod
    def joined(cls, parts: Sequence["Predictions"]) -> "Predictions":
        """The predictions of a split's consecutive parts, in order, on the CPU."""

        def join(tensors: Sequence[Tensor | None]) -> Tensor | None:
            there = [tensor.cpu() for tensor in tensors if tensor is not None]
            return torch.cat(there) if there else None

        return cls(
            torch.cat([part.labels.cpu() for part in parts]),
            torch.cat([part.logits.cpu() for part in parts]),
            join([part.ensemble for part in parts]),
            join([part.weights for part in parts]),
        )

    def by_name(self, peers: Iterable[str]) -> dict[str, Tensor]:
        """Logits (N, C) of every peer, and of the ensemble where there is one."""
        named = {name: self.logits[:, index] for index, name in enumerate(peers)}
        return named | ({"ensemble": self.ensemble} if self.ensemble is not None else {})


def as_peer_output(output: PeerOutput | Tensor) -> PeerOutput:
    """A network's answer: a group's as it is, plain logits (B, C) as a group of one."""
    return output if isinstance(output, PeerOutput) else PeerOutput(output.unsqueeze(1))


@torch.inference_mode()
def predict_batches(
    network: nn.Module, batches: Iterable[Batch], device: torch.device | str = "cpu", copies: Copies | None = None
) -> Predictions:
    """Run a network in evaluation mode over batches; its mode is as before afterwards.

    Args:
        network: Maps images to a PeerOutput or to logits (B, C).
        batches: As made by :func:`coterie.data.evaluation_batches`.
        device: Where the network is.
        copies: Of each image, over which probabilities are averaged; None for the image alone.
    """

    def ask(images: Tensor) -> PeerOutput:
        return as_peer_output(network(images))

    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    labels, logits, ensembles, weights = [], [], [], []
    try:
        for batch in batches:
            images = batch.images.to(device)
            output = ask(images) if copies is None else copies.ask(ask, images, batch.indices)
            labels.append(batch.labels.to(output.logits.device))
            logits.append(output.logits)
            if output.ensemble is not None:
                ensembles.append(output.ensemble)
            if output.weights is not None:
                weights.append(output.weights)
    finally:
        for module, mode in modes:
            module.training = mode
    return Predictions(
        torch.cat(labels),
        torch.cat(logits),
        torch.cat(ensembles) if ensembles else None,
        torch.cat(weights) if weights else None,
    )


def errors_and_nll(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """``error`` in percent and ``nll`` in nats of logits (N, C)."""
    wrong = (logits.argmax(1) != labels).double().mean().item()
    return {"error": 100 * wrong, "nll": functional.cross_entropy(logits, labels).item()}


def measures(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """``error`` and ``top5_error`` in percent, ``nll`` in nats, ``ece``: expected calibration error of 15 bins."""
    # torchmetrics takes half a second to import, and more where matplotlib is there.
    from torchmetrics.functional.classification import multiclass_calibration_error

    classes = logits.shape[1]
    values = errors_and_nll(logits, labels)
    ece = multiclass_calibration_error(logits.softmax(1), labels, classes, n_bins=15)
    values["ece"] = ece.item()
    if classes > 5:
        missed = (logits.topk(5).indices != labels[:, None]).all(1).double().mean().item()
        values["top5_error"] = 100 * missed
    return values


def confusion(logits: Tensor, labels: Tensor) -> Tensor:
    """Counts (C, C): rows are true classes, columns what was said."""
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    return multiclass_confusion_matrix(logits.argmax(1), labels, logits.shape[1])


def disagreement(logits: Tensor) -> float:
    """Mean over all pairs of m peers of the share of images that they class differently; 0 for one peer.

    Args:
        logits: (N, m, C).
    """
    said = logits.argmax(2)
    pairs = [(said[:, a] != said[:, b]).double().mean() for a, b in combinations(range(said.shape[1]), 2)]
    return torch.stack(pairs).mean().item() if pairs else 0.0
