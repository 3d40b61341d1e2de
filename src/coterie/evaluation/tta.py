"""Test-time augmentation: a network is asked about several copies of an image, and its probabilities are averaged."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from coterie.bounds import Bounds
from coterie.checking import check_value
from coterie.data import ImageData
from coterie.data.say import say_once
from coterie.data.transforms import augment
from coterie.errors import UserError
from coterie.outputs import PeerOutput
from coterie.seeds import mix

# ``flip``: an image and its mirror image; a number: so many views, which are moved crops.
TestTime = Literal["flip"] | Annotated[int, Bounds(least=2, most=1000)]


@dataclass(frozen=True)
class Copies:
    """The copies of an image that a network is asked about, the image itself being the first.

    Attributes:
        how: ``flip`` adds the mirror image. A number is so many views: the others are moved by up to an eighth of the
            side, on black and not mirrored, as ``--data.augment crop`` moves training images.
        mean: Per channel, by which the images were normalised.
        std: Per channel.
        seed: Of the moves, which are a function of it and the image's index.
    """

    how: TestTime
    mean: Sequence[float]
    std: Sequence[float]
    seed: int = 0

    def of(self, images: Tensor, indices: Tensor) -> list[Tensor]:
        """The copies (B, channels, H, W) of normalised images, each list's entry one copy of all.

        Args:
            images: (B, channels, H, W).
            indices: Which images these are (B,).
        """
        if self.how == "flip":
            return [images, images.flip(3)]
        black = -torch.tensor(self.mean, device=images.device) / torch.tensor(self.std, device=images.device)
        # What is put around an image that moves is 0, which must stand for black.
        above = images.permute(0, 2, 3, 1) - black
        moved = (
            augment(above, indices.cpu().numpy(), mix(self.seed, "tta", view), "crop") + black
            for view in range(1, passes(self.how))
        )
        return [images, *(view.permute(0, 3, 1, 2).contiguous() for view in moved)]

    def ask(self, network: Callable[[Tensor], PeerOutput], images: Tensor, indices: Tensor) -> PeerOutput:
        """What a group of peers says of the copies: each peer's mean probabilities, and the ensemble's, as logits."""
        outputs = [network(copy) for copy in self.of(images, indices)]
        ensembles = [output.ensemble for output in outputs if output.ensemble is not None]
        weights = [output.weights for output in outputs if output.weights is not None]
        return PeerOutput(
            mean_probabilities([output.logits for output in outputs]),
            ensemble=mean_probabilities(ensembles) if ensembles else None,
            weights=torch.stack(weights).mean(0) if weights else None,
        )


def mean_probabilities(logits: Sequence[Tensor]) -> Tensor:
    """Logits (…, C) whose softmax is the mean of the softmax of those given, each (…, C)."""
    return torch.stack([each.log_softmax(-1) for each in logits]).logsumexp(0) - math.log(len(logits))


def check_test_time(how: Any) -> TestTime | None:
    """The value of the option ``tta``, if it is one.

    Raises:
        UserError: It is neither ``flip`` nor a number of views.
    """
    if isinstance(how, str) and how != "flip":
        raise UserError(f"⟨tta⟩ is '{how}'; write flip, or a number of views from 2 on")
    checked: TestTime | None = check_value("⟨tta⟩", how, TestTime | None)
    return checked


def warn_of_mirrors(how: TestTime | None, data: ImageData) -> None:
    """Say where images are mirrored that were not in the training, such as letters."""
    mirrored = data.augment in ("crop-flip", "random-resized-crop") if data.flip is None else data.flip
    if how == "flip" and not mirrored:
        say_once("⟨tta flip⟩ mirrors images, and training did not: mirrored letters or digits are others; compare")


def passes(how: TestTime | None) -> int:
    """How often the network is asked about each image."""
    return 1 if how is None else 2 if how == "flip" else how


def passes_line(how: TestTime) -> str:
    """What it is and what it costs."""
    named = "flip" if how == "flip" else f"{how} views"
    return f"tta: {named}, {passes(how)} forward passes for each image"


def flipped(images: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
    """Mirror images of whole images (H, W, channels)."""
    return [np.ascontiguousarray(image[:, ::-1]) for image in images]
