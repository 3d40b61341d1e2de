"""What the measured figures say of each claim; a figure published for other conditions decides nothing."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, get_args

from coterie.studies.claims import Claim, Side
from coterie.studies.results import Results, unit_of
from coterie.studies.statistics import LEVEL, Comparison, compare, holm, holm_levels
from coterie.studies.study import Study

Word = Literal["holds", "does not hold", "inconclusive", "not run"]
WORDS: tuple[Word, ...] = get_args(Word)


@dataclass(frozen=True)
class Verdict:
    """A claim on one data set and network.

    Attributes:
        claim: What is to be told.
        data: On which data; empty where no table of the scale has both sides.
        network: Of which network, ``ours against theirs`` where the sides are of two.
        word: The verdict.
        comparison: What it rests on: differences over seeds, what the claim is of minus what it is compared with.
        adjusted: p after Holm's correction over all tests of the study: of the two-sided t-test; where both sides are
            claimed to be the same, of equivalence, or of a difference beyond the margin, whichever the mean speaks for.
        level: The p up to which the correction would have let this test show something.
        absent: Seeds that have no pair, and why.
    """

    claim: Claim
    data: str
    network: str
    word: Word = "not run"
    comparison: Comparison | None = None
    adjusted: float | None = None
    level: float = LEVEL
    absent: dict[int, str] = field(default_factory=dict)

    @property
    def p(self) -> float | None:
        """Before the correction."""
        return None if self.comparison is None else _p(self.claim, self.comparison)

    @property
    def power(self) -> float | None:
        """How often a true difference of the published size would have been seen; None where there is no such size."""
        if self.comparison is None or self.claim.published is None or self.claim.expect == "same":
            return None
        return self.comparison.power(self.claim.published, self.level)

    @property
    def seen(self) -> float | None:
        """The smallest true difference that would have been seen with 80 % power, corrected for all tests."""
        if self.comparison is None or self.claim.expect == "same":
            return None
        return self.comparison.seen(self.level)

    @property
    def why(self) -> str:
        """What a reader needs beside the figures."""
        said = []
        if self.comparison is not None and self.comparison.sd == 0:
            said.append("All differences are equal, so there is no spread to judge by.")
        elif self.word == "inconclusive":
            said.append(_doubt(self))
        if self.word == "not run" and not self.data:
            said.append("No table of this scale has both sides.")
        reasons: dict[str, list[int]] = {}
        for seed, reason in self.absent.items():
            reasons.setdefault(reason, []).append(seed)
        for reason, seeds in reasons.items():
            said.append(f"Seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}: {reason}.")
        return " ".join(said)


def judge_claims(study: Study, results: Results) -> list[Verdict]:
    """A verdict on each claim for each data set and network that a table of the scale has both sides of.

    ``lower`` and ``higher`` hold if the paired t-test, corrected for all tests of the study, shows a difference in the
    claimed direction, and do not if it shows one in the other. ``same`` holds if both one-sided tests show the
    difference within the margin, and does not if a two-sided test shows it beyond, corrected likewise. Everything else
    is inconclusive, and with fewer than two pairs of seeds nothing was run.
    """
    found = [
        _test_claim(claim, *place, study, results) for claim in study.claims for place in _places(claim, study, results)
    ]
    ran = [place for place, each in enumerate(found) if each.comparison is not None]
    ps = [p for each in found if (p := each.p) is not None]
    for place, adjusted, level in zip(ran, holm(ps), holm_levels(ps), strict=True):
        claim, comparison, absent = found[place].claim, found[place].comparison, found[place].absent
        assert comparison is not None
        word = _word(claim, comparison, adjusted)
        at = found[place].data, found[place].network
        found[place] = Verdict(claim, *at, word, comparison, adjusted, level, absent)
    return found


def count_verdicts(found: Iterable[Verdict], control: bool = False) -> list[tuple[Word, int]]:
    """How many claims of the paper, or controls of the study, have each verdict."""
    counts = Counter(each.word for each in found if each.claim.control == control)
    return [(word, counts[word]) for word in WORDS if counts[word]]


def summarise(study: Study, results: Results, found: list[Verdict]) -> str:
    """A line: how many claims hold, and on how much that rests."""
    claims, controls = (
        "; ".join(f"{word}: {times}" for word, times in count_verdicts(found, control)) for control in (False, True)
    )
    failed = sum(trial.failed is not None for trial in results.trials)
    head = f"{study.title}, {results.scale} scale, {len(results.trials)} trials ({failed} failed)"
    return f"{head}. Claims: {claims or 'none'}{f'. Controls: {controls}' if controls else ''}"


Place = tuple[str, str, str]  # data, network of the one side, network of the other


def _places(claim: Claim, study: Study, results: Results) -> list[Place]:
    """Where both sides of a claim are to be measured; one empty place where they nowhere are."""
    scale = study.scale(results.scale)
    planned = {
        (data, network, arm)
        for table in scale.tables
        for data in table.data
        for network in table.networks
        for arm in table.arms
    }
    places = dict[Place, None]()
    for data in scale.data:
        if claim.data is not None and data not in claim.data:
            continue
        for network in scale.networks:
            by = claim.by.network or network
            than = claim.than.network or network if isinstance(claim.than, Side) else by
            sides = {(data, by, claim.by.arm)}
            if isinstance(claim.than, Side):
                sides.add((data, than, claim.than.arm))
            if sides <= planned:
                places[data, by, than] = None
    return list(places) or [("", "", "")]


def _test_claim(claim: Claim, data: str, by: str, than: str, study: Study, results: Results) -> Verdict:
    network = by if by == than else f"{by} against {than}"
    if not data:
        return Verdict(claim, data, network)
    sides = [(by, claim.by), *([(than, claim.than)] if isinstance(claim.than, Side) else [])]
    trials = [results.seeds(data, network, side.arm) for network, side in sides]
    values = [results.values(data, network, side.arm, side.part, claim.metric) for network, side in sides]
    paired = sorted(set.intersection(*(set(value) for value in values)))
    expected = set(range(study.scale(results.scale).seeds)).union(*trials)
    absent: dict[int, str] = {}
    for seed in sorted(expected.difference(paired)):
        # The first side that has no figure says why.
        side = next(place for place, each in enumerate(values) if seed not in each)
        trial, arm = trials[side].get(seed), sides[side][1].arm
        reason = "not run" if trial is None else trial.failed or f"no {claim.metric} of {sides[side][1].part}"
        absent[seed] = f"{arm} {'failed: ' if trial is not None and trial.failed else ''}{reason}"
    if len(paired) < 2:
        return Verdict(claim, data, network, absent=absent)
    ours = [values[0][seed] for seed in paired]
    theirs = [values[1][seed] for seed in paired] if isinstance(claim.than, Side) else claim.than
    return Verdict(claim, data, network, comparison=compare(ours, theirs), absent=absent)


def _p(claim: Claim, comparison: Comparison) -> float:
    if claim.expect != "same":
        return comparison.p
    assert claim.margin is not None
    within = abs(comparison.difference) < claim.margin
    return comparison.equivalence(claim.margin) if within else comparison.difference_beyond(claim.margin)


def _word(claim: Claim, comparison: Comparison, adjusted: float) -> Word:
    if adjusted >= LEVEL:
        return "inconclusive"
    if claim.expect == "same":
        assert claim.margin is not None
        return "holds" if abs(comparison.difference) < claim.margin else "does not hold"
    return "holds" if (comparison.difference < 0) == (claim.expect == "lower") else "does not hold"


def _doubt(verdict: Verdict) -> str:
    claim, comparison, units = verdict.claim, verdict.comparison, unit_of(verdict.claim.metric)
    assert comparison is not None
    digits = ".2f" if units else ".2g"
    if claim.expect == "same":
        return f"It would have held within ± {comparison.shown_margin(verdict.level):{digits}}{units}."
    said = f"A true difference of {verdict.seen:{digits}}{units} would have been seen with 80 % power"
    if verdict.power is not None:
        source = "the literature (unverified)" if claim.evidence.startswith("unverified") else "the literature"
        said += f", one of {claim.published:g}{units}, the figure in {source}, with {_percent(verdict.power)}"
    return f"{said}."


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if 0.01 <= share <= 0.99 else "more than 99 %" if share > 0.99 else "less than 1 %"
