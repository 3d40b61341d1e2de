"""What `benchmarks/small_batches.py` found is what the guide to comparing says."""

import json
from pathlib import Path

import small_batches

GUIDE = Path(__file__).parents[1] / "docs" / "guides" / "comparing.md"


def test_the_guide_says_what_batches_of_both_sizes_gave():
    table = json.loads(small_batches.SUMMARY.read_text())["few steps"]
    assert table == small_batches.report()["few steps"]
    found = {(row["method"], row["batch"]): row for row in table}
    assert {row["n"] for row in table} == {4}
    errors = {key: f"{row['test_error']:.1f}" for key, row in found.items()}
    text = " ".join(GUIDE.read_text().split())
    assert f"with ONE was {errors['one', 128]} % in batches of 128" in text
    assert f"and {errors['one', 32]} % in batches of 32" in text
    assert f"alone it was {errors['vanilla', 128]} and {errors['vanilla', 32]} %" in text
    assert sum(float(error) > 40 for error in found["one", 128]["train_errors"].split(", ")) == 1
