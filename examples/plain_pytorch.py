"""ONE in a plain PyTorch loop: a timm network trained as its own ensemble, then saved as if it had been trained alone.

    python examples/plain_pytorch.py

Digits of 8x8 pixels keep it to seconds; nothing is downloaded. Three epochs show how it works, not what it gains.
"""

from pathlib import Path

import timm
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import coterie


def digits(count: int | None = None) -> tuple[TensorDataset, TensorDataset]:
    """Handwritten digits as images (1, 32, 32) in [0, 1]: at most ``count`` to train on, and 500 others to test."""
    bunch = load_digits()
    images = nn.functional.interpolate(torch.tensor(bunch.images / 16, dtype=torch.float32)[:, None], size=32)
    labels = torch.tensor(bunch.target)
    return TensorDataset(images[500:][:count], labels[500:][:count]), TensorDataset(images[:500], labels[:500])


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of images whose largest logit is their label's."""
    return (logits.argmax(1) == labels).double().mean().item()


def main(out: str | Path = "digits.pt", epochs: int = 3, count: int | None = None) -> nn.Module:
    """Train, print the test accuracy of the target and of the ensemble, write the target's state dict to ``out``."""
    torch.manual_seed(0)
    train, test = digits(count)

    # The one line that makes an ensemble of a network. From here on `net` is trained, and `model` with it: it is
    # branch 0. The optimiser must be given net's parameters, since they include the other branches and the gate.
    model = timm.create_model("resnet10t", num_classes=10, in_chans=1, channels=(16, 32, 64, 128))
    net = coterie.branch(model, num_branches=3, example=train.tensors[0][:2])
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3)

    for epoch in range(epochs):
        net.train()
        # The ensemble teaches little at first; the paper's code lets its weight rise over 80 of 300 epochs.
        weight = coterie.functional.ramp_up(epoch / epochs, 80 / 300)
        for images, labels in DataLoader(train, batch_size=64, shuffle=True, drop_last=True):
            loss = coterie.losses.one(net(images), labels, temperature=3.0, weight=weight).total
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

        net.eval()
        images, labels = test.tensors
        with torch.inference_mode():
            output = net(images)
        target, ensemble = accuracy(output.logits[:, 0], labels), accuracy(output.ensemble, labels)
        print(f"epoch {epoch + 1}: test accuracy of the target {target:.3f}, of the ensemble {ensemble:.3f}")

    # A plain timm network: whoever serves it needs no coterie.
    torch.save(model.state_dict(), out)
    return model


if __name__ == "__main__":
    main()
