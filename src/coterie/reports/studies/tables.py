"""The tables of a study's page: what each arm was worth, against the baseline, beside what was published."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev

from coterie.reports.groups import is_baseline
from coterie.reports.numbers import format_effect, format_interval, format_number, format_p, format_signed
from coterie.studies.claims import Published
from coterie.studies.results import Result, Results
from coterie.studies.statistics import Comparison, compare, holm
from coterie.studies.study import Scale, Table

_USUAL = ("error", "nll", "ece", "top5_error", "train_error")  # what every training of the harness has
_FIRST = ("target", "ensemble")


@dataclass(frozen=True)
class Line:
    """What a line of a table is of.

    Attributes:
        arm: Of the study.
        part: What of it, such as ``target``.
        metric: Of that.
    """

    arm: str
    part: str
    metric: str

    @property
    def name(self) -> str:
        """As people read it."""
        return f"{self.part}, {self.metric.replace('_', ' ')}" if self.metric != "error" else self.part


@dataclass(frozen=True)
class Figure:
    """A line's figure on one data set and network.

    Attributes:
        line: Which.
        data: Which.
        network: Which.
        values: By seed.
        failed: How many seeds failed.
        comparison: With the baseline, over the seeds that both have.
        adjusted: Its p, corrected for all comparisons of the table.
    """

    line: Line
    data: str
    network: str
    values: dict[int, float]
    failed: int = 0
    comparison: Comparison | None = None
    adjusted: float = 1.0

    @property
    def mean(self) -> str:
        """Over the seeds."""
        return format_number(mean(self.values.values()), self.line.metric)

    @property
    def spread(self) -> str:
        """Standard deviation over the seeds, and how many there are."""
        several = len(self.values) > 1
        sd = f"± {format_number(stdev(self.values.values()), self.line.metric)} " if several else ""
        return f"{sd}(n = {len(self.values)}{f', {self.failed} failed' if self.failed else ''})"

    @property
    def against(self) -> str:
        """The difference to the baseline."""
        if self.comparison is None:
            return ""
        metric, found = self.line.metric, self.comparison
        ends = format_interval(found.low, found.high, metric)
        return f"{format_signed(found.difference, metric)} {ends}, {format_p(self.adjusted)}"

    @property
    def statistics(self) -> tuple[str, ...]:
        """Everything about the comparison, as the details print it."""
        found, metric = self.comparison, self.line.metric
        assert found is not None
        return (
            self.data,
            self.network,
            self.line.arm,
            self.line.name,
            str(found.n),
            format_signed(found.difference, metric),
            format_interval(found.low, found.high, metric),
            format_number(found.sd, metric),
            format_p(found.p).removeprefix("p = ").removeprefix("p "),
            format_p(self.adjusted).removeprefix("p = ").removeprefix("p "),
            format_effect(found.effect),
            format_number(found.seen(), metric),
        )


@dataclass(frozen=True)
class FilledTable:
    """A table with its figures.

    Attributes:
        table: As the study has it.
        columns: (data, network).
        lines: (line, an entry for each column, what was published of it).
        baseline: The arm and the part that others are compared with.
        not_run: Whether there is nothing in it.
    """

    table: Table
    columns: list[tuple[str, str]]
    lines: list[tuple[Line, list[Figure], list[Published]]]
    baseline: str
    not_run: bool

    @property
    def statistics(self) -> list[tuple[str, ...]]:
        """A line for each comparison with the baseline."""
        return [entry.statistics for _, entries, _ in self.lines for entry in entries if entry.comparison is not None]


def fill_table(table: Table, scale: Scale, results: Results, published: Sequence[Published] = ()) -> FilledTable:
    """A table with what was measured of it.

    Args:
        table: Of the scale.
        scale: Of the study.
        results: At that scale.
        published: What stands beside where the table has no published figures of its own: those of the study's others.
    """
    columns = [(data, network) for data in table.data for network in table.networks]
    baseline = find_baseline_arm(table, scale)
    lines = list[Line]()
    for arm in table.arms:
        trials = [trial for column in columns for trial in results.seeds(*column, arm).values()]
        lines += _list_lines(arm, trials) or [Line(arm, part, "error") for part in _published_parts(table, arm)]
    entries = [_make_figure(line, *column, baseline, results) for line in lines for column in columns]
    compared = [entry.comparison.p for entry in entries if entry.comparison is not None]
    adjusted = iter(holm(compared))
    entries = [replace(entry, adjusted=next(adjusted)) if entry.comparison else entry for entry in entries]
    width, beside = len(columns), _place_published(lines, table.published or published)
    rows = [(line, entries[place * width : (place + 1) * width], beside[line]) for place, line in enumerate(lines)]
    part = next((line.part for line in lines if line.arm == baseline), "target")
    return FilledTable(
        table, columns, rows, f"{baseline}, {part}", not any(entry.values or entry.failed for entry in entries)
    )


def find_baseline_arm(table: Table, scale: Scale) -> str:
    """The first arm that trains the network alone, else the first."""
    alone = (arm for arm in table.arms if is_baseline(scale.arms[arm].get("method", {}).get("name", "")))
    return next(alone, table.arms[0] if table.arms else "")


def deployed_parts(trial: Result) -> list[str]:
    """The parts of a trial that can be deployed, the target first; all parts where nothing was said of costs."""
    parts = [part for part in trial.measured if part in trial.cost] or list(trial.measured)
    if "target" not in parts:
        return parts
    return sorted(parts, key=lambda part: _FIRST.index(part) if part in _FIRST else len(_FIRST))


def list_analyses(results: Results) -> tuple[list[str], list[tuple[str, ...]]]:
    """What was analysed of the networks that can be deployed, beside their errors and the flatness curves.

    Returns:
        The metrics, and for each data set, network, arm and part: these, and mean ± standard deviation of each metric.
    """
    found = dict[tuple[str, ...], dict[str, list[float]]]()
    for trial in results.trials:
        for part in deployed_parts(trial):
            for metric in trial.measured[part] if "error" in trial.measured[part] else ():
                value = trial.figure(part, metric)
                if value is not None and metric not in _USUAL and not metric.startswith("flatness_"):
                    found.setdefault((trial.data, trial.network, trial.arm, part), {}).setdefault(metric, []).append(
                        value
                    )
    metrics = list(dict.fromkeys(metric for figures in found.values() for metric in figures))
    rows = [
        (*key, *(_format_values(figures[metric], metric) if metric in figures else "–" for metric in metrics))
        for key, figures in found.items()
    ]
    return [metric.replace("_", " ") for metric in metrics], rows


def list_measures(results: Results) -> list[tuple[str, ...]]:
    """Everything that was measured: data, network, arm, part, metric, and mean ± standard deviation over seeds."""
    found = dict[tuple[str, ...], list[float]]()
    for trial in results.trials:
        for part, figures in trial.measured.items():
            for metric in figures:
                value = trial.figure(part, metric)
                if value is not None:
                    found.setdefault((trial.data, trial.network, trial.arm, part, metric), []).append(value)
    return [(*key[:4], key[4].replace("_", " "), _format_values(values, key[4])) for key, values in found.items()]


def _format_values(values: list[float], metric: str) -> str:
    spread = f" ± {format_number(stdev(values), metric)}" if len(values) > 1 else ""
    return f"{format_number(mean(values), metric)}{spread} (n = {len(values)})"


def _list_lines(arm: str, trials: Iterable[Result]) -> list[Line]:
    """The main metric of each deployable part; every metric of a part that has no error, such as an experiment's."""
    found = dict[Line, None]()
    for trial in trials:
        for part in deployed_parts(trial):
            metrics = ["error"] if "error" in trial.measured[part] else trial.measured[part]
            found |= dict.fromkeys(Line(arm, part, metric) for metric in metrics)
    return list(found)


def _published_parts(table: Table, arm: str) -> list[str]:
    return list(dict.fromkeys(each.part for each in table.published if each.arm == arm)) or ["target"]


def _place_published(lines: list[Line], published: Iterable[Published]) -> dict[Line, list[Published]]:
    """Published figures by the line that they are closest to: of the same arm, the same part, the same metric.

    Of each line those come first that are of the network and data of which most lines have one, so that a column can be
    read downwards.
    """
    found = {line: list[Published]() for line in lines}
    for fromkey in dict.fromkeys(published):
        near = [line for line in lines if line.arm == fromkey.arm]
        if near:
            found[max(near, key=lambda line: (line.part == fromkey.part, line.metric == fromkey.metric))].append(
                fromkey
            )
    common = Counter(of for figures in found.values() for of in {figure.of for figure in figures})
    for line, figures in found.items():
        figures.sort(key=lambda each: (each.part != line.part, each.metric != line.metric, -common[each.of]))
    return found


def _make_figure(line: Line, data: str, network: str, baseline: str, results: Results) -> Figure:
    values = results.values(data, network, line.arm, line.part, line.metric)
    failed = sum(trial.failed is not None for trial in results.seeds(data, network, line.arm).values())
    trials = results.seeds(data, network, baseline).values()
    part = next((deployed_parts(trial)[0] for trial in trials if trial.measured), "")
    if line.metric != "error" or (line.arm, line.part) == (baseline, part):
        return Figure(line, data, network, values, failed)
    base = results.values(data, network, baseline, part, "error")
    shared = [seed for seed in values if seed in base]
    if len(shared) < 2:
        return Figure(line, data, network, values, failed)
    comparison = compare([values[seed] for seed in shared], [base[seed] for seed in shared])
    return Figure(line, data, network, values, failed, comparison)
