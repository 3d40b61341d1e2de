import json
from functools import partial

import pytest

from cells import append, key, paired, read_rows, run_cells


def measure(cell, folder):
    if cell["seed"] == 2:
        raise ValueError("no such seed")
    (folder / f"trained-{cell['seed']}").touch()
    return None if cell["seed"] == 3 else {"error": 10.0 * cell["seed"]}


def test_cells_are_trained_once_and_failures_again(tmp_path, capsys):
    cells, results = [{"seed": seed, "data": "d"} for seed in range(4)], tmp_path / "rows.jsonl"
    options = {"jobs": 2, "minutes": None, "kind": lambda cell: cell["data"]}
    run_cells(cells, partial(measure, folder=tmp_path), results, **options)
    assert {row["cell"]["seed"]: row["error"] for row in read_rows(results)} == {0: 0.0, 1: 10.0}
    assert "2 cells trained, 1 failed, 2 left" in (said := capsys.readouterr().out)
    assert "ValueError: no such seed" in said
    for file in tmp_path.glob("trained-*"):
        file.unlink()
    run_cells(cells, partial(measure, folder=tmp_path), results, **options)
    assert {file.name for file in tmp_path.glob("trained-*")} == {"trained-3"}
    run_cells([{"seed": 5, "data": "d"}], partial(measure, folder=tmp_path), results, **(options | {"minutes": 0.0}))
    assert "0 cells trained, 0 failed, 1 left" in capsys.readouterr().out


def test_a_half_written_line_is_no_cell_and_harms_no_other(tmp_path):
    results = tmp_path / "rows.jsonl"
    append(results, {"cell": {"a": 1, "b": 2}, "error": 1.0})
    with open(results, "a") as file:
        file.write(json.dumps({"cell": {"a": 2}})[:9])
    append(results, {"cell": {"a": 3}, "error": 3.0})
    assert [row["error"] for row in read_rows(results)] == [1.0, 3.0]
    assert key({"b": 2, "a": 1}) == key({"a": 1, "b": 2})


def test_paired_differences_against_scipys():
    from scipy.stats import ttest_1samp

    values = [-1.0, -2.5, 0.3, -1.7, -0.9]
    found, expected = paired(values), ttest_1samp(values, 0)
    assert found["n"] == 5
    assert found["mean"] == pytest.approx(-1.16)
    assert found["p"] == pytest.approx(expected.pvalue, abs=1e-4)
    low, high = expected.confidence_interval(0.95)
    assert found["interval"] == pytest.approx([low, high], abs=1e-3)
    assert paired([2.0]) == {"n": 1, "mean": 2.0}
    assert paired([1.0, 1.0])["p"] == 0.0
