"""What a study measured, as a file: everything that its page is made from."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, fields
from math import isfinite
from pathlib import Path
from typing import Any

from coterie.checking import make_checked
from coterie.errors import UserError
from coterie.files import locked, read_json, user_path, write_text
from coterie.studies.study import Key

Figures = dict[str, dict[str, float | None]]  # by part, by metric
Curves = Mapping[str, Mapping[str, Sequence[Sequence[float]]]]  # by part, by metric: pairs of an epoch and a figure


@dataclass(frozen=True)
class Result:
    """One trial, measured or failed.

    Attributes:
        data: Its name in the study.
        network: Its name in the study.
        arm: Its name in the study.
        seed: Of everything.
        configuration: All that is needed to repeat it, as in a Run's ``config.yaml``.
        command: What repeats it.
        measured: By part, such as ``target`` and ``ensemble``, figures by metric, errors in percent; empty if failed.
        curves: By part, ``train_error`` and ``test_error`` in the course of training, where the study asks for them.
        cost: By part, ``parameters`` and ``flops`` of one image, as deployed.
        training_flops: Of all stages, and of all trials that it learned from, directly or through others, each once;
            None where one of them was not counted. What published weights took is not known, and not in it.
        seconds: That it took.
        failed: Why, in a line; None if it did not.
    """

    data: str
    network: str
    arm: str
    seed: int
    configuration: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    measured: Figures = field(default_factory=dict)
    curves: Curves = field(default_factory=dict)
    cost: Figures = field(default_factory=dict)
    training_flops: float | None = None
    seconds: float = 0.0
    failed: str | None = None

    @property
    def key(self) -> Key:
        """What tells it from the study's other trials."""
        return self.data, self.network, self.arm, self.seed

    def figure(self, part: str, metric: str) -> float | None:
        """A figure; None where it was not measured, or is no finite number."""
        value = self.measured.get(part, {}).get(metric)
        return value if value is not None and isfinite(value) else None


@dataclass
class Results:
    """All trials of one scale of a study.

    Attributes:
        study: Its name, or its file.
        scale: For example ``small``.
        command: What makes this file.
        version: Of coterie; this and the next two name several, joined by ``; ``, where trials were made by several.
        torch: Its version.
        machine: Processor, cores, GPUs.
        trials: In the order of the study.
    """

    study: str
    scale: str
    command: str = ""
    version: str = ""
    torch: str = ""
    machine: str = ""
    trials: list[Result] = field(default_factory=list)

    def seeds(self, data: str, network: str, arm: str) -> dict[int, Result]:
        """The trials of an arm, by seed."""
        return {trial.seed: trial for trial in self.trials if trial.key[:3] == (data, network, arm)}

    def values(self, data: str, network: str, arm: str, part: str, metric: str) -> dict[int, float]:
        """A figure of an arm by seed, where it was measured."""
        found = {seed: trial.figure(part, metric) for seed, trial in self.seeds(data, network, arm).items()}
        return {seed: value for seed, value in sorted(found.items()) if value is not None}


_PERCENT = r".*error|disagreement|generalisation_gap|(kept_)?gain|both|winner|flatness_\d+(\.\d+)?"


def unit_of(metric: str) -> str:
    """What differences of a metric are in: points where it is a percentage or a difference of two, else nothing."""
    return " points" if re.fullmatch(_PERCENT, metric) else ""


def load_results(path: str | Path) -> Results:
    """Read a results file.

    Raises:
        UserError: It cannot be read or is no such file; the line names it and what is wrong.
    """
    path = user_path(path)
    mend = "name a file that coterie study wrote"
    content = read_json(path, mend)
    if isinstance(content, dict) and "rows" in content and "trials" not in content:
        raise UserError(f"{path}: results of a benchmark, which have no page; {mend}")
    try:
        results = make_checked(Results, "results", content)
    except UserError as error:
        raise UserError(f"{path}: {error}; {mend}") from error
    key, times = Counter(trial.key for trial in results.trials).most_common(1)[0] if results.trials else ((), 1)
    if times > 1:
        raise UserError(f"{path}: the trial {'/'.join(map(str, key))} is there twice; {mend}")
    for trial in results.trials:
        for part, named in trial.curves.items():
            if any(len(pair) != 2 for curve in named.values() for pair in curve):
                where = f"{path}: trial {'/'.join(map(str, trial.key))}, curves, {part}"
                raise UserError(f"{where} has a point that is no pair of an epoch and a figure; {mend}")
    return results


def save_results(path: str | Path, results: Results) -> None:
    """Write a results file, whole or not at all; a trial on a line, so that what changed can be seen.

    Figures that are not finite are written as null, since JSON has none.
    """
    head = {each.name: getattr(results, each.name) for each in fields(Results) if each.name != "trials"}
    lines = [f"{json.dumps(key)}: {_json(value)}" for key, value in head.items()]
    trials = ",\n".join(_json(asdict(trial)) for trial in results.trials)
    write_text(user_path(path), "{" + ",\n".join([*lines, f'"trials": [\n{trials}\n]']) + "}\n")


def lock_results(path: Path) -> AbstractContextManager[object]:
    """Keep other commands from writing a results file, where the system has such locks.

    Raises:
        UserError: Another command is writing it, or its folder cannot be written.
    """
    refusal = f"⟨out {path}⟩: another coterie study is writing it; wait for it, or name another file"
    return locked(path.with_name(f".{path.name}.lock"), refusal)


def _json(value: Any) -> str:
    return json.dumps(_finite(value), allow_nan=False, ensure_ascii=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value
