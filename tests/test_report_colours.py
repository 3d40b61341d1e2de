"""Colours stay with their names: on every page, whatever stands beside them."""

import re
from itertools import pairwise

import pytest

import coterie
from coterie.deploy.speed import Form, Timing
from coterie.methods import Dml, Kd
from coterie.reports.drawing.colours import COLOURS, KNOWN, Palette, name_arm
from coterie.reports.drawing.speed import plot_speed
from coterie.reports.studies.pictures import draw_pictures
from coterie.studies.reading import load_study
from coterie.studies.results import load_results
from made_study import made, trials
from toys import go


def colours_of(text):
    """Name to the colours that it has in the legends of a page."""
    found = {}
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        for legend in re.findall(r'<g id="[^"]*legend_1">.*', svg, re.DOTALL):
            parts = re.findall(r"stroke: (#[0-9a-f]{6})|<text[^>]*>([^<]+)</text>", legend)
            for (colour, _), (_, name) in pairwise(parts):
                if colour and name:
                    found.setdefault(name, set()).add(colour)
    return found


@pytest.fixture(scope="module")
def others(digits, tmp_path_factory):
    """Runs of two other methods."""
    folder = tmp_path_factory.mktemp("others")
    return [
        go(Kd(network="resnet8"), digits, folder / "kd", epochs=1),
        go(Dml(network="resnet8"), digits, folder / "dml", epochs=1),
    ]


def test_a_method_has_its_colour_on_two_pages_with_other_arms(finished, alone, others, tmp_path):
    pages = ([finished], [alone, finished], [*others, alone, finished], [*reversed(others), finished])
    found = [colours_of(coterie.report(runs, tmp_path / "r.html").read_text()) for runs in pages]
    for name, known in (("one target", "one"), ("one ensemble", "one ensemble"), ("one branch1", "one branch1")):
        assert [each[name] for each in found] == [{COLOURS[KNOWN[known].colour].lower()}] * 4
    assert found[1]["alone"] == found[2]["alone"] == {COLOURS[KNOWN["alone"].colour].lower()}
    assert found[2]["kd target"] == found[3]["kd target"] == {COLOURS[KNOWN["kd"].colour].lower()}
    assert found[2]["kd teacher"] == found[3]["kd teacher"]


def test_a_studys_arm_has_its_methods_colour(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        "coterie.reports.studies.pictures.draw_costs",
        lambda points, title, label: drawn.update({point.label: point.colour for point in points}) or "",
    )
    results = load_results(made(tmp_path))
    draw_pictures(load_study(results.study), results, [])
    arms = {trial.arm for trial in trials()} & KNOWN.keys()
    assert arms
    for arm in arms:
        assert drawn[arm] == COLOURS[KNOWN[arm].colour]


def test_a_networks_forms_have_its_colour_in_the_plot_of_speed():
    timings = (Timing(1, 1, 2.0, 3.0, 500.0),)
    other = Form("runs/kd: target", "kd", "target", "PyTorch", 1.0, 9.0, True, None, timings)
    forms = [
        Form(name, "one", student, runtime, 1.0, 10.0, True, None, timings)
        for name, student in (("a: target", "target"), ("a: ensemble", "ensemble"))
        for runtime in ("PyTorch", "ONNX Runtime")
    ]
    for svg in (plot_speed([other, *forms]), plot_speed(forms)):
        colours = {colour.lower() for colour in COLOURS if colour.lower() in svg.lower()}
        assert {COLOURS[KNOWN[name].colour].lower() for name in ("one", "one ensemble")} <= colours
        assert len(colours) == (3 if svg.count("runs/kd") else 2)


def test_known_names_are_told_apart_and_others_do_not_take_their_place():
    assert len(set(KNOWN.values())) == len(KNOWN)
    names = [*KNOWN, *(f"mine {number}" for number in range(4 * len(COLOURS) - len(KNOWN)))]
    palette = Palette({name: name for name in names})
    styles = [tuple(palette.style(name).values()) for name in names]
    assert len(set(styles)) == len(names)
    for name, style in KNOWN.items():
        assert palette.style(name) == {"color": COLOURS[style.colour], "linestyle": style.line}


def test_a_name_of_ones_own_keeps_its_colour_whatever_the_order():
    names = ["mine", "yours", "one, batch_size 32", "one, batch_size 128", "one", "alone"]
    palettes = [Palette({name: name for name in order}) for order in (names, names[::-1])]
    assert [palettes[0].style(name) for name in names] == [palettes[1].style(name) for name in names]
    assert len({palettes[0].colour(name) for name in names}) == len(names)  # there are enough colours
    assert Palette({"mine": "mine"}).colour("mine") == palettes[0].colour("mine")
    assert Palette().colour("one, batch_size 32") == COLOURS[KNOWN["one"].colour]


def test_arms_are_known_by_what_they_deliver():
    assert [name_arm(arm) for arm in ("vanilla", "alone", "one", "snapshot", "ensemble", "mine")] == [
        *("alone", "alone", "one", "snapshot ensemble", "ensemble ensemble", "mine")
    ]
