import html
import re
import shutil
import warnings
from html.parser import HTMLParser
from itertools import pairwise

import pytest
import torch
import yaml

import coterie
from coterie.evaluation import confusion, disagreement, measures
from coterie.methods import OkdDip
from coterie.recipes import Recipe
from coterie.reports.drawing.colours import COLOURS, Palette
from coterie.reports.drawing.plots import draw_confusions, draw_curves
from coterie.reports.drawing.teaching import draw_teaching
from coterie.reports.groups import group_runs
from coterie.reports.measured import Experiment, Measured, collect_curves
from coterie.reports.table import describe_means, make_rows
from toys import Handed, go


def test_the_table_has_every_peer_and_the_baseline(finished, alone):
    names = [row.name for row in make_rows([finished, alone])]
    assert names == ["one: target", "one: branch1", "one: branch2", "one: ensemble", "resnet8 alone"]
    by_name = {row.name: row for row in make_rows([finished, alone])}
    assert by_name["one: target"].parameters == by_name["resnet8 alone"].parameters
    assert by_name["one: target"].flops == by_name["resnet8 alone"].flops
    assert by_name["one: ensemble"].flops == by_name["one: target"].training_flops > by_name["one: target"].flops
    assert by_name["one: target"].error == coterie.evaluate(finished)["error"]


def test_the_drawing_names_everybody_and_colours_each_lesson(finished):
    edges = OkdDip().teaching()
    svg = draw_teaching(edges, "okddip")
    for name in ("target", "branch1", "branch3", "a mixture by attention", "the mean of the logits, T = 3"):
        assert name in svg
    assert svg.lower().count(COLOURS[0].lower()) > svg.lower().count(COLOURS[1].lower()) >= 2  # one to the leader
    assert draw_teaching(finished.method().teaching(), "one").count(">ensemble<") == 1


class Closed(HTMLParser):
    """Counts what a page loads from elsewhere, and its pictures."""

    def __init__(self):
        super().__init__()
        self.outside, self.svgs, self.images = [], 0, 0

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.svgs += tag == "svg"
        self.images += tag == "img"
        if tag in ("script", "link"):
            self.outside.append(tag)
        for key in ("src", "href", "xlink:href"):
            value = named.get(key) or ""
            if value and not value.startswith(("data:", "#")):
                self.outside.append(value)


@pytest.mark.libraries
def test_the_page_is_one_file_with_every_picture(finished, alone, tmp_path):
    page = coterie.report([finished, alone], tmp_path / "r.html")
    text = page.read_text()
    parser = Closed()
    parser.feed(text)
    assert parser.outside == []
    assert parser.svgs == 8  # who teaches whom, two of curves, two of the gate, reliability, two confusions
    assert parser.images == 24  # test images, and training images of both runs, which are varied alike
    assert "prefers-color-scheme: dark" in text
    assert "currentColor" in text
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert f"{coterie.evaluate(finished)['error']:.2f}" in text


def test_several_seeds_are_averaged_and_paired(finished, alone, digits, tmp_path):
    runs = [finished, alone]
    for method in (coterie.methods.One(network="resnet8"), coterie.methods.Vanilla(network="resnet8")):
        out = tmp_path / method.name
        runs.append(coterie.train(method, digits, recipe=Recipe(), epochs=2, seed=1, out=out, progress=False))
    errors = [[run.card["test"]["target"]["error"] for run in runs[place::2]] for place in (0, 1)]
    text = " ".join(coterie.report(runs, tmp_path / "r.html").read_text().split())
    gain = sum(errors[1]) / 2 - sum(errors[0]) / 2
    assert f"{abs(gain):.2f} points {'fewer' if gain >= 0 else 'more'}" in text
    assert "the standard error over 2 seeds" in text
    assert f"one: target: {sum(errors[0]) / 2:.2f} % error, mean of 2 runs" in describe_means(runs)[0]
    assert [row.name for row in make_rows(runs)][-1] == "resnet8 alone, seed 1"


def test_runs_of_different_data_are_not_mixed(finished, tmp_path):
    with pytest.raises(coterie.UserError, match="nothing to report"):
        coterie.report([], tmp_path / "r.html")


def test_measures_equal_hand_computed_examples():
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [0.0, 0.1]])
    labels = torch.tensor([0, 1, 1, 1])
    found = measures(logits, labels)
    assert found["error"] == 25
    assert confusion(logits, labels).tolist() == [[1, 0], [1, 2]]
    peers = torch.stack([logits, -logits, logits], 1)
    assert disagreement(peers) == pytest.approx(2 / 3)  # of three pairs, two always differ
    assert disagreement(peers[:, :1]) == 0


def test_stages_have_curves_of_their_own_and_ensembles_are_compared(digits, alone, tmp_path):
    options = {"epochs": 1, "progress": False, "recipe": Recipe()}
    kd = coterie.train(coterie.methods.Kd(network="resnet8"), digits, out=tmp_path / "kd", **options)
    snapshot = coterie.methods.Snapshot(network="resnet8")
    grouped = coterie.train(snapshot, digits, out=tmp_path / "s", **options | {"epochs": 2})
    text = " ".join(coterie.report([kd, grouped, alone], tmp_path / "r.html").read_text().split())
    for name in ("kd teacher", "kd target", "snapshot target", "Confusions of snapshot ensemble"):
        assert name in text
    error = grouped.card["test"]["ensemble"]["error"]
    assert f"Trained by snapshot, an ensemble of the same network has a test error of {error:.2f} %" in text
    by_name = {row.name: row for row in make_rows([grouped])}
    assert by_name["snapshot: snapshot1"].flops == by_name["snapshot: target"].flops
    assert by_name["snapshot: ensemble"].flops == 2 * by_name["snapshot: target"].flops


def test_a_peer_of_several_stages_has_a_curve_for_each(digits, tmp_path):
    run = go(Handed(network="resnet8"), digits, tmp_path / "h", epochs=1)
    (group,) = group_runs([run])
    curves = collect_curves(Experiment(group, (Measured(run),)), "test_error_")
    assert {name: epochs for name, (epochs, _) in curves.items()} == {
        "handed target, teacher": [1],
        "handed target, student": [1, 2],
    }


def train_copy(source, out, **changes):
    """A run's folder with another configuration: what the report reads, without the training."""
    shutil.copytree(source.path, out)
    config = yaml.safe_load((out / "config.yaml").read_text())
    for key, value in changes.items():
        group, _, option = key.partition("__")
        (config[group] if option else config)[option or group] = value
    (out / "config.yaml").write_text(yaml.safe_dump(config))
    return coterie.Run(out)


def test_only_runs_that_differ_in_their_seeds_are_averaged(finished, alone, tmp_path):
    runs = [
        finished,
        train_copy(finished, tmp_path / "seed1", seed=1, threads=7, device="cuda"),
        train_copy(finished, tmp_path / "small", batch_size=32),
        train_copy(finished, tmp_path / "fast", batch_size=32, recipe__learning_rate=0.5),
        alone,
    ]
    names = [row.name for row in make_rows(runs) if "target" in row.name or "alone" in row.name]
    assert names == [
        "one, batch_size 128, recipe.learning_rate 0.1: target, seed 0",
        "one, batch_size 128, recipe.learning_rate 0.1: target, seed 1",
        "one, batch_size 32, recipe.learning_rate 0.1: target",
        "one, batch_size 32, recipe.learning_rate 0.5: target",
        "resnet8 alone, batch_size 128, recipe.learning_rate 0.1",
    ]
    assert len(describe_means(runs)) == 4
    assert all(line.startswith("one, batch_size 128") and "mean of 2 runs" in line for line in describe_means(runs))
    assert describe_means(runs[1:]) == []
    text = coterie.report(runs, tmp_path / "r.html").read_text()
    for name in ("batch_size 128, recipe.learning_rate 0.1", "batch_size 32, recipe.learning_rate 0.5"):
        assert text.count(f">one, {name} target<") >= 2  # in the legends of curves and of reliability
    said = " ".join(text.split())
    assert "alone (trained otherwise: batch_size 128 instead of 32)" in said
    assert said.count("Trained by one") == 3


def test_where_options_cannot_tell_runs_apart_folders_do(finished, tmp_path):
    recipe = {f"recipe__{name}": 0.25 for name in ("learning_rate", "weight_decay", "momentum")}
    other = train_copy(finished, tmp_path / "another", epochs=3, batch_size=8, **recipe)
    assert [group.name for group in group_runs([finished, other])] == ["one, one", "one, another"]
    again = train_copy(finished, tmp_path / "again")
    (group,) = group_runs([finished, again])
    assert list(group.by_seed) == [0]
    assert describe_means([finished, again]) == []  # a repetition is no further sample
    assert len({row.name for row in make_rows([finished, again])}) == 8


def test_a_log_axis_has_figures_whatever_its_range():
    for low, high in ((59, 95), (11, 19), (0.2, 90), (1.01, 1.06), (3, 30), (0.001, 900)):
        svg = draw_curves({"a": ([1, 2], [high, low])}, "t", "error", Palette(), log=True)
        axis = svg[svg.index('id="t-matplotlib.axis_2"') :]
        figures = [float(text) for text in re.findall(r"<text[^>]*>([0-9.]+)</text>", axis)]
        inside = [value for value in figures if low * 0.9 <= value <= high * 1.1]
        assert 2 <= len(inside) <= 8, (low, high, figures)


def test_a_name_keeps_its_colour_on_every_picture(finished, alone, tmp_path):
    text = coterie.report([finished, alone], tmp_path / "r.html").read_text()
    colours = {}
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        for legend in re.findall(r'<g id="[^"]*-legend_1">.*', svg, re.DOTALL):
            parts = re.findall(r"stroke: (#[0-9a-f]{6})|<text[^>]*>([^<]+)</text>", legend)
            for (colour, _), (_, name) in pairwise(parts):
                if colour and name:
                    colours.setdefault(name, set()).add(colour)
    assert {"one target", "one branch1", "one ensemble", "alone"} <= colours.keys()
    assert all(len(found) == 1 for found in colours.values())
    assert len(set.union(*colours.values())) == len(colours)


NAMES = [
    "$100^$",
    r"$\notacommand$",
    "你好",
    "a very long name of a class, begun alike",
    "a very long name of a class, ended otherwise",
    "<b>&amp;",
]


def test_names_of_classes_are_text_whatever_they_hold(tmp_path, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg = draw_confusions(torch.eye(6, dtype=torch.long), NAMES, "confusions")
        other = draw_curves({name: ([1, 2], [1, 2]) for name in NAMES}, "curves", "error", Palette())
    text = html.unescape(" ".join(re.findall(r"<text[^>]*>([^<]*)</text>", svg)))
    for name in NAMES:
        assert text.count(name) == 2, name
        assert f">{html.escape(name, quote=False)}<" in other


def test_nothing_on_the_page_is_wider_than_a_telephone(finished, tmp_path):
    text = coterie.report([finished], tmp_path / "r.html").read_text()
    body = text[: text.index("</style>")]
    assert re.search(r"body \{[^}]*overflow-wrap: anywhere", body)
    for tag in ("table", "svg role"):  # what cannot break scrolls within itself
        opened = re.findall(rf"(\S+)\s*<{tag}", text)
        assert opened
        assert all(before == 'class="scroll">' for before in opened)


def test_without_the_images_the_rest_of_the_report_is_there(moved, tmp_path, caplog):
    run, place = moved
    text = coterie.report([run], tmp_path / "r.html").read_text()
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f"Left out of {run.path}: calibration and pictures, which need the images (")
    assert html.escape(caplog.messages[0], quote=False).split(" (")[0] in html.unescape(text)
    assert "Test error over epochs" in text
    assert f"{run.card['test']['target']['error']:.2f}" in text
    assert "<h2>Calibration</h2>" not in text
    assert "<h2>Classes</h2>" in text
    caplog.clear()
    text = coterie.report([run], tmp_path / "r.html", root=place).read_text()
    assert not any("Left out" in line for line in caplog.messages)
    assert "<h2>Calibration</h2>" in text
    assert "$100^$" in text
    assert "你好" in text
