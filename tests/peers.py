"""Plain arithmetic beside which the losses of online methods are held, and outputs of peers to hold there."""

from math import exp, log

import torch

from coterie.outputs import PeerOutput

LABELS = torch.tensor([2, 0])
# Four peers' logits for two images of three classes.
LOGITS = torch.tensor(
    [
        [[0.3, -1.2, 2.0], [1.0, 0.5, -0.7], [0.0, 0.4, 0.1], [-0.5, 0.2, 0.9]],
        [[1.5, 0.1, -0.3], [0.2, 0.9, 0.4], [-1.0, 0.6, 0.8], [0.7, 0.7, -0.2]],
    ],
    dtype=torch.float64,
)


def softmax(values, temperature=1.0):
    total = sum(exp(value / temperature) for value in values)
    return [exp(value / temperature) / total for value in values]


def ce(values, label):
    return -log(softmax(values)[label])


def kl(teacher, student, temperature):
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    return sum(a * log(a / b) for a, b in zip(p, q, strict=True))


def mean(rows):
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def over_batch(rule, *tensors):
    """The mean over images of a rule on plain lists."""
    lists = [tensor.tolist() for tensor in tensors]
    values = [rule(*each) for each in zip(*lists, strict=True)]
    return sum(values) / len(values)


def terms(method, logits, *, ensemble=None, features=None, progress=1.0, from_ema=None):
    """The terms of a method's loss for these answers."""
    output = PeerOutput(logits, ensemble=ensemble, features=features)
    loss = method.loss(output).to(torch.float64)
    return loss, loss(output, LABELS, progress, from_ema)
