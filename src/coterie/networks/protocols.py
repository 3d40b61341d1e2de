"""What a network may say of itself. Nothing of it is required: what is not said is found by running the network."""

from fractions import Fraction
from typing import Protocol, runtime_checkable

from torch import nn


@runtime_checkable
class NamesLastStage(Protocol):
    """A network that names its last stage, where branches begin unless another module is named.

    Attributes:
        last_stage: The path of a module. Where other networks keep something else under this name it is not read.
    """

    last_stage: str


@runtime_checkable
class NamesStages(Protocol):
    """A network that names its stages: students of several widths begin at one of them (OEM).

    Attributes:
        stages: Paths of the modules with which the stages begin, in the order of the forward.
        stage_ends: For each of these the path of the module whose output ends the stage.
    """

    stages: tuple[str, ...]
    stage_ends: tuple[str, ...]


@runtime_checkable
class Slimmable(Protocol):
    """A network that defines itself how it is slimmed."""

    def slim(self, share: Fraction, at: str) -> nn.Module:
        """A newly initialised network with the same module paths, at a share of the channels from ``at`` on."""
