"""A study's page, made from its results file and its study file alone."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import jinja2

from coterie.errors import UserError
from coterie.files import user_path, write_text
from coterie.reports import numbers
from coterie.reports.studies.forest import Whisker, whiskers
from coterie.reports.studies.plots import Point, Prediction, costs, curves, flatness, predictions
from coterie.reports.studies.tables import Entry, Filled, analyses, deployed, every_measure, filled
from coterie.studies.reading import load_study
from coterie.studies.results import Result, Results, load_results, unit
from coterie.studies.statistics import power
from coterie.studies.study import Side, Study, Table
from coterie.studies.verdicts import WORDS, Verdict, Word, counted, verdicts
from coterie.version import __version__

_MARKS = dict(zip(WORDS, (("✓", "good"), ("✕", "bad"), ("?", "open"), ("–", "none")), strict=True))


def _noise(entries: Sequence[Entry]) -> list[str]:
    """How far seeds alone move errors, by data set, and what three of them could show."""
    spreads, powers = dict[str, float](), dict[str, float]()
    for data in dict.fromkeys(entry.data for entry in entries):
        own = [each for each in entries if each.data == data]
        sds = [stdev(each.values.values()) for each in own if len(each.values) > 1]
        paired = [each.comparison.sd for each in own if each.comparison is not None]
        spreads |= {data: median(sds)} if sds else {}
        powers |= {data: power(0.5, median(paired), 3)} if paired else {}
    said = []
    if spreads:
        each = ", ".join(f"{spread:.2f} points on {data}" for data, spread in spreads.items())
        said.append(
            "The same network trained again from another seed errs differently, by a standard deviation of "
            f"{each} (medians of the figures in the tables)."
        )
    if powers:
        each = ", ".join(f"{100 * share:.0f} times in 100 on {data}" for data, share in powers.items())
        noise = [data for data, share in powers.items() if share < 0.5]
        where = "" if len(noise) == len(powers) else f" on {', '.join(noise)}"
        said.append(
            f"Three seeds would tell a true gain of half a point from chance {each}"
            + (f": a difference under half a point on three seeds is noise{where}." if noise else ".")
        )
    return said


@dataclass(frozen=True)
class Measured:
    """A study with its results, and everything that its page says of them.

    Attributes:
        study: As its file has it.
        results: Of one scale.
    """

    study: Study
    results: Results

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """On every claim."""
        return verdicts(self.study, self.results)

    @cached_property
    def claims(self) -> list[tuple[str, list[tuple[Verdict, Whisker | None]]]]:
        """Data set to its verdicts, with the picture of each; what no table has comes last, under no name."""
        drawn = whiskers(self.verdicts)
        names = [*self.study.scale(self.results.scale).data, ""]
        groups = [
            (name, [(each, picture) for each, picture in zip(self.verdicts, drawn, strict=True) if each.data == name])
            for name in names
        ]
        return [(name, group) for name, group in groups if group]

    @property
    def whose(self) -> str:
        """Whose claims these are: a study that names no source makes its own."""
        return "the paper" if self.study.source else "this study"

    @property
    def counts(self) -> dict[str, list[tuple[Word, int]]]:
        """How many claims have each verdict, and how many controls of the study, where there are any."""
        found = {
            f"Claims of {self.whose}": counted(self.verdicts),
            "Controls of this study": counted(self.verdicts, control=True),
        }
        return {name: each for name, each in found.items() if each}

    @property
    def failed(self) -> list[Result]:
        """Trials that did not end."""
        return [trial for trial in self.results.trials if trial.failed is not None]

    @property
    def minutes(self) -> float:
        """Core-minutes that all trials took, one core each where their configuration names no more."""
        return sum(trial.seconds * (trial.configuration.get("threads") or 1) for trial in self.results.trials) / 60

    @cached_property
    def tables(self) -> list[Filled]:
        """Of this scale."""
        every = [each for scale in self.study.scales.values() for table in scale.tables for each in table.published]
        scale = self.study.scale(self.results.scale)
        return [filled(table, scale, self.results, every) for table in scale.tables]

    @property
    def elsewhere(self) -> list[Table]:
        """The published protocol's tables, where these results are of another scale."""
        scales = self.study.scales
        return list(scales["paper"].tables) if self.results.scale != "paper" and "paper" in scales else []

    @property
    def sight(self) -> list[str]:
        """What such a study can see and what it cannot, in sentences."""
        entries = [entry for table in self.tables for _, row, _ in table.lines for entry in row]
        said = _noise([each for each in entries if each.line.metric == "error"])
        seen = [each.seen for each in self.verdicts if each.seen is not None and each.claim.metric.endswith("error")]
        if seen:
            said.append(
                "The smallest true difference that this study sees in four of five repetitions, corrected for all "
                f"of its tests, is {min(seen):.2f} to {max(seen):.2f} points, depending on the claim (median "
                f"{median(seen):.2f}); what is smaller cannot be told here."
            )
        return said

    @cached_property
    def figures(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """(heading, (caption, SVG) of each picture)."""
        name, found = f"{self.study.name} {self.results.scale}", list[tuple[str, list[tuple[str, str]]]]()
        arms = list(dict.fromkeys(trial.arm for trial in self.results.trials))  # each has one colour on the whole page
        for data in dict.fromkeys(trial.data for trial in self.results.trials):
            trials = [trial for trial in self.results.trials if trial.data == data]
            usual, pictures = _usual(trials), []
            for caption, label, training in (
                ("Error against all training, teachers included", "FLOPs of all training", True),
                ("Error against the deployed network", "FLOPs of one image, as deployed", False),
            ):
                points = _points(trials, training, arms)
                if points:
                    pictures.append((caption, costs(points, f"{name}, {data}: {caption}", label)))
            learned = _curves(trials)
            if learned:
                caption = "Errors in the course of training: test images solid, training images dashed"
                pictures.append((caption, curves(learned, _colours(trials, arms), f"{name}, {data}: {caption}")))
            moved = _flatness(trials)
            if moved:
                caption = "Flatness: what moving the parameters costs"
                pictures.append((caption, flatness(moved, _colours(trials, arms), f"{name}, {data}: flatness")))
            if pictures:
                several = usual is not None and any(trial.network != usual for trial in trials)
                found.append((f"{data}; {usual} where no other is named" if several else data, pictures))
        numbered = _numbered(self)
        if numbered:
            pictures = [
                (metric.replace("_", " "), predictions(rows, f"{name}: {metric} against the claims' numbers", metric))
                for metric, rows in numbered.items()
            ]
            found.append(("Measured against the numbers that claims name", pictures))
        return found

    @property
    def analyses(self) -> tuple[list[str], list[tuple[str, ...]]]:
        """See :func:`coterie.reports.studies.tables.analyses`."""
        return analyses(self.results)

    @property
    def measures(self) -> list[tuple[str, ...]]:
        """Everything that was measured, over seeds."""
        return every_measure(self.results)


def read(path: str | Path) -> Measured:
    """A results file with its study.

    Raises:
        UserError: The file is none, or its study is not found or lacks the scale.
    """
    results = load_results(path)
    try:
        study = load_study(results.study)
        study.scale(results.scale)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return Measured(study, results)


def report_studies(measured: Sequence[Measured], out: str | Path) -> Path:
    """Write one self-contained page with a section for each study.

    Args:
        measured: One or more, see :func:`read`.
        out: The HTML file, replaced where it exists.

    Raises:
        UserError: There are none, or it cannot be written.
    """
    if not measured:
        raise UserError("nothing to report; name one or more results files")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "number": numbers.number,
        "signed": numbers.signed,
        "p_value": numbers.p_value,
        "effect": numbers.effect_size,
        "unit": unit,
        "mark": lambda word: _MARKS[word],
        "evidence": _evidence,
        "side": _side,
        "errors": _errors,
    }
    template = environment.from_string(
        files("coterie.reports.studies").joinpath("page.html").read_text(encoding="utf-8")
    )
    title = measured[0].study.title if len(measured) == 1 else "Studies"
    path = user_path(out)
    write_text(path, template.render(title=title, studies=measured, version=__version__))
    return path


def _evidence(said: str) -> tuple[str, str]:
    """How sure a figure is, and its style: what no source confirms is never shown as published."""
    if said.startswith("unverified") or not said:
        return said or "source not named", "unsure"
    return said, "sure"


def _side(side: Any) -> str:
    return f"{side.part} of {side.arm}" if isinstance(side, Side) else f"{side:g}"


def _errors(trial: Result) -> str:
    return ", ".join(
        f"{part} {numbers.number(error)}"
        for part in deployed(trial)
        if (error := trial.figure(part, "error")) is not None
    )


def _colours(trials: Sequence[Result], arms: Sequence[str]) -> dict[str, int]:
    """Label to its arm's colour."""
    return {
        _label(trial.arm, trial.network, part, trials): arms.index(trial.arm)
        for trial in trials
        for part in trial.measured
    }


def _points(trials: Sequence[Result], training: bool, arms: Sequence[str]) -> list[Point]:
    """A point for each network that can be deployed, where its cost is known, in the colour of its arm's place."""
    found = dict[tuple[str, str, str], list[tuple[float, float]]]()
    for trial in trials:
        # One of several that are alike says no more than the network alone.
        for part in (each for each in deployed(trial) if not re.fullmatch(r"(member|peer|snapshot)\d+", each)):
            cost = trial.training_flops if training else trial.cost.get(part, {}).get("flops")
            error = trial.figure(part, "error")
            if cost and error is not None:
                found.setdefault((trial.arm, trial.network, part), []).append((cost, error))
    return [
        Point(
            label=_label(arm, network, part, trials),
            part=part,
            colour=arms.index(arm),
            x=mean(cost for cost, _ in pairs),
            errors=[error for _, error in pairs],
        )
        for (arm, network, part), pairs in found.items()
    ]


def _label(arm: str, network: str, part: str, trials: Sequence[Result]) -> str:
    """What is said of a network beside those of other trials: no more than tells it from them."""
    named = [network] if network != _usual(trials) else []
    return ", ".join([arm, *named, *([part] if part != "target" else [])])


def _usual(trials: Sequence[Result]) -> str | None:
    """The network of four of five trials, if there is one: it need not be named."""
    network, times = Counter(trial.network for trial in trials).most_common(1)[0]
    return network if times >= 0.8 * len(trials) else None


def _flatness(trials: Sequence[Result]) -> dict[str, dict[float, list[float]]]:
    """Arm and part to distance to the accuracy lost, a value for each seed."""
    found = dict[str, dict[float, list[float]]]()
    for trial in trials:
        for part, figures in trial.measured.items():
            for metric in figures:
                at, value = re.fullmatch(r"flatness_(\d+(?:\.\d+)?)", metric), trial.figure(part, metric)
                if at is not None and value is not None:
                    name = _label(trial.arm, trial.network, part, trials)
                    found.setdefault(name, {}).setdefault(float(at[1]), []).append(value)
    return found


def _curves(trials: Sequence[Result]) -> dict[str, dict[str, dict[float, list[float]]]]:
    """Arm to metric to epoch to a value for each seed, of the part that is deployed."""
    found = dict[str, dict[str, dict[float, list[float]]]]()
    for trial in trials:
        for part in [each for each in deployed(trial) if each in trial.curves][:1]:
            named = found.setdefault(_label(trial.arm, trial.network, part, trials), {})
            for metric, curve in trial.curves[part].items():
                for epoch, value in curve:
                    named.setdefault(metric, {}).setdefault(epoch, []).append(value)
    return found


def _numbered(measured: Measured) -> dict[str, list[Prediction]]:
    """By metric, what claims compare with a number."""
    rows = dict[str, list[Prediction]]()
    for each in measured.verdicts:
        claim, found = each.claim, each.comparison
        if found is not None and not isinstance(claim.than, Side):
            by = claim.by
            seeds = measured.results.values(each.data, each.network, by.arm, by.part, claim.metric)
            ends = claim.than + found.low, claim.than + found.high
            label = f"{by.arm}, {by.part} ({each.data})"
            rows.setdefault(claim.metric, []).append(Prediction(label, list(seeds.values()), claim.than, *ends))
    return rows
