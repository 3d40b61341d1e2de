"""ONE in PyTorch Lightning: the branched network and its loss in a LightningModule of thirty lines.

    pip install pytorch-lightning && python examples/lightning_module.py

Digits of 8x8 pixels keep it to seconds; nothing is downloaded. Three epochs show how it works, not what it gains.
"""

from typing import Any

import pytorch_lightning as pl
import timm
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import coterie


class One(pl.LightningModule):
    """Trains ``model`` in place. Every part that learns is a submodule, so Lightning finds, moves and saves it."""

    def __init__(self, model: nn.Module, example: Tensor, num_branches: int = 3, rampup: float = 80 / 300) -> None:
        super().__init__()
        self.net = coterie.branch(model, num_branches, example=example)
        self.rampup = rampup

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        """The loss of a batch of images and labels."""
        images, labels = batch
        progress = self.current_epoch / (self.trainer.max_epochs or 1)
        weight = coterie.functional.ramp_up(progress, self.rampup)
        loss = coterie.losses.one(self.net(images), labels, weight=weight)
        self.log_dict({name: term.detach() for name, term in loss.terms.items()}, on_step=False, on_epoch=True)
        return loss.total

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        """Logs the accuracy of the target, which is what you keep, and of the ensemble."""
        images, labels = batch
        output = self.net(images)
        for name, logits in {"target": output.logits[:, 0], "ensemble": output.ensemble}.items():
            self.log(f"accuracy_{name}", (logits.argmax(1) == labels).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> Any:
        """One optimiser for all branches and the gate."""
        return torch.optim.AdamW(self.net.parameters(), lr=2e-3)


def main(epochs: int = 3, count: int | None = None, **trainer: Any) -> nn.Module:
    """Train and return the target: a plain timm network with nothing of coterie or Lightning in it."""
    pl.seed_everything(0)
    bunch = load_digits()
    images = nn.functional.interpolate(torch.tensor(bunch.images / 16, dtype=torch.float32)[:, None], size=32)
    labels = torch.tensor(bunch.target)
    train, test = TensorDataset(images[500:][:count], labels[500:][:count]), TensorDataset(images[:500], labels[:500])

    model = timm.create_model("resnet10t", num_classes=10, in_chans=1, channels=(16, 32, 64, 128))
    module = One(model, example=images[:2])
    pl.Trainer(max_epochs=epochs, logger=False, enable_checkpointing=False, **trainer).fit(
        module, DataLoader(train, batch_size=64, shuffle=True, drop_last=True), DataLoader(test, batch_size=500)
    )
    return model


if __name__ == "__main__":
    torch.save(main().state_dict(), "digits.pt")
