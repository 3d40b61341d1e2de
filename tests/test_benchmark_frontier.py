"""What the frontier's results say is what the guide to choosing says of them."""

from pathlib import Path

import pytest

from coterie.reports.studies.page import read_measured
from coterie.studies.curves import pair, read_curves
from coterie.studies.frontiers import judge_frontiers

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "guides" / "choosing.md").read_text()
MEASURED = read_measured(ROOT / "docs" / "results" / "frontier.json")
FRONTIERS = MEASURED.study.scale("small").frontiers
JUDGED = {judged.frontier.data: judged for judged in judge_frontiers(FRONTIERS, MEASURED.results)}
GLYPHS, CLOTHES = JUDGED["glyphs"], JUDGED["clothes"]
README = " ".join((ROOT / "README.md").read_text().split())


@pytest.mark.parametrize("rung", range(5))
def test_the_guide_says_what_was_measured_on_a_rung(rung):
    alone = GLYPHS.curves["alone"][rung]
    ensemble = read_curves(GLYPHS.frontier, MEASURED.results, part="ensemble")["one"]
    curves = [*(GLYPHS.curves[arm] for arm in ("weak", "alone", "one")), ensemble, GLYPHS.curves["kd"]]
    assert {len(curve[rung].errors) for curve in curves} == {5}
    cells = [f"{curve[rung].mean:.1f} ± {curve[rung].half:.1f}" for curve in curves]
    assert f"| {' | '.join([str(alone.epochs), f'{alone.flops / 1e12:.1f}', *cells])} |" in GUIDE


def test_the_guide_says_where_the_network_alone_is_saturated_and_where_one_is_ahead():
    assert GLYPHS.curves["alone"][GLYPHS.saturated["alone"]].epochs == 197
    crossing = GLYPHS.crossings["one"]
    assert crossing.ahead
    assert (crossing.low is not None and f"{crossing.low / 1e12:.1f}", crossing.high) == ("3.1", None)
    assert "begins at 3.1 TFLOP" in GUIDE
    assert GLYPHS.uneven == []
    top = pair(GLYPHS.curves["one"][4], GLYPHS.curves["alone"][4])
    assert top is not None
    said = f"{-top.difference:.1f} points lower ({-top.low:.1f} lower to {top.high:.1f} higher)"
    assert said in " ".join(GUIDE.split())


@pytest.mark.parametrize("rung", range(3))
def test_the_guide_says_what_was_measured_of_clothes_on_a_rung(rung):
    alone, one = (CLOTHES.curves[arm][rung] for arm in ("alone", "one"))
    ensemble = read_curves(CLOTHES.frontier, MEASURED.results, part="ensemble")["one"][rung]
    assert {len(curve.errors) for curve in (alone, one, ensemble)} == {5}
    between = pair(one, alone)
    assert between is not None
    cells = [f"{curve.mean:.1f} ± {curve.half:.1f}" for curve in (alone, one, ensemble)]
    cells += [f"{between.difference:.1f} ({between.low:.1f} to {between.high:.1f})"]
    assert f"| {' | '.join([str(alone.epochs), f'{alone.flops / 1e12:.1f}', *cells])} |" in GUIDE
    assert CLOTHES.uneven == []


@pytest.mark.parametrize(
    ("judged", "rungs", "arms"),
    [(GLYPHS, range(5), ("weak", "alone", "one", "kd")), (CLOTHES, range(3), ("alone", "one"))],
)
def test_the_readme_has_each_rung(judged, rungs, arms):
    for rung in rungs:
        curves = {arm: judged.curves[arm][rung] for arm in arms}
        cells = [
            f"{curves[arm].mean:.1f} ± {curves[arm].half:.1f}" if arm in arms else ""
            for arm in ("weak", "alone", "one", "kd")
        ]
        assert f"| {curves['alone'].flops / 1e12:.1f} | {' | '.join(cells)} |".replace("|  |", "| |") in README


def test_the_guide_says_how_far_behind_the_plain_recipe_stays():
    there, top = (
        pair(GLYPHS.curves["weak"][rung], GLYPHS.curves["alone"][rung]) for rung in (GLYPHS.saturated["weak"], 4)
    )
    assert there is not None
    assert top is not None
    said = f"{there.difference:.1f} points higher, and {top.difference:.1f} on the highest rung"
    assert said in " ".join(GUIDE.split())


def test_what_is_said_of_clothes_is_what_was_judged():
    judgement, alone = CLOTHES.judgements["one"], CLOTHES.curves["alone"]
    assert ("alone" in CLOTHES.saturated, CLOTHES.rung, judgement.word) == (False, 2, "worse")
    falls = [f"{alone[rung].mean - alone[rung + 1].mean:.1f}" for rung in (0, 1)]
    found = judgement.comparison
    guide = " ".join(GUIDE.split())
    assert f"still falls by {falls[0]} and {falls[1]} points a rung" in guide
    said = f"{found.difference:.1f} points higher ({found.low:.1f} to {found.high:.1f}; p = {judgement.adjusted:.2f}"
    assert said in guide
    assert f"it stays {found.difference:.1f} points worse" in README


def test_what_the_readme_says_of_glyphs_is_what_was_judged():
    first, there = (
        pair(GLYPHS.curves[arm][rung], GLYPHS.curves["alone"][rung]) for arm, rung in (("one", 0), ("weak", 3))
    )
    assert first is not None
    assert there is not None
    assert f"ONE begins {first.difference:.1f} points worse on the glyphs" in README
    assert f"the plain recipe is saturated there too, {there.difference:.1f} points higher" in README
    assert f"from {GLYPHS.curves['alone'][GLYPHS.saturated['alone']].flops / 1e12:.1f} TFLOP on" in README
