import re
from html.parser import HTMLParser

import pytest
import torch

import coterie
from coterie.evaluation import confusion, disagreement, measures
from coterie.methods import OkdDip
from coterie.report.page import _columns, _Measured
from coterie.report.plots import COLOURS
from coterie.report.table import means, rows
from coterie.report.teaching import teaching
from toys import Handed


def test_the_table_has_every_peer_and_the_baseline(finished, alone):
    names = [row.name for row in rows([finished, alone])]
    assert names == ["one: target", "one: branch1", "one: branch2", "one: ensemble", "resnet8 alone"]
    by_name = {row.name: row for row in rows([finished, alone])}
    assert by_name["one: target"].parameters == by_name["resnet8 alone"].parameters
    assert by_name["one: target"].flops == by_name["resnet8 alone"].flops
    assert by_name["one: ensemble"].flops == by_name["one: target"].training_flops > by_name["one: target"].flops
    assert by_name["one: target"].error == coterie.evaluate(finished)["error"]


def test_the_drawing_names_everybody_and_colours_each_lesson(finished):
    edges = OkdDip().teaching()
    svg = teaching(edges, "okddip")
    for name in ("target", "branch1", "branch3", "a mixture by attention", "the mean of the logits, T = 3"):
        assert name in svg
    assert svg.lower().count(COLOURS[0].lower()) > svg.lower().count(COLOURS[1].lower()) >= 2  # one to the leader
    assert teaching(finished.method().teaching(), "one").count(">ensemble<") == 1


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


def test_the_page_is_one_file_with_every_picture(finished, alone, tmp_path):
    page = coterie.report([finished, alone], tmp_path / "r.html")
    text = page.read_text()
    parser = Closed()
    parser.feed(text)
    assert parser.outside == []
    assert parser.svgs == 8  # who teaches whom, two of curves, two of the gate, reliability, two confusions
    assert parser.images == 12
    assert "prefers-color-scheme: dark" in text
    assert "currentColor" in text
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert f"{coterie.evaluate(finished)['error']:.2f}" in text


def test_several_seeds_are_averaged_and_paired(finished, alone, digits, tmp_path):
    runs = [finished, alone]
    for method in (coterie.methods.One(network="resnet8"), coterie.methods.Vanilla(network="resnet8")):
        out = tmp_path / method.name
        runs.append(coterie.train(method, digits, epochs=2, seed=1, out=out, progress=False, tensorboard=False))
    errors = [[run.card["test"]["target"]["error"] for run in runs[place::2]] for place in (0, 1)]
    text = " ".join(coterie.report(runs, tmp_path / "r.html").read_text().split())
    gain = sum(errors[1]) / 2 - sum(errors[0]) / 2
    assert f"{abs(gain):.2f} points {'fewer' if gain >= 0 else 'more'}" in text
    assert "the standard error over 2 seeds" in text
    assert f"one: target: {sum(errors[0]) / 2:.2f} % error, mean of 2 runs" in means(runs)[0]
    assert [row.name for row in rows(runs)][-1] == "resnet8 alone, seed 1"


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
    options = {"epochs": 1, "progress": False, "tensorboard": False}
    kd = coterie.train(coterie.methods.Kd(network="resnet8"), digits, out=tmp_path / "kd", **options)
    snapshot = coterie.methods.Snapshot(network="resnet8")
    grouped = coterie.train(snapshot, digits, out=tmp_path / "s", **options | {"epochs": 2})
    text = " ".join(coterie.report([kd, grouped, alone], tmp_path / "r.html").read_text().split())
    for name in ("kd teacher", "kd target", "snapshot target", "Confusions of snapshot ensemble"):
        assert name in text
    error = grouped.card["test"]["ensemble"]["error"]
    assert f"Trained by snapshot, an ensemble of the same network errs on {error:.2f} %" in text
    by_name = {row.name: row for row in rows([grouped])}
    assert by_name["snapshot: snapshot1"].flops == by_name["snapshot: target"].flops
    assert by_name["snapshot: ensemble"].flops == 2 * by_name["snapshot: target"].flops


def test_a_peer_of_several_stages_has_a_curve_for_each(digits, tmp_path):
    run = coterie.train(Handed(network="resnet8"), digits, epochs=1, out=tmp_path / "h", progress=False)
    curves = _columns(_Measured(run, run.card, None), "test_error_")
    assert {name: epochs for name, (epochs, _) in curves.items()} == {
        "handed target, teacher": [1],
        "handed target, student": [1, 2],
    }
