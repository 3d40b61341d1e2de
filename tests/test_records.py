"""Runs and exported files that came from elsewhere: whatever is wrong in them is one line that names file and field."""

import copy
import json
import os
import random
import shutil
import subprocess
import sys
import warnings

import onnx
import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

import coterie
from coterie.errors import UserError
from coterie.files import read_text
from coterie.metrics import read_metrics
from coterie.records import read_card
from coterie.run import Run, open_exported

NOT_A_CARD = ["[]", "1", "null", "{}", '"x"', "{", "[" * 3000, "NaN", "\x00"]
VALUES = [None, True, -1, 0, 10**9, 1e308, "", "x", "../../x", [], [1], {}, {"a": {"b": []}}, [[[]]], "2024-13-01"]


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a finished Run, to be damaged."""
    shutil.copytree(finished.path, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    return Run(tmp_path / "run")


def use(run):
    """Everything that reads a Run's records."""
    run = Run(run.path)
    run.network("ensemble")
    run.method()
    run.task()
    run.data()
    _ = run.confusions
    return run.metrics


def line_of(action):
    """The one line in which something is refused."""
    with pytest.raises(UserError) as refused:
        action()
    line = str(refused.value)
    assert "\n" not in line
    assert len(line) < 600, line
    return line


def refusal_of(action):
    """The line in which something is refused; None where it works. Anything else that it raises passes through."""
    try:
        action()
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize("text", NOT_A_CARD, ids=range(len(NOT_A_CARD)))
def test_what_is_no_card_is_refused_by_name(run, text):
    path = run.path / "model.json"
    path.write_text(text)
    assert str(path) in line_of(lambda: run.card)
    config = run.path / "config.yaml"
    config.write_text(text)
    assert str(config) in line_of(lambda: run.config)


def test_bytes_that_are_no_utf8_are_refused_by_name(run):
    for name in ("model.json", "config.yaml", "metrics.csv"):
        path = run.path / name
        path.write_bytes(path.read_bytes() + b"\xff")
    assert "model.json: holds bytes that are no UTF-8" in line_of(lambda: run.card)
    assert "config.yaml: holds bytes that are no UTF-8" in line_of(lambda: run.config)
    assert "metrics.csv: holds bytes that are no UTF-8" in line_of(lambda: run.metrics)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"classes": []}, "classes is empty"),
        ({"channels": 7}, "channels is 7; write 1 or 3"),
        ({"image_size": [8]}, "image_size has 1 values; write 2"),
        ({"image_size": [10**9, 10**9]}, "image_size, item 1 is 1000000000; use"),
        ({"std": [0.0]}, "std, item 1 is 0.0; use a number above 0"),
        ({"mean": [0.5, 0.5]}, "mean has 2 values; write 1, one a channel"),
        ({"deliverables": ["../../secret"]}, "deliverables has '../../secret'; write a plain name"),
        ({"format": 3}, "written by coterie"),
        ({"cost": {"target": {"parameters": "many", "flops": 1}}}, "cost, target, parameters is 'many'"),
    ],
    ids=str,
)
def test_a_cards_wrong_field_is_named(run, change, said):
    path = run.path / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    line = line_of(lambda: read_card(path))
    assert line.startswith(str(path))
    assert said in line


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"epochs": 0}, "epochs is 0; use 1 or more"),
        ({"method": {"name": "on"}}, "method: unknown method 'on'; did you mean"),
        ({"method": {"name": "one", "gat": "x"}}, "method: unknown option of method 'one' 'gat'; did you mean 'gate'"),
        ({"method": {"name": "one", "gate": "x"}}, "method: unknown gate 'x'"),
        ({"method": {}}, "method: 'name' is missing"),
        ({"data": []}, "data is []; write a mapping"),
        ({"network": {"nam": "x"}}, "network 'nam'; did you mean 'name'"),
    ],
    ids=str,
)
def test_a_configurations_wrong_field_is_named(run, change, said):
    path = run.path / "config.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **change}))
    line = line_of(lambda: use(run))
    assert str(path) in line
    assert said in line


@pytest.mark.parametrize("data", [{}, None])
def test_a_run_on_data_of_ones_own_asks_for_them(run, data):
    path = run.path / "config.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "data": data}))
    assert line_of(lambda: use(run)) == f"{run.path}: trained on data of yours; open it with Run(path, data=them)"


def mutate(content, generator):
    """A copy with one thing changed anywhere in it: removed, or another value."""
    content = copy.deepcopy(content)
    place = content
    while True:
        key = generator.choice(list(place) if isinstance(place, dict) else range(len(place)))
        if not isinstance(place[key], dict | list) or not place[key] or generator.random() < 0.3:
            break
        place = place[key]
    if isinstance(place, dict) and generator.random() < 0.3:
        del place[key]
    else:
        place[key] = generator.choice(VALUES)
    return content


def test_two_hundred_mutated_runs_work_or_are_refused_in_a_line(run):
    generator = random.Random(0)
    card, config = run.path / "model.json", run.path / "config.yaml"
    whole = json.loads(card.read_text()), yaml.safe_load(config.read_text())
    refused = 0
    for number in range(200):
        content = (mutate(whole[0], generator), whole[1]) if number % 2 else (whole[0], mutate(whole[1], generator))
        card.write_text(json.dumps(content[0]))
        config.write_text(yaml.safe_dump(content[1]))
        line = refusal_of(lambda: use(run))
        refused += line is not None
        assert line is None or "\n" not in line, content
    assert 50 < refused < 200


@pytest.mark.libraries
def test_an_exported_files_mutated_card_works_or_is_refused_in_a_line(finished, tmp_path):
    generator, file = random.Random(1), tmp_path / "m.safetensors"
    coterie.export(finished, "safetensors", file)
    # Copies: what is loaded maps the file, which is written over.
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    card, refused = json.loads((tmp_path / "m.safetensors.json").read_text()), 0
    for text in [*NOT_A_CARD, *(json.dumps(mutate(card, generator)) for _ in range(60))]:
        save_file(tensors, file, metadata={"coterie": text})
        line = refusal_of(lambda: open_exported(file))
        refused += line is not None
        assert line is None or ("\n" not in line and str(file) in line), text
    assert refused > 20


def test_an_onnx_file_whose_card_does_not_fit_is_refused(finished, tmp_path):
    file, image = tmp_path / "m.onnx", tmp_path / "digit.png"
    Image.new("L", (8, 8)).save(image)
    coterie.export(finished, "onnx", file)
    model, card = onnx.load(file), json.loads((tmp_path / "m.onnx.json").read_text())
    for change, said in (
        ({"classes": list("abc")}, "gives [1, 10] for 1 images, and its card has 3 classes"),
        ({"channels": 3, "mean": [0] * 3, "std": [1] * 3}, "cannot be run on images of its card"),
        ({"image_size": [9, 9]}, "cannot be run on images of its card"),
        ({"student": "nobody"}, "student is no deliverable"),
        ({"std": [0]}, "std, item 1 is 0"),
    ):
        onnx.helper.set_model_props(model, {"coterie": json.dumps({**card, **change})})
        onnx.save(model, file)
        line = line_of(lambda: coterie.predict(file, image))
        assert str(file) in line
        assert said in line


def test_a_damaged_table_of_metrics_names_file_and_line(run):
    path = run.path / "metrics.csv"
    head, first, *rest = path.read_text().splitlines()
    for text, said in (
        ("epoch,loss\n1,2", "line 2: 'stage' or 'epoch' is missing"),
        ("\n".join([head, first.replace(",1,", ",one,", 1), *rest]), "line 2: epoch is 'one'"),
        (f'{head}\n"', "line 2"),
    ):
        path.write_text(text)
        line = line_of(lambda: read_metrics(path))
        assert line.startswith(str(path))
        assert said in line


def test_a_run_gives_one_model_and_the_target_needs_no_branches(finished, monkeypatch):
    run = Run(finished.path)
    monkeypatch.setattr(coterie.methods.One, "stages", lambda *_: pytest.fail("the plain target was branched"))
    assert run.model is run.model
    assert run.network() is not run.model
    assert repr(run) == f"Run({str(finished.path)!r})"


def test_functions_of_runs_take_a_folder_too_and_refuse_other_things(finished, tmp_path):
    assert coterie.evaluate(str(finished.path)) == coterie.evaluate(finished)
    assert coterie.report(finished.path, tmp_path / "r.html").is_file()
    assert "run is 3; give a coterie.Run" in line_of(lambda: coterie.evaluate(3))
    assert "not a Run folder" in line_of(lambda: coterie.export("nowhere", "onnx", tmp_path / "x.onnx"))


def test_names_in_place_of_objects_are_refused_with_what_makes_the_object(digits, tmp_path):
    one, out = coterie.methods.One(network="resnet8"), tmp_path / "run"
    assert "method is 'one'; give a method, for example" in line_of(lambda: coterie.train("one", digits, out=out))
    assert "data is 'digits'; give what coterie.data.load" in line_of(lambda: coterie.train(one, "digits", out=out))
    line = line_of(lambda: coterie.train(one, digits, out=out, recipe="transformer"))
    assert "recipe is 'transformer'; give a recipe, for example coterie.training.Transformer()" in line
    assert "unknown precision 'fp16'" in line_of(lambda: coterie.train(one, digits, out=out, precision="fp16"))
    assert not out.exists()


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_weights_that_are_no_file_are_refused_at_once(kind, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    # A child: a pipe that is opened waits for ever, and no test may.
    code = f"from coterie.networks import Backbone; Backbone('resnet8', weights={str(path)!r}).build(10, 1, (8, 8))"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert child.stderr.splitlines()[-1].endswith(f"{path}: is no file; check weights")


def test_a_pipe_in_place_of_a_text_is_named_once(tmp_path):
    os.mkfifo(tmp_path / "study.yaml")
    with pytest.raises(UserError) as refused:
        read_text(tmp_path / "study.yaml", "name a YAML file")
    assert str(refused.value) == f"{tmp_path / 'study.yaml'}: is no file; name a YAML file"


@pytest.mark.parametrize("out", ["", ".", "/"])
def test_an_export_onto_a_folder_is_refused(out, finished):
    with pytest.raises(UserError, match="is a folder; name a file in it"):
        coterie.export(finished, "onnx", out)


def test_a_run_without_metrics_is_reported_without_warnings(run, tmp_path):
    (run.path / "metrics.csv").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        coterie.report([run], tmp_path / "page.html")
