"""Going on from a finished Run in another one: its networks, branches and all, with a new schedule."""

from pathlib import Path
from typing import Any

from coterie.data import ImageData
from coterie.errors import UserError, show_value
from coterie.files import user_path
from coterie.methods import Method, Stage
from coterie.networks.zoo import Backbone
from coterie.records import AVERAGE
from coterie.run import Run
from coterie.training.folder import checkpoint
from coterie.training.modules import load_modules, stage_modules

_AVERAGED = "averages.network"


class Start:
    """The Run that another goes on from: earlier stages are taken as they were, the last one is trained again.

    Args:
        path: Of the finished Run.
        method: What is trained now.
        data: What it is trained on.

    Raises:
        UserError: The Run is not finished, or of another method, network or classes.
    """

    def __init__(self, path: str | Path, method: Method, data: ImageData) -> None:
        self.path = user_path(path)
        if not (self.path / "model.json").is_file():
            raise UserError(f"⟨start_from {self.path}⟩: no finished Run is there; name the folder of one")
        run = Run(self.path)
        self.card = run.card
        network = Backbone.of(method.network).to_record()
        for what, theirs, ours in (
            ("method", self.card["method"], method.name),
            ("network", _name(run.config["network"]), _name(network)),
            ("classes", list(self.card["classes"]), list(data.classes)),
        ):
            if theirs != ours:
                raise UserError(
                    f"⟨start_from {self.path}⟩: its {what} is {show_value(theirs)}, and {show_value(ours)} is to be "
                    "trained; give the same"
                )
        files = sorted((self.path / "checkpoints").glob("stage*.safetensors"))
        if not files:
            raise UserError(f"⟨start_from {self.path}⟩: its folder checkpoints is gone, and with it the branches")
        self.last = len(files) - 1

    def states(self, index: int) -> dict[str, dict[str, Any]]:
        """The states of a stage's modules at its end."""
        return checkpoint.load_states(self.path / "checkpoints" / f"stage{index}.safetensors")

    def load_last(self, stage: Stage) -> None:
        """Load the last stage's networks: their average, where that is what the Run delivered."""
        states = self.states(self.last)
        load_modules(stage_modules(stage), states)
        averaged = self.card["deliverables"][0].endswith(AVERAGE) and _AVERAGED in states
        if averaged and stage.network is not None:
            load_modules({_AVERAGED: stage.network}, states)


def _name(record: Any) -> str | None:
    return None if record is None else record["name"]
