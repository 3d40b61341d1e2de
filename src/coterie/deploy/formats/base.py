"""What every format is made from, and what it must do."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from coterie.data import ImageData
from coterie.outputs import answer
from coterie.records import Card
from coterie.run import Run


class Logits(nn.Module):
    """A deliverable as images to logits (B, C): the ensemble's, where the network is a group of peers."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, channels, H, W) to logits (B, C)."""
        return answer(self.network(images))


@dataclass(frozen=True)
class Deliverable:
    """What is exported.

    Attributes:
        run: Where it was trained.
        student: Its name there.
        network: In evaluation mode.
        card: Of the file.
        data: Of the run.
        images: Test images (N, channels, H, W), normalised.
        labels: Theirs (N,).
        logits: What the network says of them (N, C).
        whole: The test images as they were before they were prepared, uint8 (H, W, channels) of any size, where the
            file is to prepare them; else None.
    """

    run: Run
    student: str
    network: nn.Module
    card: Card
    data: ImageData
    images: Tensor
    labels: Tensor
    logits: Tensor
    whole: list[Tensor] | None = None


@dataclass(frozen=True)
class Written:
    """A format.

    Attributes:
        ending: Of the file's name; empty where it is a folder.
        write: Makes the file, or fills the folder, which is there and empty.
        again: Opens it again, as its users will, and gives its logits (N, C) for the deliverable's images.
        tolerance: Largest difference of its float32 logits, as a share of their largest value.
        most_lost: By how many percent points its top-1 may fall at most; None where ``tolerance`` says enough.
        images: On how many test images it is compared, where so many fit in memory.
    """

    ending: str
    write: Callable[[Deliverable, Path], None]
    again: Callable[[Deliverable, Path], Tensor]
    tolerance: float = 1e-3
    most_lost: float | None = None
    images: int = 128


CARD = "coterie.json"  # in an exported folder


def card_path(path: Path, folder: bool = False) -> Path:
    """Where the card of an exported file stands: beside it, so that two formats of one name have a card each.

    An exported folder holds its card.
    """
    return path / CARD if folder else path.with_name(f"{path.name}.json")
