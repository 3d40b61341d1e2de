import re
import subprocess
import sys
import warnings
from dataclasses import replace
from html.parser import HTMLParser
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev

import pytest

from coterie import UserError
from coterie.cli import main
from coterie.reports.studies.forest import make_forest
from coterie.reports.studies.page import Measured, read_measured, report_studies
from coterie.reports.studies.plots import CostPoint, _asides, _spread, draw_costs
from coterie.reports.studies.tables import deployed_parts, fill_table
from coterie.studies.claims import Published
from coterie.studies.reading import load_study
from coterie.studies.results import Result, load_results, save_results
from coterie.studies.statistics import compare, holm
from coterie.studies.verdicts import summarise
from made_study import made, trials

THEOREMS = [trial for trial in trials() if trial.data == "multi-view"]
VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """What a page loads from elsewhere, its text, headers without a scope, and what is not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.outside, self.scopes, self.open, self.text, self.pictures = [], [], [], "", []
        self.feed(text)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "th":
            self.scopes.append(named.get("scope"))
        if tag == "svg":
            self.pictures.append((named.get("role"), named.get("aria-label")))
        if tag in ("script", "link", "iframe"):
            self.outside.append(tag)
        for key in ("src", "href", "xlink:href"):
            value = named.get(key) or ""
            if value and not value.startswith(("data:", "#")):
                self.outside.append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "title"):
            self.text += data + " "


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return made(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def measured(results):
    return read_measured(results)


@pytest.fixture(scope="module")
def source(results, measured):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib's, where something does not fit
        return report_studies([measured], results.with_suffix(".html")).read_text()


@pytest.fixture(scope="module")
def page(source):
    return Page(source)


def test_the_page_is_one_file_that_everybody_can_read(source, page):
    assert page.outside == []
    assert page.open == []
    assert set(page.scopes) == {"col", "row"}
    assert all(role == "img" and label for role, label in page.pictures)
    assert "prefers-color-scheme: dark" in source
    ids = re.findall(r'\bid="([^"]+)"', source)
    assert len(ids) == len(set(ids))
    assert "url(http" not in source
    assert "@import" not in source


def test_names_are_text_and_no_markup(source, page):
    assert "<leader>" not in source
    assert "<nan>" not in source
    assert "okddip <leader>" in page.text
    assert "the loss is <nan> at step 7" in page.text


def test_claims_stand_with_their_figures_and_verdicts(measured, page):
    for each in measured.verdicts:
        assert each.claim.says in page.text
        if each.comparison is not None:
            metric = each.comparison
            text = f"{metric.difference:+.2f} points [{metric.low:+.2f}, {metric.high:+.2f}]".replace("-", "−")
            assert text.replace("+0.00", "0.00") in page.text
    assert measured.counts == {
        "Claims of the paper": [
            ("holds", 3),
            ("does not hold", 1),
            ("inconclusive", 6),
            ("not run", 2),
        ],
        "Controls of this study": [("holds", 1), ("inconclusive", 1)],
    }
    for counts in measured.counts.values():
        for word, times in counts:
            assert f"{word}: {times}" in page.text
    assert "Control: Without the KL terms" in page.text
    assert "target of one lower than target of alone; resnet8; the paper: Table 1" in page.text
    assert "In the literature: 4.57 points lower ( secondary: survey; OEM T4 )" in page.text
    assert "Seed 3: dml failed: the loss is <nan> at step 7." in page.text
    assert [name for name, _ in measured.claims] == ["glyphs", "fashion", "multi-view", ""]


def test_what_nobody_confirmed_is_never_shown_as_published(page):
    assert "In the literature: 0.4 points lower ( unverified )" in page.text
    assert "24.63 ± 0.10: CIFAR-100, ResNet-32 ( unverified )" in page.text
    assert "8.50 top5 error: CIFAR-100, ResNet-32 ( unverified )" in page.text


def test_a_table_has_means_and_corrected_comparisons_with_the_baseline(measured):
    table = measured.tables[0]
    assert (table.baseline, table.columns) == ("alone, target", [("glyphs", "resnet8"), ("fashion", "resnet8")])
    lines = {(line.arm, line.part): entries for line, entries, _ in table.lines}
    assert ("one", "branch1") not in lines  # not deployed
    one = lines["one", "target"][0]
    values = [measured.results.values("glyphs", "resnet8", arm, "target", "error").values() for arm in ("one", "alone")]
    assert one.comparison == compare(*map(list, values))
    assert lines["alone", "target"][0].comparison is None
    compared = [each for _, entries, _ in table.lines for each in entries if each.comparison]
    assert len(compared) == 16
    assert [each.adjusted for each in compared] == holm([each.comparison.p for each in compared])
    assert lines["dml", "target"][1].spread.endswith("(n = 4, 1 failed)")
    assert len(table.statistics) == 16


def test_what_was_not_run_is_marked_with_its_published_figures(page, measured):
    assert [table.not_run for table in measured.tables] == [False, True, False]
    assert "Table 4: against ensembles – not run" in page.text
    assert "27.12: CIFAR-100, ResNet-32 ( secondary: OEM T4 )" in page.text
    assert "The published protocol – not run" in page.text
    assert "one-imagenet target ImageNet, ResNet-18 error 29.45 Table 2 paper not run" in page.text
    assert "one-imagenet target ImageNet, ResNet-18 top5 error 10.41 – unverified not run" in page.text


def test_the_page_says_what_the_study_can_see(measured, page):
    first, second, third = measured.sight
    assert re.search(r"by a standard deviation of 0\.\d\d points on glyphs, 0\.\d\d points on fashion", first)
    assert re.search(
        r"chance \d+ times in 100 on glyphs, \d+ times in 100 on fashion: a difference under half a", second
    )
    assert second.endswith("is noise.")
    seen = sorted(each.seen for each in measured.verdicts if each.seen is not None)
    assert f"is {seen[0]:.2f} to {seen[-1]:.2f} points" in third
    assert all(line in page.text for line in measured.sight)
    assert "65, 1 failed; 40.3 core-minutes" in page.text
    assert measured.minutes == pytest.approx((59 * 40 + 5 * 12) / 60)


def test_a_steady_network_is_not_said_to_be_noise(measured):
    steady = [
        replace(trial, measured={"target": {"error": (30.0 if trial.arm == "one" else 31.0) + 0.01 * trial.seed**2}})
        for trial in measured.results.trials
        if trial.arm in ("alone", "one")
    ]
    steady[-1].measured["target"]["error"] += 0.01
    assert "noise" not in " ".join(Measured(measured.study, replace(measured.results, trials=steady)).sight)


def test_every_figure_is_drawn(measured, source):
    headings = {heading: [caption for caption, _ in pictures] for heading, pictures in measured.figures}
    assert [len(captions) for captions in headings.values()] == [4, 3, 1]
    assert "Errors in the course of training: test images solid, training images dashed" in headings["glyphs"]
    assert "Measured against the numbers that claims name" in headings
    for label in (">FLOPs of all training<", ">one-without-kl, ensemble<", ">theorems, single (multi-view)<"):
        assert label in source
    assert ">okddip &lt;leader&gt;<" in source


def test_analyses_and_every_trial_are_there(measured, page):
    metrics, rows = measured.analyses
    assert metrics == ["generalisation gap", "disagreement", "divergence"]
    by_place = {row[:4]: row[4:] for row in rows}
    said = measured.results.values("glyphs", "resnet8", "one", "ensemble", "disagreement").values()
    text = f"{mean(said):.2f} ± {stdev(said):.2f} (n = 5)"
    assert by_place["glyphs", "resnet8", "one", "ensemble"][:2] == ("–", text)
    assert by_place["glyphs", "resnet8", "one", "target"][1:] == ("–", "–")
    assert text in page.text
    assert ("glyphs", "resnet8", "one", "branch1") not in by_place  # not deployed
    assert "glyphs resnet8 one branch1 error" in page.text
    assert "multi-view theorem theorems single single view error" in page.text
    assert "coterie train --config kd.yaml --seed 4" in page.text
    assert "fashion/resnet8/dml/3: the loss is <nan> at step 7" in page.text


def test_a_page_is_the_same_when_drawn_again(tmp_path):
    path = made(tmp_path, trials=THEOREMS)
    first, again = (report_studies([read_measured(path)], tmp_path / name).read_text() for name in ("a.html", "b.html"))
    assert first == again


def test_several_studies_share_a_page(tmp_path):
    one, other = made(tmp_path, "one", trials=THEOREMS), made(tmp_path, "other", trials=THEOREMS)
    text = report_studies([read_measured(one), read_measured(other)], tmp_path / "p.html").read_text()
    assert Page(text).outside == []
    assert len(Page(text).pictures) == 2 * (1 + 2)  # for each study a figure, and two claims' intervals
    assert [f'<a href="#study{n}">' in text for n in (1, 2)] == [True, True]
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    with pytest.raises(UserError, match="nothing to report"):
        report_studies([], tmp_path / "none.html")


def test_a_study_of_nothing_has_a_page(tmp_path):
    path = made(tmp_path, trials=[])
    text = Page(report_studies([read_measured(path)], tmp_path / "p.html").read_text()).text
    assert "0, 0 failed; 0.0 core-minutes" in text
    assert "holds" not in text
    assert read_measured(path).sight == []


def test_the_console_prints_claims_and_verdicts(results, tmp_path, capsys, monkeypatch):
    # Without costs there is little to draw.
    bare = [replace(trial, cost={}, training_flops=None) for trial in load_results(results).trials]
    path = made(tmp_path, trials=bare)
    monkeypatch.delenv("COLUMNS", raising=False)  # a pipe's lines are whole
    main(["report", str(path), "--out", str(tmp_path / "p.html")])
    said = capsys.readouterr().out
    measured = read_measured(path)
    assert said.count("inconclusive") == 9
    assert "does not hold" in said
    assert summarise(measured.study, measured.results, measured.verdicts) in said
    assert "small scale, 65 trials (1 failed). Claims: holds: 3; does not hold: 1;" in said
    assert "Controls: holds: 1; inconclusive: 1" in said
    assert (tmp_path / "p.html").exists()


def test_runs_and_studies_are_not_mixed_and_what_is_missing_is_named(results, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["report", str(results), "runs/one"])
    assert "runs/one: no results file" in capsys.readouterr().err
    lost = tmp_path / "lost.json"
    save_results(lost, replace(load_results(results), study=str(tmp_path / "gone.yaml")))
    with pytest.raises(UserError, match=r"lost.json: .*gone.yaml: no such file"):
        read_measured(lost)
    save_results(lost, replace(load_results(results), scale="huge"))
    with pytest.raises(UserError, match=r"lost.json: unknown scale"):
        read_measured(lost)


def test_a_table_without_published_figures_takes_those_of_the_study(measured):
    small = measured.study.scale("small")
    table = replace(small.tables[0], published=())

    def published(arm, of, **options):
        return Published(arm, of=of, value=1.0, evidence="paper", **{"part": "target", "metric": "error"} | options)

    others = [
        published("one", "ImageNet"),
        published("one", "CIFAR"),
        published("one", "CIFAR", metric="top5_error"),
        published("alone", "CIFAR"),
        published("alone", "CIFAR"),
        published("kd", "CIFAR", part="teacher"),
        published("unknown", "CIFAR"),
    ]
    beside = {
        (line.arm, line.part): found for line, _, found in fill_table(table, small, measured.results, others).lines
    }
    assert beside["one", "target"] == [others[1], others[0], others[2]]  # of CIFAR first, of which most lines have one
    assert beside["alone", "target"] == [others[3]]
    assert beside["kd", "target"] == [others[5]]
    assert beside["one", "ensemble"] == beside["dml", "target"] == []
    own = fill_table(small.tables[0], small, measured.results, others)
    assert sum(len(found) for *_, found in own.lines) == len(small.tables[0].published)


def test_only_an_unusual_network_is_named(measured):
    trials = [trial for trial in measured.results.trials if trial.data == "glyphs" and trial.arm in ("alone", "one")]
    other = [replace(trial, network="resnet14") for trial in trials if trial.arm == "alone" and trial.seed < 2]
    named = Measured(measured.study, replace(measured.results, trials=[*trials, *other]))
    ((heading, pictures), *_) = named.figures
    assert heading == "glyphs; resnet8 where no other is named"
    assert ">alone, resnet14<" in pictures[0][1]
    assert ">one, ensemble<" in pictures[0][1]


def test_labels_keep_apart_and_within():
    assert _spread([0.1, 0.1, 0.5], 0.2) == pytest.approx([0.1, 0.3, 0.5])
    assert _spread([0.9, 0.95, 1.0], 0.2) == pytest.approx([0.6, 0.8, 1.0])
    assert _asides([1.0, 5.0, 1.005]) == pytest.approx([-0.05, 0, 0.05])


def test_one_point_without_spread_is_drawn():
    svg = draw_costs([CostPoint("a $x$ & b", "target", "#010101", 1e9, [20.0])], "one <point>", "FLOPs")
    assert "a $x$ &amp; b" in svg
    assert 'aria-label="one &lt;point&gt;"' in svg


@pytest.mark.parametrize("most", [2.1e8, 4e8, 1.3e9, 9e10, 4e13])
def test_figures_of_costs_do_not_lie_on_each_other(most, monkeypatch):
    figures = []
    monkeypatch.setattr(
        import_module("coterie.reports.studies.plots"), "to_svg", lambda figure, title: figures.append(figure) or ""
    )
    draw_costs([CostPoint(str(x), "target", "#010101", x, [20.0, 21.0]) for x in (1.6e8, most)], "costs", "FLOPs")
    (axes,) = figures[0].axes
    figures[0].canvas.draw()
    boxes = [tick.get_window_extent() for tick in axes.get_xticklabels(which="both") if tick.get_text()]
    assert 2 <= len(boxes) <= 7
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_a_row_has_one_colour_on_all_pictures_of_a_page(measured, monkeypatch):
    used = {}
    for kind in ("draw_curves", "draw_flatness"):
        draw = lambda named, colours, title: used.setdefault(title, colours) and ""  # noqa: E731
        monkeypatch.setattr(import_module("coterie.reports.studies.pictures"), kind, draw)
    monkeypatch.setattr(
        import_module("coterie.reports.studies.pictures"),
        "draw_costs",
        lambda points, title, label: used.setdefault(title, {point.label: point.colour for point in points}) and "",
    )
    assert Measured(measured.study, measured.results).figures
    assert len(used) > 4
    for arm in ("alone", "one"):
        assert len({colours[arm] for colours in used.values() if arm in colours}) == 1


def test_a_study_without_a_source_claims_for_itself(measured, tmp_path):
    own = Measured(replace(measured.study, source=""), measured.results)
    text = Page(report_studies([own], tmp_path / "p.html").read_text()).text
    assert "What this study claims" in text
    assert "Claims of this study:" in text
    assert "the paper" not in text.split("Tables")[0].lower().replace("published protocol", "")


def test_whiskers_of_a_data_set_share_a_scale(measured):
    found = measured.verdicts
    pictures = dict(zip([(each.claim.says, each.data) for each in found], make_forest(found), strict=True))
    glyphs = [picture for (_, data), picture in pictures.items() if data == "glyphs" and picture]
    assert len({picture.reach for picture in glyphs}) == 1
    for picture in filter(None, pictures.values()):
        assert 0 <= picture.low <= picture.middle <= picture.high <= 100
    first = pictures["ONE's target is more accurate than the network trained alone.", "glyphs"]
    assert first.published == pytest.approx(50 - 50 * 4.57 / first.reach, abs=0.1)
    # A figure that would lie off the line is not drawn on its end.
    assert pictures["ONE's target is more accurate than the network trained alone.", "fashion"].published is None


def test_parts_without_costs_are_all_shown(measured):
    trial = Result("d", "n", "r", 0, measured={"student": {"error": 1.0}, "ensemble": {"error": 1.0}})
    assert deployed_parts(trial) == ["student", "ensemble"]
    small = measured.study.scale("small")
    theorems = fill_table(small.tables[2], small, measured.results)
    assert [(line.part, line.metric) for line, _, _ in theorems.lines] == [
        ("single", "single_view_error"),
        ("ensemble", "single_view_error"),
    ]
    assert theorems.statistics == []


def test_without_the_extra_a_page_is_refused_in_a_line_and_other_commands_run():
    code = """
import coterie.extras
coterie.extras.find_spec = lambda library: None if library != "torch" else object()
from coterie.cli import find_parts, main
find_parts()
main(["report", "docs/results/srm.json", "--out", "never.html"])
"""
    folder = Path(__file__).parent.parent
    ended = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert ended.returncode == 2, ended.stderr
    assert re.fullmatch(r"coterie: \w+ is not installed; install it with: pip install 'coterie\[\w+\]'\n", ended.stderr)


def test_the_studys_file_is_found_from_the_folder_of_the_results_up(tmp_path, monkeypatch):
    path = made(tmp_path)
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "docs" / "results").mkdir(parents=True)
    results = load_results(path)
    own = (path.parent / results.study).rename(tmp_path / "benchmarks" / "own.yaml")
    moved = tmp_path / "docs" / "results" / "own.json"
    save_results(moved, replace(results, study="benchmarks/own.yaml"))
    (elsewhere := tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(elsewhere)
    assert read_measured(moved).study.title == load_study(str(own)).title


def test_what_a_study_says_of_itself_shows_commands_as_commands(tmp_path, measured):
    study = replace(measured.study, about="Made by `coterie study a<b`, twice.")
    page = report_studies([Measured(study, measured.results)], tmp_path / "p.html").read_text()
    assert "<p>Made by <code>coterie study a&lt;b</code>, twice.</p>" in page
