"""``--smoke`` builds every distinct network and method once; ``--plan`` refuses what could not run."""

import pytest

import coterie
from coterie.cli import main
from coterie.data import DATASETS
from coterie.data.sources.fashion_mnist import CLASSES
from coterie.data.sources.glyphs import RECIPE
from coterie.studies.reading import load_study
from coterie.studies.smoke import try_trials
from test_studies_study import FIRST, SECOND, SMALL, arm, table, write


@pytest.fixture
def half():
    """The small scale with one table."""
    return SMALL | {"tables": [FIRST]}


def lines(path):
    return dict(try_trials(load_study(path).scale("small").trials()))


def refused(line, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["study", *line])
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    return said


def test_every_distinct_training_is_built_once_and_its_seeds_are_counted(tmp_path, capsys):
    main(["study", write(tmp_path / "s.yaml"), "--smoke"])
    assert capsys.readouterr().out.splitlines() == [
        "digits/resnet14/alone/0: runs; 1 more are built so",
        "digits/resnet8/kd/0: runs; 1 more are built so",
        "digits/resnet8/alone/0: runs; 1 more are built so",
    ]


def test_stages_have_the_length_that_they_will_have(tmp_path, half):
    """A training in cycles cannot have more of them than epochs."""
    arms = {"snapshot": {"method": {"name": "snapshot"}, "epochs": 20}}
    tables = [SECOND | {"arms": ["snapshot"]}]
    found = lines(write(tmp_path / "s.yaml", small=half | {"arms": arms, "tables": tables}))
    assert list(found.values()) == ["runs; 1 more are built so"]


def test_data_of_one_shape_share_what_is_built(tmp_path):
    data = {name: {"name": name, "root": "nowhere"} for name in ("cifar10", "svhn", "cifar100")}
    tables = [SECOND | {"data": list(data), "measures": []}]
    found = lines(write(tmp_path / "s.yaml", small={"seeds": 1, "data": data, "tables": tables}))
    assert found == {
        "cifar10/resnet8/alone/0": "runs; 1 more are built so",
        "cifar100/resnet8/alone/0": "runs",
    }


def test_teachers_of_teachers_are_built_too(tmp_path, half):
    arms = SMALL["arms"] | {"kd2": {"method": {"name": "kd", "teacher": "@kd"}}}
    found = lines(write(tmp_path / "s.yaml", small=half | {"arms": arms, "tables": [SECOND | {"arms": ["kd2"]}]}))
    assert list(found) == ["digits/resnet14/alone/0", "digits/resnet8/kd/0", "digits/resnet8/kd2/0"]
    assert {line.split(";")[0] for line in found.values()} == {"runs"}


def test_what_fails_is_said_and_the_rest_goes_on(tmp_path, half, capsys):
    arms = SMALL["arms"] | {
        "misspelt": {"method": {"name": "kd", "teacher": "@alone", "temprature": 2}},
        "taught": {"method": {"name": "kd", "teacher": "@misspelt"}},
        "member": {"method": {"name": "kd", "teacher": "@alone:ensemble"}},
    }
    data = SMALL["data"] | {"other": {"name": "digit"}, "few": {"name": "digits", "train_sample": 9}}
    trials = [
        *(("digits", "misspelt"), ("digits", "taught"), ("other", "alone"), ("few", "alone"), ("digits", "member")),
        ("digits", "alone"),
    ]
    tables = [{"name": "t", "data": [where], "networks": ["resnet8"], "arms": [arm]} for where, arm in trials]
    file = write(tmp_path / "s.yaml", small=half | {"seeds": 1, "arms": arms, "data": data, "tables": tables})
    said = refused([file, "--smoke"], capsys)
    assert said.out.splitlines() == [
        "digits/resnet8/alone/0: runs",
        "digits/resnet8/misspelt/0: failed: method: unknown option of method 'kd' 'temprature'; "
        "did you mean 'temperature'?",
        "digits/resnet8/taught/0: failed: its teacher digits/resnet8/misspelt/0: method: unknown option of method 'kd' "
        "'temprature'; did you mean 'temperature'?",
        "other/resnet8/alone/0: failed: unknown data set 'digit'; did you mean 'digits'?",
        "few/resnet8/alone/0: failed: unknown option of data 'digits' 'train_sample'; did you mean 'train_samples' or "
        "'test_samples' or 'name'?",
        "digits/resnet8/member/0: failed: unknown deliverable of digits/resnet8/alone/0 'ensemble'; known: target",
    ]
    assert said.err == "coterie: 5 trials failed, see above\n"


def test_a_network_that_wants_large_images_gets_them(tmp_path, half):
    networks = {"vit": {"name": "timm/test_vit"}, "vgg": {"name": "torchvision/alexnet"}}
    data = {"folder": {"name": "folder", "image_size": 96}}
    tables = [{"name": "t", "data": ["folder"], "networks": ["vgg", "vit"], "arms": ["alone"]}]
    found = lines(write(tmp_path / "s.yaml", small=half | {"networks": networks, "data": data, "tables": tables}))
    assert {line.split(";")[0] for line in found.values()} == {"runs"}


def test_grouped_students_are_built_as_the_papers_scale_has_them(tmp_path):
    """What the paper's scale has, on a smaller network with the same kind of convolution."""
    small = {
        "networks": {"grouped": {"name": "timm/test_resnet"}},
        "data": {"cifar10": {"name": "cifar10"}},
        "arms": {"oem": {"method": {"name": "oem", "num_students": 3}}},
        "tables": [{"name": "t", "data": ["cifar10"], "networks": ["grouped"], "arms": ["oem"]}],
    }
    assert list(lines(write(tmp_path / "s.yaml", small=small)).values()) == ["runs; 1 more are built so"]


def test_the_shapes_of_data_sets_are_what_is_loaded():
    digits = coterie.data.load("digits")
    assert DATASETS["digits"].shape == (len(digits.classes), digits.channels, digits.image_size[0])
    assert DATASETS["fashion_mnist"].shape[0] == len(CLASSES)
    assert DATASETS["glyphs"].shape[0] == len(RECIPE.classes)
    for name, entry in DATASETS.items():
        assert (entry.shape is None) == (name in ("folder", "csv"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (arm(method={"name": "vanila"}), "arm 'alone': method: unknown method 'vanila'; did you mean 'vanilla'?"),
        (
            arm(method={"name": "kd", "temprature": 2.0}),
            "arm 'alone': method: unknown option of method 'kd' 'temprature'; did you mean 'temperature'?",
        ),
        (arm(method={"name": "kd", "temperature": -1.0}), "arm 'alone': method: temperature is -1.0; use"),
        (arm(method={"name": "kd", "temperature": "2"}), "arm 'alone': method: temperature is '2'; write a"),
        (
            arm(method={"name": "one", "gate": "softmx"}),
            "arm 'alone': method: unknown gate 'softmx'; did you mean 'softmax'",
        ),
        (arm(method={"name": "vanilla", "epochs": {"trian": 3}}), "arm 'alone': unknown stage of epochs"),
        (arm(recipe={"name": "papr"}), "arm 'alone': unknown recipe 'papr'; did you mean 'paper'?"),
        (arm(recipe={"name": ["paper"]}), "arm 'alone': recipe is ['paper']; write text"),
        (arm(recipe={"name": "paper", "momentun": 0.5}), "unknown option of recipe 'paper' 'momentun'; did you mean"),
        (arm(recipe={"momentum": 2.0}), "arm 'alone': momentum is 2.0; use"),
        (arm(epochs=0), "arm 'alone': epochs is 0; use a number from 1"),
        (arm(batch_size=0), "arm 'alone': batch_size is 0; use 2 or more"),
        (arm(precision="fp8"), "arm 'alone': unknown precision 'fp8'"),
        (arm(experiment={"name": "theori"}), "small, arm 'alone'"),
        (
            {"small": {"networks": SMALL["networks"] | {"resnet8": {"name": "resnet9"}}}},
            "network 'resnet8': unknown network 'resnet9'",
        ),
        (
            {"small": {"networks": SMALL["networks"] | {"resnet8": {"name": "resnet8", "pretrain": True}}}},
            "network 'resnet8': unknown key of it 'pretrain'; did you mean 'pretrained'?",
        ),
        ({"small": {"data": {"digits": {"name": "digit"}}}}, "data set 'digits': unknown data set 'digit'; did you"),
        (
            {"small": {"data": {"digits": {"name": "digits", "train_sample": 9}}}},
            "data set 'digits': unknown option of data 'digits' 'train_sample'; did you mean 'train_samples'",
        ),
        (
            {"small": {"data": {"digits": {"name": "digits", "validation": 2.0}}}},
            "data set 'digits': validation is 2.0; use 0 or more and below 1",
        ),
        (table(minutes=-1), "table 'first', minutes is -1; use 0 or more"),
        (table(measures=["curves"]), "its table measures curves; give 'test_every' in the scale's common"),
    ],
)
def test_a_plan_refuses_what_could_not_run(tmp_path, changes, message, capsys):
    file = write(tmp_path / "s.yaml", **changes)
    said = refused([file, "--plan"], capsys)
    assert said.err.startswith(f"coterie: {file}: ")
    assert message in said.err
    assert said.out == ""


def test_nothing_is_trained_where_a_trial_could_not_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    file = write(tmp_path / "s.yaml", **arm(method={"name": "vanilla", "epochs": {"trian": 3}}))
    refused([file], capsys)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["s.yaml"]


def test_a_plan_says_of_which_arms_no_minutes_are_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["study", write(tmp_path / "s.yaml"), "--plan"])
    said = capsys.readouterr().out
    assert "no table says the minutes of alone: their trials count as 1 each\n" in said
    timed = [FIRST, SECOND | {"minutes": 2.5}]
    found = {
        trial.name: trial
        for trial in load_study(write(tmp_path / "t.yaml", small={"tables": timed})).scale("small").trials()
    }
    assert found["digits/resnet8/alone/0"].minutes == 2.5  # of the table that says them
    assert not found["digits/resnet14/alone/0"].timed  # a teacher that no table names
    main(["study", write(tmp_path / "u.yaml", small={"tables": [FIRST | {"minutes": 2.5}]}), "--plan"])
    assert "no table says" not in capsys.readouterr().out


@pytest.mark.parametrize("name", coterie.studies.reading.study_names())
def test_the_studies_say_their_minutes(name):
    for scale in load_study(name).scales.values():
        assert [trial.name for trial in scale.trials() if not trial.timed] == []
