"""ONE in the Hugging Face Trainer: a Hugging Face image classifier trained as its own ensemble, saved as usual.

    pip install transformers && python examples/hf_trainer.py

Digits of 8x8 pixels and a network built from a configuration keep it to seconds; nothing is downloaded. Three epochs
show how it works, not what it gains.
"""

from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments

import coterie


class One(nn.Module):
    """What the Trainer trains: a batch, by its parts' names, to the loss and the logits that it evaluates."""

    def __init__(self, net: coterie.NativeEnsemble) -> None:
        super().__init__()
        self.net = net

    def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Images (B, channels, H, W) and labels (B,) to ``loss`` and the target's ``logits`` (B, C)."""
        output = self.net(pixel_values)
        # The paper's equation as printed: the distillation has its whole weight from the first step.
        loss = coterie.losses.one(output, labels, temperature=3.0, weight=1.0).total
        return {"loss": loss, "logits": output.logits[:, 0]}


def main(out: str | Path = "digits-resnet", epochs: int = 3, count: int | None = None) -> nn.Module:
    """Train, print the test accuracy of the target, and save it with ``save_pretrained`` in the folder ``out``."""
    bunch = load_digits()
    images = nn.functional.interpolate(torch.tensor(bunch.images / 16, dtype=torch.float32)[:, None], size=32)
    samples = [{"pixel_values": image, "labels": int(label)} for image, label in zip(images, bunch.target, strict=True)]

    torch.manual_seed(0)
    shape = {"embedding_size": 16, "hidden_sizes": [16, 32, 64], "depths": [1, 1, 1], "layer_type": "basic"}
    config = ResNetConfig(num_channels=1, num_labels=10, **shape)
    model = ResNetForImageClassification(config)
    # The model goes on returning what it returns: net(images) holds the logits that are found in it. The new branches
    # start as Hugging Face initialises them.
    net = coterie.branch(model, 3, example=images[:2])
    arguments = TrainingArguments(
        output_dir=str(out),
        num_train_epochs=epochs,
        per_device_train_batch_size=64,
        per_device_eval_batch_size=500,  # a divisor: the Trainer drops the last batch of the evaluation too
        learning_rate=5e-3,
        dataloader_drop_last=True,
        eval_strategy="epoch",
        save_strategy="no",
        report_to="none",
    )
    trainer = Trainer(
        One(net),
        arguments,
        train_dataset=samples[500:][:count],
        eval_dataset=samples[:500],
        compute_metrics=lambda result: {"accuracy": float((result.predictions.argmax(1) == result.label_ids).mean())},
    )
    trainer.train()
    # The model is the very object built above, trained: from_pretrained(out) reads it without coterie.
    model.save_pretrained(out)
    return model


if __name__ == "__main__":
    main()
