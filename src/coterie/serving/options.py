"""What a server takes, for how long, and how much of it at once."""

from dataclasses import dataclass

from coterie.bounds import NonNegative, Positive, PositiveInt
from coterie.checking import check_fields


@dataclass(frozen=True, kw_only=True)
class ServingOptions:
    """The limits of a server.

    Attributes:
        max_batch: The most images that the network is given at once.
        batch_wait_ms: How long the first image of a batch waits, at most, for others that are accepted already, in
            milliseconds. Nothing waits while no other request is there.
        queue: How many images are accepted and not yet answered; beyond it requests are refused with 429.
        deadline_ms: How long a request may take from its last byte to its answer, in milliseconds; beyond it 503 where
            an image was still waiting, 504 where it was being decoded or classified.
        max_bytes: The largest size of an image's file, in bytes; 413 beyond it.
        max_pixels: The most pixels of an image, width times height as its head says; 413 beyond it, before anything is
            decoded.
        max_images: The most images of a request; 413 beyond it.

    Raises:
        UserError: A value is out of its range.
    """

    max_batch: PositiveInt = 32
    batch_wait_ms: NonNegative = 5.0
    queue: PositiveInt = 64
    deadline_ms: Positive = 2000.0
    max_bytes: PositiveInt = 10_000_000
    max_pixels: PositiveInt = 25_000_000
    max_images: PositiveInt = 16

    def __post_init__(self) -> None:
        check_fields(self, "")

    @property
    def images_at_once(self) -> int:
        """The most images of a request: all of them must have a place in the queue."""
        return min(self.max_images, self.queue)
