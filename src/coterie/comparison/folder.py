"""A comparison's folder: its state, its study, its results, its page, and the network that it chose."""

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from coterie.bounds import Bounds, NonNegative
from coterie.checking import make_checked
from coterie.comparison.budget import Cost
from coterie.comparison.question import Limits, Question
from coterie.errors import UserError
from coterie.files import read_json, write_text

_MEND = "name another ⟨out⟩, or remove it"


@dataclass
class State:
    """``comparison.json``.

    Attributes:
        question: What is compared.
        limits: How far it goes.
        workers: Trainings side by side.
        costs: By arm, as measured before anything was trained.
        batch_size: Images in a step of every training; None for the default, which older comparisons had.
        used: Seconds that were spent so far.
        dropped: By arm, the rung after which it was dropped.
        verdict: What was found so far; empty before.
    """

    question: Question
    limits: Limits
    workers: int
    costs: dict[str, Cost]
    batch_size: Annotated[int, Bounds(least=2)] | None = None
    used: NonNegative = 0.0
    dropped: dict[str, int] = field(default_factory=dict)
    verdict: dict[str, Any] = field(default_factory=dict)

    def is_asked(self, question: Question, limits: Limits) -> bool:
        """Whether it is this comparison; files hold lists for tuples."""
        return self.limits == limits and json.dumps(asdict(self.question)) == json.dumps(asdict(question))


class Folder:
    """Where a comparison's files are.

    Args:
        path: Made when something is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = path / "comparison.json"
        self.study = path / "study.yaml"
        self.results = path / "results.json"
        self.page = path / "page.html"
        self.runs = path / "runs"
        self.network = path / "network"

    def read_state(self) -> State | None:
        """The state; None where there is none.

        Raises:
            UserError: It is damaged, or the folder holds something else.
        """
        if not self.state.is_file():
            if self.path.exists() and any(self.path.iterdir()):
                raise UserError(f"{self.path}: is there and holds no comparison; {_MEND}")
            return None
        return make_checked(State, str(self.state), read_json(self.state, _MEND))

    def write_state(self, state: State) -> None:
        """Whole or not at all."""
        write_text(self.state, json.dumps(asdict(state), indent=1, ensure_ascii=False) + "\n")

    def deliver(self, run: Path) -> None:
        """Put a finished Run in the place of the chosen network, without its checkpoints."""
        fresh = self.path / ".network"
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(run, fresh, ignore=shutil.ignore_patterns("checkpoints", "tensorboard", ".*"))
        shutil.rmtree(self.network, ignore_errors=True)
        fresh.rename(self.network)
