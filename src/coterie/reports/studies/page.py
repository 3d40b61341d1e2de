"""A study's page, made from its results file and its study file alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from statistics import median, stdev
from typing import Any

from coterie.errors import UserError
from coterie.extras import need
from coterie.files import user_path, write_text
from coterie.reports import numbers
from coterie.reports.studies.forest import ForestLine, make_forest
from coterie.reports.studies.frontier import FrontierView
from coterie.reports.studies.pictures import draw_pictures
from coterie.reports.studies.tables import Figure, FilledTable, deployed_parts, fill_table, list_analyses, list_measures
from coterie.studies.claims import Side
from coterie.studies.frontiers import Judged, judge_frontiers
from coterie.studies.reading import load_study
from coterie.studies.results import Result, Results, load_results, unit_of
from coterie.studies.rungs import beside_rungs
from coterie.studies.statistics import power
from coterie.studies.study import Study, Table
from coterie.studies.verdicts import WORDS, Verdict, Word, count_verdicts, judge_claims
from coterie.version import __version__

_MARKS = dict(zip(WORDS, (("✓", "good"), ("✕", "bad"), ("?", "open"), ("–", "none")), strict=True))


def _noise(entries: Sequence[Figure]) -> list[str]:
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
            "The test error of a network trained again from another seed differs by a standard deviation of "
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
        return judge_claims(self.study, self.results)

    @cached_property
    def claims(self) -> list[tuple[str, list[tuple[Verdict, ForestLine | None]]]]:
        """Data set to its verdicts, with the picture of each; what no table has comes last, under no name."""
        drawn = make_forest(self.verdicts)
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
            f"Claims of {self.whose}": count_verdicts(self.verdicts),
            "Controls of this study": count_verdicts(self.verdicts, control=True),
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
    def tables(self) -> list[FilledTable]:
        """Of this scale."""
        every = [each for scale in self.study.scales.values() for table in scale.tables for each in table.published]
        scale = self.study.scale(self.results.scale)
        return [fill_table(table, scale, self.results, every) for table in beside_rungs(scale, self.results)[0]]

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
        seen = [
            verdict.seen
            for verdict in self.verdicts
            if verdict.seen is not None and verdict.claim.metric.endswith("error")
        ]
        if seen:
            said.append(
                "The smallest true difference that this study sees in four of five repetitions, corrected for all "
                f"of its tests, is {min(seen):.2f} to {max(seen):.2f} points, depending on the claim (median "
                f"{median(seen):.2f}); what is smaller is inconclusive here."
            )
        return said

    @cached_property
    def frontiers(self) -> list[FrontierView]:
        """Error against the cost of training, of those of which anything was measured."""
        return [FrontierView(each) for each in self._judged if each.curves]

    @property
    def unmeasured(self) -> list[str]:
        """The titles of the other frontiers."""
        return [each.frontier.title for each in self._judged if not each.curves]

    @cached_property
    def _judged(self) -> list[Judged]:
        return judge_frontiers(self.study.scale(self.results.scale).frontiers, self.results)

    @property
    def lead(self) -> list[str]:
        """What the page says first: the verdicts of the frontier, the best arm's first, where there is just one."""
        if len(self.frontiers) != 1:
            return []
        view = self.frontiers[0]
        best = sorted(view.judged.judgements, key=lambda arm: view.errors(arm)[0])
        return [view.verdict(arm) for arm in best]

    @cached_property
    def figures(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """See :func:`coterie.reports.studies.pictures.draw_pictures`."""
        _, beside = beside_rungs(self.study.scale(self.results.scale), self.results)
        return draw_pictures(self.study, beside, self.verdicts)

    @property
    def analyses(self) -> tuple[list[str], list[tuple[str, ...]]]:
        """See :func:`coterie.reports.studies.tables.list_analyses`."""
        return list_analyses(self.results)

    @property
    def measures(self) -> list[tuple[str, ...]]:
        """Everything that was measured, over seeds."""
        return list_measures(self.results)


def read_measured(path: str | Path) -> Measured:
    """A results file with its study, whose file is looked for from the folder of the results up, wherever both are now.

    Raises:
        UserError: The file is none, or its study is not found or lacks the scale.
    """
    results = load_results(path)
    try:
        above = [folder / results.study for folder in user_path(path).resolve().parents]
        study = load_study(next((str(file) for file in above if file.suffix and file.is_file()), results.study))
        study.scale(results.scale)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return Measured(study, results)


def report_studies(measured: Sequence[Measured], out: str | Path, lead: Sequence[str] = ()) -> Path:
    """Write one self-contained page with a section for each study.

    Args:
        measured: One or more, see :func:`read_measured`.
        out: The HTML file, replaced where it exists.
        lead: Paragraphs before everything else.

    Raises:
        UserError: There are none, or it cannot be written.
    """
    if not measured:
        raise UserError("nothing to report; name one or more results files")
    environment = need("jinja2", "report").Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "number": numbers.format_number,
        "signed": numbers.format_signed,
        "p_value": numbers.format_p,
        "effect": numbers.format_effect,
        "unit": unit_of,
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
    write_text(path, template.render(title=title, studies=measured, lead=lead, version=__version__))
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
        f"{part} {numbers.format_number(error)}"
        for part in deployed_parts(trial)
        if (error := trial.figure(part, "error")) is not None
    )
