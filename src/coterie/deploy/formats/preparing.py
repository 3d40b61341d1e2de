"""How an image becomes what a network takes: as a card's lines, and as a module that a graph can hold."""

from typing import Any

import torch
from torch import Tensor, nn

from coterie.data.pixels import before_crop
from coterie.records import Card

_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}  # how far Pillow's filters reach, in pixels of the smaller image


def preprocessing(card: Card, inside: bool) -> dict[str, Any]:
    """The whole procedure, in its order.

    Args:
        card: Of the network.
        inside: Whether the file itself does what can be done to pixels: all from ``cover`` on.
    """
    ratio = card.get("crop_ratio", 1.0)
    height, width = card["image_size"]
    return {
        "turn": "EXIF orientation",
        "transparency": "white",
        "colours": "L" if card["channels"] == 1 else "RGB",
        "pixel_range": card.get("pixel_range"),
        # The image is resized so that it just covers this (height, width), and the middle of the size of `crop` is
        # taken: at a crop ratio of 1 without rounding to whole pixels.
        "cover": list(before_crop((height, width), ratio)),
        "crop_ratio": ratio,
        "filter": card.get("interpolation", "bicubic"),
        "crop": [height, width],
        "scale": "1/255",
        "mean": list(card["mean"]),
        "std": list(card["std"]),
        "in_graph": ["cover", "filter", "crop", "scale", "mean", "std"] if inside else [],
    }


class Prepared(nn.Module):
    """A network for whole images: uint8 (H, W, channels) of any size to logits (1, C).

    Resizing is Pillow's: the weights of each side are a matrix, since no runtime's own resizing takes a part that does
    not begin at a whole pixel. Pillow 13 goes down before it goes across in some images, which rounds a few pixels
    otherwise.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, card: Card) -> None:
        super().__init__()
        self.network = network
        self.size = tuple(card["image_size"])
        self.ratio = card.get("crop_ratio", 1.0)
        self.filter = card.get("interpolation", "bicubic")
        self.register_buffer("mean", torch.tensor(card["mean"])[:, None, None])
        self.register_buffer("std", torch.tensor(card["std"])[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """One image (H, W, channels), upright and without transparency."""
        rows = torch.arange(images.shape[0], dtype=torch.float64)
        columns = torch.arange(images.shape[1], dtype=torch.float64)
        vertical, horizontal = self._places(rows[-1] + 1, columns[-1] + 1)
        pixels = images.permute(2, 0, 1).float()
        # Across first and then down, with whole numbers in between, as Pillow does it.
        pixels = _rounded(pixels @ self._weights(columns, *horizontal).T)
        pixels = _rounded(self._weights(rows, *vertical) @ pixels)
        return self.network(((pixels / 255 - self.mean) / self.std)[None])

    def _places(self, height: Tensor, width: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """For each side: where the middles (n,) of the n pixels of the result lie, and how far they are apart."""
        tall, wide = self.size
        down, across = torch.arange(tall, dtype=torch.float64), torch.arange(wide, dtype=torch.float64)
        if self.ratio == 1:
            taken_wide = torch.minimum(width, height * (wide / tall))
            taken_tall = torch.minimum(height, width / (wide / tall))
            steps = taken_tall / tall, taken_wide / wide
            first = (height - taken_tall) / 2, (width - taken_wide) / 2
        else:
            cover_tall, cover_wide = before_crop((tall, wide), self.ratio)
            upright = width * cover_tall <= height * cover_wide
            whole_tall = torch.where(upright, (cover_wide * height / width).floor(), cover_tall)
            whole_wide = torch.where(upright, cover_wide, (cover_tall * width / height).floor())
            steps = height / whole_tall, width / whole_wide
            top, left = ((whole_tall - tall) / 2).round(), ((whole_wide - wide) / 2).round()
            first = top * steps[0], left * steps[1]
        return (first[0] + (down + 0.5) * steps[0], steps[0]), (first[1] + (across + 0.5) * steps[1], steps[1])

    def _weights(self, places: Tensor, middles: Tensor, step: Tensor) -> Tensor:
        """How much each of N pixels counts for each of n: float32 (n, N)."""
        widened = step.clamp(min=1.0)
        reach = _SUPPORT[self.filter] * widened
        low, high = (middles - reach + 0.5).floor(), (middles + reach + 0.5).floor()
        away = ((places + 0.5 - middles[:, None]) / widened).abs()
        if self.filter == "bilinear":
            weights = 1 - away
        else:
            near, far = (1.5 * away - 2.5) * away * away + 1, ((2.5 - 0.5 * away) * away - 4) * away + 2
            weights = torch.where(away < 1, near, far)
        inside = (away < _SUPPORT[self.filter]) & (places >= low[:, None]) & (places < high[:, None])
        weights = torch.where(inside, weights, 0.0)
        return (weights / weights.sum(1, keepdim=True)).float()


def _rounded(pixels: Tensor) -> Tensor:
    return (pixels + 0.5).floor().clamp(0, 255)
