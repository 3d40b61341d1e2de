"""Trained networks as a module that no training changes: :class:`Teacher`, and images as its networks want them.

Where teachers come from is the matter of :mod:`coterie.methods.offline`. Shapes: B images, t teachers, C classes.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from coterie.errors import UserError
from coterie.outputs import Batch, answer
from coterie.processor import laid_out

# ITU-R 601, as Pillow makes grey of colour.
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Input:
    """How a network wants its images.

    Attributes:
        channels: 1 or 3.
        image_size: (height, width) in pixels.
        mean: Per channel, of pixels scaled to [0, 1].
        std: Per channel.
    """

    channels: int
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Adapted(nn.Module):
    """A network that takes images as others have them: resized, recoloured and normalised anew where these differ.

    Args:
        network: Maps images as it wants them to logits (B, C) or to a :class:`~coterie.outputs.PeerOutput`.
        given: How the images come; None where they come as they are wanted.
        wanted: How the network wants them.
        fresh: The paths of the layers of its classifier, where that is not trained yet: a linear probe comes first.
    """

    def __init__(
        self,
        network: nn.Module,
        given: Input | None = None,
        wanted: Input | None = None,
        fresh: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.network = network
        self.fresh = tuple(f"network.{path}" for path in fresh)
        self.conversion = (given, wanted) if given is not None and wanted is not None and given != wanted else None

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, channels, H, W) as given to logits (B, C): the ensemble's, where the network is a group."""
        return answer(self.network(self.convert(images)))

    def convert(self, images: Tensor) -> Tensor:
        """The images as the network wants them; sizes change by antialiased bicubic interpolation."""
        if self.conversion is None:
            return images
        given, wanted = self.conversion
        with torch.autocast(images.device.type, enabled=False):
            pixels = images * _column(given.std, images) + _column(given.mean, images)
            if given.image_size != wanted.image_size:
                # Bicubic overshoots at edges: pixels have their range.
                pixels = functional.interpolate(pixels, wanted.image_size, mode="bicubic", antialias=True).clamp(0, 1)
            if given.channels == 3 and wanted.channels == 1:
                pixels = (pixels * _column(_LUMA, images)).sum(1, keepdim=True)
            elif given.channels == 1 and wanted.channels == 3:
                pixels = pixels.expand(-1, 3, -1, -1)
            converted = (pixels - _column(wanted.mean, images)) / _column(wanted.std, images)
        return laid_out(converted)


class Teacher(nn.Module):
    """One or several trained networks, frozen: images (B, channels, H, W) to logits (B, t, C), without a gradient.

    The networks are not among the module's children, so that nothing a training does to it reaches them: they stay in
    evaluation mode (a module that holds the teacher may be put to ``train()``), no optimiser and no gradient finds
    their parameters, and neither checkpoints nor delivered files hold their weights. They follow it to a device.
    A checkpoint holds their fingerprint alone, and is refused with teachers of other weights.

    Args:
        networks: Each maps images to logits (B, C) or to a group's answer; taken over, frozen in place.
        remembers: Whether whoever trains may have the answers computed once for all (:meth:`remember`).

    Attributes:
        members: The networks, each adapted to the images of this task; ``members[i].network`` is the network itself,
            for whoever reads its features. ``members[i](images)`` asks one alone, (B, C): do so under ``no_grad``.
        fingerprint: A checksum of weights and conversions, int64 (t,).
    """

    fingerprint: Tensor

    def __init__(self, networks: Sequence[nn.Module], remembers: bool = False) -> None:
        super().__init__()
        self.remembers = remembers
        members = [network if isinstance(network, Adapted) else Adapted(network) for network in networks]
        # A tuple, not a ModuleList: see above.
        self.members: tuple[Adapted, ...] = tuple(member.eval().requires_grad_(False) for member in members)
        self.register_buffer("fingerprint", torch.tensor([_fingerprint(member) for member in self.members]))
        self._remembered: Tensor | None = None
        self.eval()

    def train(self, mode: bool = True) -> "Teacher":
        """A teacher stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Images (B, channels, H, W), normalised as the data are, to every teacher's logits (B, t, C)."""
        return torch.stack([member(images) for member in self.members], 1)

    def answers(self, batch: Batch, member: int | None = None) -> Tensor:
        """The teachers' logits (B, t, C) for a batch's first view: remembered ones where they were computed before.

        Args:
            batch: The batch.
            member: The one teacher to ask, (B, 1, C); None for all.
        """
        chosen = slice(None) if member is None else slice(member, member + 1)
        if self._remembered is not None:
            return self._remembered[batch.indices, chosen]
        with torch.no_grad():
            return torch.stack([network(batch.images) for network in self.members[chosen]], 1)

    def remember(self, logits: Tensor | None) -> None:
        """Let :meth:`answers` look up instead of asking; right where the images of an index never change.

        Args:
            logits: Of every training image by index, (N, t, C), on the device of the batches; None to ask again.
        """
        self._remembered = logits

    def _apply(self, fn: Any, recurse: bool = True) -> "Teacher":
        for member in self.members:
            member._apply(fn)  # type: ignore[no-untyped-call]
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        saved = state_dict.get(f"{prefix}fingerprint")
        if saved is not None and not torch.equal(saved.cpu(), self.fingerprint.cpu()):
            raise UserError(
                "the teacher has other weights than when this run began; restore it (see ⟨method.teacher⟩), or choose "
                "another ⟨out⟩"
            )
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _fingerprint(member: Adapted) -> int:
    digest = hashlib.blake2b(repr(member.conversion).encode(), digest_size=8)
    for name, tensor in member.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return int.from_bytes(digest.digest()) >> 1


def _column(values: tuple[float, ...], like: Tensor) -> Tensor:
    """Per-channel values as (channels, 1, 1), made on the device: nothing is copied to it in a step."""
    return torch.stack([like.new_full((), value) for value in values]).view(-1, 1, 1)
