"""What `benchmarks/modern.py` found is what the guide to training says."""

import json
from pathlib import Path

import pytest

import modern

ROOT = Path(__file__).parents[1]


def test_the_guide_says_what_was_measured():
    table = json.loads(modern.SUMMARY.read_text())["modern - short"]
    assert table == modern.report()["modern - short"]
    guide = (ROOT / "docs" / "guides" / "training.md").read_text().splitlines()
    assert [line for line in modern.markdown(table) if line not in guide] == []


@pytest.mark.parametrize(("table", "page"), [("one - vanilla", "choosing.md"), ("ablation", "training.md")])
def test_the_guides_say_what_a_method_and_a_part_do(table, page):
    rows = json.loads(modern.SUMMARY.read_text())[table]
    text = " ".join((ROOT / "docs" / "guides" / page).read_text().split())
    for row in (row for row in rows if row["recipe"] == "modern" and row["n"] >= 3):
        least, most = json.loads(row["interval"])
        assert f"{row['mean']:.1f} ({least:.1f} to {most:.1f})" in text, row


@pytest.mark.parametrize(("method", "recipe"), [("vanilla", "short"), ("vanilla", "modern"), ("one", "modern")])
def test_the_readme_says_what_was_measured(method, recipe):
    rows = [row for row in json.loads(modern.SUMMARY.read_text())["errors"] if row["scale"] == 1.0]
    found = {
        row["data"]: f"{row['error']:.1f} ± {row['std']:.1f}"
        for row in rows
        if (row["network"], row["method"], row["recipe"], row["n"]) == ("resnet8", method, recipe, 5)
    }
    line = " | ".join(found[data] for data in ("glyphs", "fashion-1500", "flags"))
    assert f"| {line} |" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize(("without", "there"), [("label_smoothing", True), ("cutmix", False), ("erasing", False)])
def test_a_part_that_does_nothing_is_not_taken_out(without, there):
    """Cutmix is a share of mixed batches; a small network has none of them."""
    cell = {"data": "flags", "network": "resnet8", "scale": 1.0, "without": without}
    assert modern.part_is_there(cell) is there
