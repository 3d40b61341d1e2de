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
GLYPHS = next(judged for judged in judge_frontiers(FRONTIERS, MEASURED.results) if judged.frontier.data == "glyphs")


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


@pytest.mark.parametrize(
    ("arm", "said"),
    [
        ("alone", "alone {}, {}, {}, {} and {} %"),
        ("one", "ONE at equal cost {}, {}, {}, {} and {},"),
        ("weak", "the plain recipe {0} to {4},"),
        ("kd", "training counted {0} to {4} ("),
    ],
)
def test_the_readme_says_the_same_of_each_rung(arm, said):
    errors = [f"{point.mean:.1f}" for _, point in sorted(GLYPHS.curves[arm].items())]
    assert said.format(*errors) in " ".join((ROOT / "README.md").read_text().split())


def test_the_guide_says_how_far_behind_the_plain_recipe_stays():
    there, top = (
        pair(GLYPHS.curves["weak"][rung], GLYPHS.curves["alone"][rung]) for rung in (GLYPHS.saturated["weak"], 4)
    )
    assert there is not None
    assert top is not None
    said = f"{there.difference:.1f} points higher, and {top.difference:.1f} on the highest rung"
    assert said in " ".join(GUIDE.split())
