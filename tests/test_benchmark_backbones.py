import json
from pathlib import Path

import pytest

import backbones
from backbone_checks import CheckedBackbone, check_backbones, find_smallest, list_families
from backbone_sweep import SweptBackbone, condense, list_architectures, sweep_backbones
from backbones import load_backbones, main, save_backbones
from coterie import UserError


def test_a_network_that_branches_exactly_passes():
    (row,) = check_backbones([("resnet", "timm/resnet10t")])
    assert row.passed
    assert row.reason == ""
    assert (row.at, row.image_size, row.crossing) == ("layer4", 64, 1)
    assert row.drop == ("drop_rate", "drop_path_rate")
    assert 0.05 < row.tail_flops < 0.5 < row.tail_parameters


def test_what_does_not_is_told_and_the_study_goes_on():
    failed, passed = check_backbones([("none", "timm/no_such_network"), ("torchvision", "torchvision/squeezenet1_1")])
    assert not failed.passed
    assert "no_such_network" in failed.reason
    assert passed.passed


def test_the_smallest_of_each_family():
    assert len(list_families()) > 90
    assert find_smallest("vision_transformer_sam").startswith("samvit_base")
    assert find_smallest("gemma4_vit") == "gemma4_vit_167m"


def test_a_sweep_counts_and_stops_what_takes_too_long():
    assert len(list_architectures()) > 1300
    rows = list(sweep_backbones([("resnet", "resnet10t"), ("deepseek_vit", "deepseek_vit_412m_enc")]))
    rows += sweep_backbones([("resnet", "resnet18")], seconds=1e-3)
    assert rows[0].at == "layer4"
    assert "logits of shape" in rows[1].reason
    assert "took longer than 0.001 s" in rows[2].reason
    found, failures = condense(rows)
    assert (found["branched"], found["traced"], found["of"]) == (1, 1, 3)
    assert found["families"] == {"resnet": [1, 2], "deepseek_vit": [0, 1]}
    assert [row.name for row in failures] == ["deepseek_vit_412m_enc", "resnet18"]


def test_the_command_goes_on_where_it_stopped(tmp_path, capsys):
    out = tmp_path / "rows.json"
    main(["--only", "torchvision/squeezenet1_1", "--out", str(out)])
    shown = capsys.readouterr().out
    assert "torchvision's classifiers: 1 of 1" in shown
    (row,) = load_backbones(out, CheckedBackbone)
    assert row.name == "torchvision/squeezenet1_1"
    # a row that is there is kept
    text = out.read_text().replace(f'"seconds": {row.seconds}', '"seconds": 12345.0')
    out.write_text(text)
    main(["--only", "torchvision/squeezenet1_1", "--out", str(out)])
    assert load_backbones(out, CheckedBackbone)[0].seconds == 12345.0

    swept = tmp_path / "sweep.json"
    main(["--sweep", "--only", "timm/resnet10t$", "--out", str(swept)])
    assert "1 of 1 architectures branch, 1 of them by a trace" in capsys.readouterr().out
    found = json.loads(swept.read_text())
    assert found.pop("seconds") >= 0
    assert found == {
        "command": "python benchmarks/backbones.py --sweep --only 'timm/resnet10t$'",
        **{"branched": 1, "traced": 1, "of": 1, "families": {"resnet": [1, 1]}, "rows": []},
    }
    committed = json.loads((Path(__file__).parent.parent / "docs/results/backbones-sweep.json").read_text())
    assert committed.keys() == {*found, "seconds"}
    # What branches is counted only, so that nothing can be gone on with.
    with pytest.raises(UserError, match="this benchmark is finished; name another file"):
        load_backbones(swept, SweptBackbone)


def test_a_stopped_sweep_goes_on_and_is_written_where_it_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    kept = SweptBackbone("resnet", "resnet10t", at="of an earlier run", seconds=12345.0)
    save_backbones(Path("backbones-sweep.json"), [kept, SweptBackbone("none", "broken", reason="it is")])
    main(["--sweep", "--only", "timm/resnet10t$"])
    assert "written to backbones-sweep.json" in capsys.readouterr().out
    found = json.loads(Path("backbones-sweep.json").read_text())
    assert (found["branched"], found["of"], found["seconds"]) == (1, 2, 12345)
    assert [row["name"] for row in found["rows"]] == ["broken"]


def test_without_a_file_the_study_is_written_to_the_one_that_the_help_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(backbones, "check_backbones", lambda names: iter([CheckedBackbone(*names[0])]))
    main(["--only", "torchvision/squeezenet1_1"])
    assert [row.name for row in load_backbones(tmp_path / "backbones.json", CheckedBackbone)] == [
        "torchvision/squeezenet1_1"
    ]


def test_mistakes(tmp_path):
    broken = tmp_path / "x.json"
    broken.write_text(json.dumps({"rows": [{"nothing": 1}]}))
    with pytest.raises(UserError, match="not a table of this benchmark"):
        load_backbones(broken, CheckedBackbone)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--only", "("], "--only '(': no regular expression"),
        (["--only", "resent"], "--only resent: no network; they are named as timm/resnet"),
        (["--sweep", "--only", "resent"], "--only resent: no network; they are named as timm/resnet"),
        (["--plan"], "unrecognized arguments: --plan"),
    ],
)
def test_a_wrong_word_is_refused_in_one_line(words, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
