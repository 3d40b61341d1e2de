"""What the report says of each class, of the data and of the training; and what Runs keep for it."""

import html
import json
import re
import shutil
from datetime import UTC, date, datetime

import numpy as np
import pytest
import torch

import coterie
from coterie.evaluation import confusion, wilson
from coterie.recipes import Recipe
from coterie.reports import classes as classes_room
from resuming import cut_and_resumed
from test_report import train_copy


def section_of(text, title):
    """The part of a page under a heading."""
    start = text.index(f"<h2>{title}</h2>")
    return html.unescape(text[start : text.index("<h2>", start + 4)])


def rows_of(part):
    """The cells of a table's rows, header first."""
    rows = re.findall(r"<tr>(.*?)</tr>", part, re.DOTALL)
    return [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in rows]


def facts_of(part):
    return dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", part))


@pytest.fixture(scope="module")
def second(digits, tmp_path_factory):
    """The run ``finished`` again, of another seed."""
    method = coterie.methods.One(network="resnet8")
    out = tmp_path_factory.mktemp("second") / "one"
    return coterie.train(method, digits, recipe=Recipe(), epochs=2, seed=1, out=out, progress=False)


def test_each_class_has_the_figures_of_evaluate_the_hardest_first(finished, tmp_path):
    part = section_of(coterie.report(finished, tmp_path / "r.html").read_text(), "Classes")
    header, *rows = rows_of(part)
    assert header[:4] == ["class", "test images", "recall %, one target", "precision %, one target"]
    assert header[4:] == ["recall %, one ensemble", "precision %, one ensemble", "one target takes it for"]
    worst = [float(row[2].split(" ")[0]) for row in rows]
    assert worst == sorted(worst)
    for place, student in ((2, "target"), (4, "ensemble")):
        figures = {each.name: each for each in coterie.measure(finished, student=student).classes}
        assert {row[0] for row in rows} == figures.keys()
        for row in rows:
            of = figures[row[0]]
            low, high = of.recall_interval
            assert row[place] == f"{of.recall:.1f} [{low:.1f}, {high:.1f}]"
            assert row[place + 1] == ("–" if of.precision is None else f"{of.precision:.1f}")
            assert row[1] == str(of.images)


def test_the_worst_classes_are_said_in_words(finished, tmp_path):
    part = section_of(coterie.report(finished, tmp_path / "r.html").read_text(), "Classes")
    counts, rows = finished.confusions["target"], rows_of(part)[1:]
    lines = re.findall(r"<li>(.*?)</li>", part)
    assert [line.split(":")[0] for line in lines] == [row[0] for row in rows[:5]]
    index = int(rows[0][0])
    others = counts[index].clone()
    others[index] = 0
    said = f"{index}: {others.max()} of {counts[index].sum()} taken for {others.argmax()}"
    assert lines[0].startswith(said)
    assert rows[0][-1].startswith(f"{others.argmax()} {others.max()}×")


def test_several_seeds_are_means_side_by_side_with_other_methods(finished, second, alone, tmp_path):
    part = section_of(coterie.report([alone, finished, second], tmp_path / "r.html").read_text(), "Classes")
    header, *rows = rows_of(part)
    assert [name for name in header if name.startswith("recall")] == [
        *("recall %, one target", "recall %, one ensemble", "recall %, alone")
    ]
    right = sum(run.confusions["target"] for run in (finished, second)).diagonal()
    for row in rows:
        index = int(row[0])
        images = int(finished.confusions["target"][index].sum())
        low, high = wilson(right[index].item() / 2, images)  # the same images twice are no further images
        assert row[2] == f"{50 * right[index] / images:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        assert int(row[1]) == images
    assert "2 seeds together" in part


def test_more_classes_than_fit_are_behind_a_click(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(classes_room, "_SHOWN", 4)
    part = section_of(coterie.report(finished, tmp_path / "r.html").read_text(), "Classes")
    assert len(rows_of(part[: part.index("<details>")])) == 5
    assert "<summary>6 more</summary>" in part


def test_a_run_keeps_what_its_deliverables_took_for_what(finished):
    data = finished.data()
    assert finished.confusions.keys() == {"target", "ensemble"}
    for student, counts in finished.confusions.items():
        network = finished.network(student)
        batches = coterie.data.evaluation_batches(data, data.test)
        said = coterie.evaluation.predict_batches(network, batches)
        logits = said.logits[:, 0] if said.ensemble is None else said.ensemble
        assert torch.equal(counts, confusion(logits, said.labels))
        error = 100 * (1 - counts.diagonal().sum() / counts.sum())
        assert error.item() == pytest.approx(finished.card["test"][student]["error"], abs=1e-4)


def test_without_images_the_classes_are_those_of_the_runs_end(moved, tmp_path):
    run, _ = moved
    text = coterie.report(run, tmp_path / "r.html").read_text()
    counts = run.confusions["target"]
    for row in rows_of(section_of(text, "Classes"))[1:]:
        index = run.card["classes"].index(row[0])
        assert row[1] == str(int(counts[index].sum()))
    assert "<h2>Confusions</h2>" in text


def test_an_older_run_is_counted_where_its_images_are_there_and_says_so_where_not(finished, moved, tmp_path):
    whole = section_of(coterie.report(finished, tmp_path / "r.html").read_text(), "Classes")
    old = train_copy(finished, tmp_path / "old")
    (old.path / "confusions.json").unlink()
    assert old.confusions == {}
    assert section_of(coterie.report(old, tmp_path / "r.html").read_text(), "Classes") == whole
    shutil.copytree(moved[0].path, tmp_path / "gone")
    (tmp_path / "gone" / "confusions.json").unlink()
    text = html.unescape(coterie.report(tmp_path / "gone", tmp_path / "r.html").read_text())
    assert "<h2>Classes</h2>" not in text
    assert "calibration, confusions, figures of each class and pictures, which need the images" in text
    assert "An older version trained: confusions.json, which has the counts, is not there." in text


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"counts": {"target": [[0, 0, 0]]}}', '{"counts": {"target": [[0, 99, 1]]}}']
)
def test_a_damaged_record_is_refused_in_a_line(text, finished, tmp_path):
    run = train_copy(finished, tmp_path / "run")
    (run.path / "confusions.json").write_text(text)
    with pytest.raises(coterie.UserError, match=r"confusions\.json") as refused:
        coterie.report(run, tmp_path / "r.html")
    assert "\n" not in str(refused.value)


def test_the_page_says_what_was_trained_on_and_how(finished, tmp_path):
    text = coterie.report(finished, tmp_path / "r.html").read_text()
    facts, card = facts_of(section_of(text, "Data and training")), finished.card
    assert facts["data"] == "digits"
    assert facts["classes"] == "10"
    assert facts["images"] == "160 training, 100 test"
    assert facts["image size"] == "8 × 8 pixels, grey"
    assert facts["training images of a class"] == "16"
    assert (facts["recipe"], facts["batch"], facts["epochs"], facts["seed"]) == ("short", "128", "2", "0")
    assert facts["computed on"] == f"cpu, {finished.config['precision']}, 1 CPU thread"
    assert facts["parameters"] == f"{card['cost']['target']['parameters']:,}"
    size = (finished.path / "model.safetensors").stat().st_size
    assert facts["file"] == f"{size / 1e6:.2f} MB"
    assert facts["trained with"] == f"coterie {coterie.__version__}, PyTorch {torch.__version__}"
    assert facts["seconds"] == f"{card['seconds']:.1f}"
    assert facts["ended"] == card["ended"][:16].replace("T", " ") + " UTC"
    assert f"Drawn {date.today().isoformat()} by coterie" in text


def test_what_differs_has_a_column_for_each(finished, alone, tmp_path):
    other = train_copy(finished, tmp_path / "small", batch_size=32)
    part = section_of(coterie.report([alone, other], tmp_path / "r.html").read_text(), "Data and training")
    header, *rows = rows_of(part)
    assert header == ["", "vanilla", "one"]
    assert ["batch", "128", "32"] in rows
    assert "batch" not in facts_of(part)
    assert facts_of(part)["recipe"] == "short"
    card = json.loads((other.path / "model.json").read_text())
    card["class_images"] = [16, 16, 1200, 16, 16, 16, 16, 3, 16, 16]
    (other.path / "model.json").write_text(json.dumps(card))
    facts = facts_of(section_of(coterie.report(other, tmp_path / "r.html").read_text(), "Data and training"))
    assert facts["training images of a class"] == "3 (7) to 1,200 (2)"


def test_facts_come_from_the_card_and_old_cards_have_fewer(moved, tmp_path):
    run, _ = moved  # its images are gone
    part = section_of(coterie.report(run, tmp_path / "r.html").read_text(), "Data and training")
    assert facts_of(part)["images"] == ", ".join(
        f"{run.card['images'][split]} {name}" for split, name in (("train", "training"), ("test", "test"))
    )
    shutil.copytree(run.path, tmp_path / "old")
    card = json.loads((run.path / "model.json").read_text())
    new = ("images", "class_images", "ended", "device", "torch")
    (tmp_path / "old/model.json").write_text(json.dumps({key: card[key] for key in card if key not in new}))
    facts = facts_of(section_of(coterie.report(tmp_path / "old", tmp_path / "r.html").read_text(), "Data and training"))
    assert not {"images", "training images of a class", "ended"} & facts.keys()
    assert facts["trained with"] == f"coterie {coterie.__version__}"


def test_the_card_says_when_and_on_what_also_of_a_resumed_run(digits, tmp_path):
    before = datetime.now(UTC).replace(microsecond=0)
    run = cut_and_resumed(lambda: coterie.methods.Vanilla(network="resnet8"), digits, tmp_path / "cut", "train", 1)
    card = run.card
    assert before <= datetime.fromisoformat(card["ended"]) <= datetime.now(UTC)
    assert (card["device"], card["torch"]) == ("cpu", torch.__version__)
    assert card["images"] == {"train": 160, "validation": 0, "test": 100}
    assert card["class_images"] == np.bincount(digits.train.labels, minlength=10).tolist()
    assert int(run.confusions["target"].sum()) == 100


def test_wrong_answers_are_shown_of_one_run(alone, finished, tmp_path):
    part = section_of(coterie.report(alone, tmp_path / "r.html").read_text(), "Wrong answers")
    counts = alone.confusions["target"]
    wrong = int(counts.sum() - counts.diagonal().sum())
    shown = re.findall(r"is <b>(.)</b><br>taken for: (.) (\d+)%", part)
    assert len(shown) == min(8, wrong) > 0
    assert all(counts[int(true), int(said)] and true != said for true, said, _ in shown)
    sure = [int(share) for _, _, share in shown]
    assert sure == sorted(sure, reverse=True)
    assert f"Of the {wrong} of 100 test images" in part
    assert "Wrong answers" not in coterie.report([alone, finished], tmp_path / "r.html").read_text()
