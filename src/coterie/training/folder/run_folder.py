"""The files of a Run in training."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from coterie.data import ImageData, write_split
from coterie.errors import UserError
from coterie.files import write_text
from coterie.metrics import Row, write_metrics
from coterie.training.folder import checkpoint
from coterie.training.folder.checkpoint import SavedStage

# In the folder of a Run that is being trained; removed at the end.
LOCK = ".lock"


class RunFolder:
    """The folder of a Run in training: the first process writes into it, as long as it is there.

    Args:
        path: The folder.
        writes: Whether this process is the first.
        is_there: Tells whether the folder is still the one that training began in.
    """

    def __init__(self, path: Path, writes: bool, is_there: Callable[[], bool]) -> None:
        self.path, self.writes, self._is_there = path, writes, is_there
        self.checkpoints = path / "checkpoints"

    @property
    def is_finished(self) -> bool:
        """Whether the deliverables and their card are written: the card comes last."""
        return (self.path / "model.json").is_file()

    def begin(self, data: ImageData, config: Mapping[str, Any]) -> None:
        """Write down which images are trained on, and all that is needed to repeat the training."""
        if self.writes:
            write_split(self.path, data)
            write_text(self.path / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))

    def check(self) -> None:
        """Refuse to go on without the folder: a new one would lack what is needed to go on, or be another run's.

        Raises:
            UserError: It was removed.
        """
        if not self._is_there():
            raise UserError(f"{self.path}: was removed while it was trained into; train again")

    def save(self, name: str, state: Mapping[str, Any]) -> None:
        """Write a checkpoint: ``last``, ``best``, or that of a finished stage.

        Raises:
            UserError: The folder was removed, or the disk is full.
        """
        self.check()
        if self.writes:
            checkpoint.save(self._file(name), state)

    def load_states(self, name: str) -> dict[str, dict[str, Any]]:
        """The modules' states in the checkpoint ``best``, or in that of a finished stage.

        Raises:
            UserError: The file is missing or damaged.
        """
        return checkpoint.load_states(self._file(name))

    def load_last(self) -> SavedStage | None:
        """The last checkpoint of the stage in training; None where there is none.

        Raises:
            UserError: The file is damaged.
        """
        last = self._file("last")
        return checkpoint.load_stage(last) if last.is_file() else None

    def write_rows(self, rows: Sequence[Row]) -> None:
        """Write the epochs' rows."""
        if self.writes:
            write_metrics(self.path / "metrics.csv", rows)

    def _file(self, name: str) -> Path:
        return self.checkpoints / f"{name}.safetensors"
