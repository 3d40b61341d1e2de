"""What is added from outside the package: found by name, trained, opened again, measured, drawn and exported."""

import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import yaml

import coterie
from coterie.cli import main
from coterie.errors import UserError
from coterie.methods import METHODS, Vanilla
from coterie.networks import NETWORKS, Backbone, build
from coterie.outputs import PeerOutput
from coterie.records import read_configuration

PACKAGE = Path(__file__).parent / "toy_package"
POINTS = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]["entry-points"]


def install(folder, points, name="toy-coterie"):
    """What pip writes down of a package, in a folder of the path."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = []
    for group, of in points.items():
        lines += [f"[{group}]", *(f"{key} = {value}" for key, value in of.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))


@pytest.fixture
def forgetful(monkeypatch):
    """Modules of the toy package are imported anew by every test."""
    before = set(sys.modules)
    yield
    for module in set(sys.modules) - before:
        if module.startswith(("toy_coterie", "broken_toy")):
            del sys.modules[module]


@pytest.fixture
def installed(tmp_path, monkeypatch, forgetful):
    """The toy package, installed."""
    install(tmp_path / "site", POINTS)
    monkeypatch.syspath_prepend(PACKAGE)
    monkeypatch.syspath_prepend(tmp_path / "site")


def refused(capsys, *arguments):
    """The one line of a user error."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


DIGITS = ["--data", "digits", "--data.train_samples", "100", "--epochs", "1", "--batch_size", "50"]


# By name


def test_what_an_installed_package_adds_is_listed_without_importing_it(installed, capsys):
    for what, name in (("methods", "smoothed"), ("methods", "medians"), ("networks", "tiny"), ("datasets", "stripes")):
        main(["list", what])
        (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"{name} ")]
        assert line.endswith("of the package toy-coterie 1.0")
    assert "toy_coterie" not in sys.modules
    assert {"smoothed", "one"} <= set(METHODS)
    assert "toy_coterie" not in sys.modules


def test_an_installed_method_and_network_go_the_whole_way(installed, tmp_path, capsys):
    out = tmp_path / "run"
    named = ["--method", "smoothed", "--method.smoothing", "0.2", "--network", "tiny"]
    main(["train", *named, *DIGITS, "--out", str(out)])
    assert yaml.safe_load((out / "config.yaml").read_text())["method"] == {
        "name": "smoothed", "epochs": {}, "smoothing": 0.2,
    }  # fmt: skip
    main(["evaluate", str(out)])
    main(["report", str(out), "--out", str(tmp_path / "report.html")])
    main(["export", str(out), "--out", str(tmp_path / "tiny.safetensors")])
    main(["train", "--config", str(out / "config.yaml"), "--out", str(tmp_path / "again")])
    printed = " ".join(capsys.readouterr().out.split())
    assert "largest difference 0" in printed
    assert coterie.Run(out).method() == coterie.Run(tmp_path / "again").method()


def test_without_the_package_its_names_are_unknown(capsys):
    assert "unknown method 'smoothed'" in refused(capsys, "train", "--method", "smoothed", *DIGITS)
    assert "unknown network 'tiny'" in refused(capsys, "train", "--network", "tiny", *DIGITS)


def test_a_network_that_breaks_its_contract_is_one_line(tmp_path, monkeypatch, forgetful):
    install(tmp_path, {"coterie.networks": {"odd": "broken_toy:ODD", "none": "broken_toy:NONE"}})
    text = "from coterie.networks import NetworkEntry\nODD = NetworkEntry(lambda classes: None, 'odd')\nNONE = 3\n"
    (tmp_path / "broken_toy.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="let it take num_classes= and in_channels="):
        build("odd")
    with pytest.raises(UserError, match=r"network 'none' of the package toy-coterie 1.0 .* is no .*NetworkEntry"):
        build("none")


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("one", "toy_coterie.smoothed:Smoothed", "adds a method 'one', which is one of coterie's own; uninstall it"),
        ("a b", "toy_coterie.smoothed:Smoothed", "its name may have letters, digits and -._"),
        ("gone", "toy_coterie.gone:Gone", "cannot be imported (ModuleNotFoundError: No module named"),
        ("gone", "toy_coterie.smoothed:Gone", "cannot be imported (AttributeError: "),
        ("other", "toy_coterie.smoothed:Smoothed", "is named 'smoothed'; name both alike"),
        ("step", "toy_coterie.smoothed:SmoothedStep", "is no method; write a dataclass"),
    ],
)  # fmt: skip
def test_a_wrong_entry_point_is_one_line_that_names_its_package(
    tmp_path, monkeypatch, forgetful, capsys, name, value, line
):
    install(tmp_path, {"coterie.methods": {name: value}})
    monkeypatch.syspath_prepend(PACKAGE)
    monkeypatch.syspath_prepend(tmp_path)
    error = refused(capsys, "train", "--method", name, *DIGITS)
    assert line in error
    assert "toy-coterie 1.0" in error
    main(["list", "methods"])  # whatever is wrong with one
    assert "vanilla" in capsys.readouterr().out


def test_two_packages_of_one_name_are_refused(tmp_path, monkeypatch, capsys):
    for package in ("toy-a", "toy-b"):
        install(tmp_path, {"coterie.methods": {"smoothed": "toy_coterie.smoothed:Smoothed"}}, package)
    monkeypatch.syspath_prepend(tmp_path)
    assert "the packages toy-a 1.0 and toy-b 1.0 each add a method 'smoothed'" in refused(
        capsys, "train", "--method", "smoothed", *DIGITS
    )


def test_a_package_changes_nothing_of_ours(installed):
    assert METHODS["vanilla"] is Vanilla
    assert list(METHODS)[: len(METHODS.own)] == list(METHODS.own)
    assert NETWORKS.get("unheard-of") is None
    assert len(METHODS) == len(METHODS.own) + 2


def test_an_installed_data_set_goes_the_whole_way_with_an_option_of_its_own(installed, tmp_path, capsys):
    out = tmp_path / "run"
    named = ["--data", "stripes", "--data.period", "3", "--network", "resnet8", "--method", "vanilla"]
    main(["train", *named, "--epochs", "1", "--batch_size", "16", "--out", str(out)])
    assert yaml.safe_load((out / "config.yaml").read_text())["data"]["period"] == 3
    main(["evaluate", str(out), "--split", "train"])
    main(["report", str(out), "--out", str(tmp_path / "report.html")])
    main(["export", str(out), "--out", str(tmp_path / "stripes.safetensors")])
    assert "largest difference 0" in " ".join(capsys.readouterr().out.split())
    assert coterie.Run(out).data().options["period"] == 3
    assert "unknown option --data.period" in refused(capsys, "train", *DIGITS, "--data.period", "3")
    with pytest.raises(UserError, match=r"period is 'x'; write a whole number"):
        coterie.data.load("stripes", period="x")
    with pytest.raises(UserError, match=r"unknown option of data 'stripes' 'perod'; did you mean 'period'"):
        coterie.data.load("stripes", perod=3)
    with pytest.raises(UserError, match=r"root: data 'stripes' has no such option; leave it out"):
        coterie.data.load("stripes", root=tmp_path)


def test_an_installed_online_method_brings_a_soft_target_an_aggregator_and_a_loss(installed, tmp_path, capsys):
    out = tmp_path / "run"
    main(["train", "--method", "medians", "--network", "resnet8", *DIGITS, "--out", str(out)])
    main(["evaluate", str(out), "--student", "ensemble"])
    main(["report", str(out), "--out", str(tmp_path / "report.html")])
    main(["export", str(out), "--student", "ensemble", "--out", str(tmp_path / "ensemble.safetensors")])
    assert "largest difference 0" in " ".join(capsys.readouterr().out.split())
    assert "the median of the logits" in (tmp_path / "report.html").read_text()
    logits = torch.tensor([[[3.0, 0.0], [1.0, 0.0], [0.0, 2.0]]])
    output = PeerOutput(logits, ensemble=logits[:, 0])
    terms = METHODS["medians"]().loss(output)(output, torch.tensor([0])).terms
    # The median is (1, 0): ((2² + 0²)/2 + 0 + (1² + 2²)/2) / T² = 4.5 / 9.
    assert terms["distillation"].item() == pytest.approx(0.5)
    composed = ["train", "--method", "online", "--network", "resnet8", *DIGITS, "--method.distillations"]
    for wrong, line in (
        ("[{source: medain}]", "unknown source of a distillation 'medain'; did you mean 'median' or 'mean'?"),
        ("[{loss: sqared}]", "unknown loss of a distillation 'sqared'; did you mean 'squared' or 'standardised'?"),
    ):
        assert line in refused(capsys, *composed, wrong)


# Objects of one's own


@dataclass(kw_only=True)
class Mine(Vanilla):
    """A method that no package adds, with an option that no file can hold."""

    name = "mine"
    summary = "toy"

    scale: Callable[[float], float] | None = None


@pytest.fixture(scope="module")
def own_run(tmp_path_factory):
    data = replace(coterie.data.load("digits", train_samples=100, test_samples=50), name="own", options={})
    out = tmp_path_factory.mktemp("own") / "run"
    method = Mine(network="resnet8")
    run = coterie.train(method, data, epochs=1, batch_size=50, out=out, progress=False)
    return run.path, data


def test_a_run_of_ones_own_method_and_data_opens_again(own_run, tmp_path):
    path, data = own_run
    assert read_configuration(path / "config.yaml")["data"] is None
    for place, method in enumerate((Mine, Mine(network="resnet8"))):
        run = coterie.Run(path, method=method, data=data)
        assert run.data() is data
        assert run.method() == Mine(network=Backbone("resnet8"))
        error = coterie.evaluate(run)["error"]
        assert error == pytest.approx(run.card["test"]["target"]["error"], abs=1e-3)
        assert coterie.report([run], tmp_path / "report.html").is_file()
        assert coterie.export(run, "safetensors", tmp_path / f"{place}.safetensors").difference == 0


def test_what_a_run_of_ones_own_objects_lacks_is_one_line(own_run):
    path, data = own_run
    with pytest.raises(UserError, match=r"trained on data of yours; open it with Run\(path, data=them\)"):
        coterie.evaluate(coterie.Run(path))
    with pytest.raises(UserError, match=r"config.yaml, method: unknown method 'mine'"):
        coterie.Run(path).method()
    with pytest.raises(UserError, match="the method is 'mine', and vanilla was given; give the class"):
        coterie.Run(path, method=Vanilla).method()
    with pytest.raises(UserError, match="seed: the data are an object of your own; leave it out"):
        coterie.Run(path, data=data).data(seed=1)
    assert coterie.Run(path, data=data).data(name="digits").name == "digits"


def test_the_command_line_imports_a_method_that_it_names_and_a_file_does_not(tmp_path, monkeypatch, forgetful, capsys):
    monkeypatch.syspath_prepend(PACKAGE)
    monkeypatch.chdir(tmp_path)
    place = "toy_coterie.smoothed:Smoothed"
    start = ["train", "--network", "resnet8", "--out", "run"]
    main([*start, "--method", place, "--method.smoothing", "0.2", *DIGITS])
    assert coterie.Run("run").config["method"] == {"name": "smoothed", "epochs": {}, "smoothing": 0.2}
    main([*start, "--method", place, "--resume"])  # with the options of the run's file
    for command in (["evaluate", "run"], ["report", "run"], ["export", "run", "--out", "a.safetensors"]):
        main([*command, "--method", place])
    capsys.readouterr()
    Path("stranger.yaml").write_text(f"method: {place}\n")
    line = refused(capsys, "train", "--config", "stranger.yaml", *DIGITS)
    assert line.startswith(f"coterie: stranger.yaml: method '{place}' names code to import, which no file may")
    Path("stranger.yaml").write_text(f"method:\n  name: {place}\n")
    assert "names code to import" in refused(capsys, "train", "--config", "stranger.yaml", *DIGITS)
    config = Path("run/config.yaml")
    config.write_text(config.read_text().replace("name: smoothed", f"name: {place}"))
    with pytest.raises(UserError, match="names code to import, which no file may"):
        coterie.Run("run").method()


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("nowhere.at.all:Toy", "--method nowhere.at.all:Toy cannot be imported (ModuleNotFoundError"),
        ("toy_coterie.smoothed:Gone", "cannot be imported (AttributeError"),
        ("toy_coterie.smoothed:SmoothedStep", "is no method; write a dataclass"),
    ],
)
def test_a_wrong_place_of_a_method_is_one_line(monkeypatch, forgetful, capsys, place, line):
    monkeypatch.syspath_prepend(PACKAGE)
    assert line in refused(capsys, "train", "--method", place, *DIGITS)
