import json
from pathlib import Path

import pytest

from coterie import UserError
from coterie.cli import main
from coterie.studies.backbones import Row, backbones, family_names, smallest
from coterie.studies.rows import load_rows, save_rows
from coterie.studies.sweep import SweepRow, architectures, condensed, sweep


def test_a_network_that_branches_exactly_passes():
    (row,) = backbones([("resnet", "timm/resnet10t")])
    assert row.passed
    assert row.reason == ""
    assert (row.at, row.image_size, row.crossing) == ("layer4", 64, 1)
    assert row.drop == ("drop_rate", "drop_path_rate")
    assert 0.05 < row.tail_flops < 0.5 < row.tail_parameters


def test_what_does_not_is_told_and_the_study_goes_on():
    failed, passed = backbones([("none", "timm/no_such_network"), ("torchvision", "torchvision/squeezenet1_1")])
    assert not failed.passed
    assert "no_such_network" in failed.reason
    assert passed.passed


def test_the_smallest_of_each_family():
    assert len(family_names()) > 90
    assert smallest("vision_transformer_sam").startswith("samvit_base")
    assert smallest("gemma4_vit") == "gemma4_vit_167m"


def test_a_sweep_counts_and_stops_what_takes_too_long():
    assert len(architectures()) > 1300
    rows = list(sweep([("resnet", "resnet10t"), ("deepseek_vit", "deepseek_vit_412m_enc")]))
    rows += sweep([("resnet", "resnet18")], seconds=1e-3)
    assert rows[0].at == "layer4"
    assert "logits of shape" in rows[1].reason
    assert "took longer than 0.001 s" in rows[2].reason
    found = condensed(rows)
    assert (found["branched"], found["traced"], found["of"]) == (1, 1, 3)
    assert found["families"] == {"resnet": [1, 2], "deepseek_vit": [0, 1]}
    assert [row.name for row in found["failures"]] == ["deepseek_vit_412m_enc", "resnet18"]


def test_the_command_goes_on_where_it_stopped(tmp_path, capsys):
    out = tmp_path / "rows.json"
    main(["study", "backbones", "--only", "torchvision/squeezenet1_1", "--out", str(out)])
    shown = capsys.readouterr().out
    assert "torchvision's classifiers: 1 of 1" in shown
    (row,) = load_rows(out, Row)
    assert row.name == "torchvision/squeezenet1_1"
    # a row that is there is kept
    text = out.read_text().replace(f'"seconds": {row.seconds}', '"seconds": 12345.0')
    out.write_text(text)
    main(["study", "backbones", "--only", "torchvision/squeezenet1_1", "--out", str(out)])
    assert load_rows(out, Row)[0].seconds == 12345.0

    swept = tmp_path / "sweep.json"
    main(["study", "backbones", "--sweep", "--only", "timm/resnet10t$", "--out", str(swept)])
    assert "1 of 1 architectures branch, 1 of them by a trace" in capsys.readouterr().out
    found = json.loads(swept.read_text())
    assert found.pop("seconds") >= 0
    assert found == {
        "command": "coterie study backbones --sweep --only 'timm/resnet10t$'",
        **{"branched": 1, "traced": 1, "of": 1, "families": {"resnet": [1, 1]}, "rows": []},
    }
    committed = json.loads((Path(__file__).parent.parent / "docs/results/backbones-sweep.json").read_text())
    assert committed.keys() == {*found, "seconds"}
    # What branches is counted only, so that nothing can be gone on with.
    with pytest.raises(UserError, match="this study is finished; name another file"):
        load_rows(swept, SweepRow)


def test_a_stopped_sweep_goes_on_and_is_written_where_it_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    kept = SweepRow("resnet", "resnet10t", at="of an earlier run", seconds=12345.0)
    save_rows(Path("backbones-sweep.json"), [kept, SweepRow("none", "broken", reason="it is")])
    main(["study", "backbones", "--sweep", "--only", "timm/resnet10t$"])
    assert "written to backbones-sweep.json" in capsys.readouterr().out
    found = json.loads(Path("backbones-sweep.json").read_text())
    assert (found["branched"], found["of"], found["seconds"]) == (1, 2, 12345)
    assert [row["name"] for row in found["rows"]] == ["broken"]


def test_without_a_file_the_study_is_written_to_the_one_that_the_help_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("coterie.cli.backbones.backbones.backbones", lambda names: iter([Row(*names[0])]))
    main(["study", "backbones", "--only", "torchvision/squeezenet1_1"])
    assert [row.name for row in load_rows(tmp_path / "backbones.json", Row)] == ["torchvision/squeezenet1_1"]


def test_mistakes(tmp_path):
    broken = tmp_path / "x.json"
    broken.write_text(json.dumps({"rows": [{"nothing": 1}]}))
    with pytest.raises(UserError, match="not a table of this study"):
        load_rows(broken, Row)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["backbone"], "did you mean"),
        (["backbones", "--only", "("], "--only ("),
        (["backbones", "--only", "resent"], "--only resent: no network; they are named as timm/resnet"),
        (["backbones", "--sweep", "--only", "resent"], "--only resent: no network; they are named as timm/resnet"),
        (["backbones", "--plan"], "--plan is no option of the study 'backbones'; leave it out"),
        (["backbones", "--smoke"], "--smoke is no option"),
        (["backbones", "--seeds", "2"], "--seeds is no option"),
        (["backbones", "--workers", "2"], "--workers is no option"),
        (["backbones", "--ray", "local"], "--ray is no option"),
        (["backbones", "--scale", "paper"], "--scale is no option"),
        (["backbones", "--sweep", "--runs", "there"], "--runs is no option"),
    ],
)
def test_a_wrong_study_is_refused_in_one_line(words, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["study", *words])
    assert stop.value.code == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
