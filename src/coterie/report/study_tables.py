"""The tables of a study's page: what each row was worth, against the baseline, beside what was published."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from statistics import mean, stdev

from coterie.report.numbers import effect_size, interval, number, p_value, signed
from coterie.studies.results import Result, Results
from coterie.studies.statistics import Comparison, compare, holm
from coterie.studies.study import Published, Scale, Table

ANALYSES = ("flatness_", "diversity", "generalisation_gap")  # beginnings of metrics that have a place of their own
_FIRST = ("target", "ensemble")


@dataclass(frozen=True)
class Line:
    """What a line of a table is of.

    Attributes:
        row: Of the study.
        part: What of it, such as ``target``.
        metric: Of that.
    """

    row: str
    part: str
    metric: str

    @property
    def name(self) -> str:
        """As people read it."""
        return f"{self.part}, {self.metric.replace('_', ' ')}" if self.metric != "error" else self.part


@dataclass(frozen=True)
class Entry:
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
        return number(mean(self.values.values()), self.line.metric)

    @property
    def spread(self) -> str:
        """Standard deviation over the seeds, and how many there are."""
        several = len(self.values) > 1
        sd = f"± {number(stdev(self.values.values()), self.line.metric)} " if several else ""
        return f"{sd}(n = {len(self.values)}{f', {self.failed} failed' if self.failed else ''})"

    @property
    def against(self) -> str:
        """The difference to the baseline."""
        if self.comparison is None:
            return ""
        metric, found = self.line.metric, self.comparison
        return f"{signed(found.difference, metric)} {interval(found.low, found.high, metric)}, {p_value(self.adjusted)}"

    @property
    def statistics(self) -> tuple[str, ...]:
        """Everything about the comparison, as the details print it."""
        found, metric = self.comparison, self.line.metric
        assert found is not None
        return (
            self.data,
            self.network,
            self.line.row,
            self.line.name,
            str(found.n),
            signed(found.difference, metric),
            interval(found.low, found.high, metric),
            number(found.sd, metric),
            p_value(found.p).removeprefix("p = ").removeprefix("p "),
            p_value(self.adjusted).removeprefix("p = ").removeprefix("p "),
            effect_size(found.effect),
            number(found.seen(), metric),
        )


@dataclass(frozen=True)
class Filled:
    """A table with its figures.

    Attributes:
        table: As the study has it.
        columns: (data, network).
        lines: (line, an entry for each column, what was published of it).
        baseline: The row that others are compared with.
        not_run: Whether there is nothing in it.
    """

    table: Table
    columns: list[tuple[str, str]]
    lines: list[tuple[Line, list[Entry], list[Published]]]
    baseline: str
    not_run: bool

    @property
    def statistics(self) -> list[tuple[str, ...]]:
        """A line for each comparison with the baseline."""
        return [each.statistics for _, entries, _ in self.lines for each in entries if each.comparison is not None]


def filled(table: Table, scale: Scale, results: Results) -> Filled:
    """A table with what was measured of it."""
    columns = [(data, network) for data in table.data for network in table.networks]
    baseline = baseline_of(table, scale)
    lines = list[Line]()
    for row in table.rows:
        cells = [cell for column in columns for cell in results.seeds(*column, row).values()]
        lines += _lines(row, cells) or [Line(row, part, "error") for part in _published_parts(table, row)]
    entries = [_entry(line, *column, baseline, results) for line in lines for column in columns]
    compared = [each.comparison.p for each in entries if each.comparison is not None]
    adjusted = iter(holm(compared))
    entries = [replace(each, adjusted=next(adjusted)) if each.comparison else each for each in entries]
    width, beside = len(columns), _beside(lines, table)
    rows = [(line, entries[place * width : (place + 1) * width], beside[line]) for place, line in enumerate(lines)]
    return Filled(table, columns, rows, baseline, not any(each.values or each.failed for each in entries))


def baseline_of(table: Table, scale: Scale) -> str:
    """The first row that trains the network alone, else the first."""
    alone = (row for row in table.rows if scale.rows[row].get("method", {}).get("name") == "vanilla")
    return next(alone, table.rows[0] if table.rows else "")


def deployed(cell: Result) -> list[str]:
    """The parts of a cell that can be deployed, the target first; all parts where nothing was said of costs."""
    parts = [part for part in cell.measured if part in cell.cost] or list(cell.measured)
    return sorted(parts, key=lambda part: _FIRST.index(part) if part in _FIRST else len(_FIRST))


def measures(results: Results, analyses: bool) -> list[tuple[str, ...]]:
    """Everything that was measured beside the errors, over seeds.

    Args:
        results: Of a study.
        analyses: Whether only diversity and the generalisation gap, or only the others.

    Returns:
        Data, network, row, part, metric, mean, standard deviation and how many.
    """
    found = dict[tuple[str, ...], list[float]]()
    for cell in results.cells:
        for part, figures in cell.measured.items():
            for metric in figures:
                value = None if metric.startswith(ANALYSES[0]) else cell.figure(part, metric)
                if value is not None and metric != "error" and metric.startswith(ANALYSES[1:]) == analyses:
                    found.setdefault((cell.data, cell.network, cell.row, part, metric), []).append(value)
    return [
        (
            *key[:4],
            key[4].replace("_", " "),
            number(mean(values), key[4]),
            number(stdev(values), key[4]) if len(values) > 1 else "–",
            str(len(values)),
        )
        for key, values in found.items()
    ]


def _lines(row: str, cells: Iterable[Result]) -> list[Line]:
    """The main metric of each deployable part; every metric of a part that has no error, such as an experiment's."""
    found = dict[Line, None]()
    for cell in cells:
        for part in deployed(cell):
            metrics = ["error"] if "error" in cell.measured[part] else cell.measured[part]
            found |= dict.fromkeys(Line(row, part, metric) for metric in metrics if not metric.startswith(ANALYSES))
    return list(found)


def _published_parts(table: Table, row: str) -> list[str]:
    return list(dict.fromkeys(each.part for each in table.published if each.row == row)) or ["target"]


def _beside(lines: list[Line], table: Table) -> dict[Line, list[Published]]:
    """Published figures by the line that they are closest to: of the same row, the same part, the same metric."""
    found = {line: list[Published]() for line in lines}
    for each in table.published:
        near = [line for line in lines if line.row == each.row]
        if near:
            found[max(near, key=lambda line: (line.part == each.part, line.metric == each.metric))].append(each)
    return found


def _entry(line: Line, data: str, network: str, baseline: str, results: Results) -> Entry:
    values = results.values(data, network, line.row, line.part, line.metric)
    failed = sum(cell.failed is not None for cell in results.seeds(data, network, line.row).values())
    cells = results.seeds(data, network, baseline).values()
    part = next((deployed(cell)[0] for cell in cells if cell.measured), "")
    if line.metric != "error" or (line.row, line.part) == (baseline, part):
        return Entry(line, data, network, values, failed)
    base = results.values(data, network, baseline, part, "error")
    shared = [seed for seed in values if seed in base]
    if len(shared) < 2:
        return Entry(line, data, network, values, failed)
    comparison = compare([values[seed] for seed in shared], [base[seed] for seed in shared])
    return Entry(line, data, network, values, failed, comparison)
