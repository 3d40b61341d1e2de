"""One stage of a method in training: its loop, its averaged weights, and what it is told of the run."""

from coterie.training.stages.running import StageRun
from coterie.training.stages.setting import Setting

__all__ = ["Setting", "StageRun"]
