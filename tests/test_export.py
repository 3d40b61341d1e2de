"""Every format gives what the network gives, opened without coterie and with it; what does not fit is refused."""

import io
import json
import pathlib
import shutil
import zipfile

import pytest
import torch
from PIL import Image

import coterie
from coterie import UserError
from coterie.cli import main
from coterie.deploy import bench, measure
from coterie.deploy.formats import fresh, graph, program, timm_folder, weights
from exporting import NETWORKS, run_here

ENDINGS = {"safetensors": ".safetensors", "onnx": ".onnx", "torch-export": ".pt2", "timm": ""}


@pytest.fixture
def here(monkeypatch):
    for module in (graph, program, timm_folder, weights):
        monkeypatch.setattr(module, "run_afresh", run_here)


@pytest.mark.libraries
@pytest.mark.parametrize("family", ["cifar resnet", *NETWORKS])
def test_every_format_gives_what_the_network_gives(family, run_named, tmp_path, here):
    run = run_named(*NETWORKS.get(family, ("resnet8", 3)))
    images = torch.rand(5, *(run.card["channels"], 32, 32), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = run.model(images)
    for format, ending in ENDINGS.items():
        if format == "timm" and family == "cifar resnet":
            continue
        done = coterie.export(run, format, tmp_path / f"net{ending}")
        assert (done.images, done.agreement, done.error_change) == (50, 1.0, 0.0)
        for part in (images, images[:1]):
            given = coterie.deploy.open_source(done.path).answer(part)
            torch.testing.assert_close(given, expected[: len(part)], atol=1e-4, rtol=0)
        card = done.path / "coterie.json" if format == "timm" else tmp_path / f"net{ending}.json"
        assert json.loads(card.read_text())["checked"]["images"] == 50


@pytest.fixture(scope="module")
def program_file(finished, tmp_path_factory):
    """Opened in a process of its own."""
    return coterie.export(finished, "torch-export", tmp_path_factory.mktemp("programs") / "net.pt2", "ensemble").path


def test_a_program_is_measured_timed_and_predicts_as_its_run_does(finished, program_file, digits):
    assert torch.export.load(program_file).module()(torch.zeros(3, 1, 8, 8)).shape == (3, 10)
    named = measure(program_file, name="digits", train_samples=160, test_samples=100)
    assert named.measures["error"] == pytest.approx(finished.card["test"]["ensemble"]["error"], abs=1.0)
    (form,) = bench(program_file, batch_sizes=(1,), seconds=0.02)
    assert (form.runtime, form.megabytes) == ("PyTorch", program_file.stat().st_size / 1e6)
    image = digits.test.data[0, :, :, 0].numpy()
    theirs, ours = coterie.predict(program_file, image)[0], coterie.predict(finished, image, student="ensemble")[0]
    assert theirs.classes == ours.classes
    assert theirs.probabilities == pytest.approx(ours.probabilities, abs=1e-5)


def test_a_folder_for_timm_is_measured_timed_and_predicts_as_its_run_does(run_named, tmp_path, here):
    run = run_named(*NETWORKS["resnet"])
    path = coterie.export(run, "timm", tmp_path / "net").path
    error = measure(path, name="digits", train_samples=40, test_samples=50).measures["error"]
    assert error == pytest.approx(run.card["test"]["target"]["error"])
    (form,) = bench(path, batch_sizes=(1,), seconds=0.02)
    assert form.megabytes == (path / "model.safetensors").stat().st_size / 1e6
    assert form.memory_mb is not None
    image = torch.zeros(32, 32, 3, dtype=torch.uint8).numpy()
    assert coterie.predict(path, image)[0].classes == coterie.predict(run, image)[0].classes


@pytest.mark.parametrize("channels", [1, 3])
def test_weights_of_torchvisions_networks_are_opened_by_torchvision(channels, run_named, tmp_path, monkeypatch):
    opened = []

    def recorded(script, path, images, **options):
        opened.append((script, options["name"]))
        return run_here(script, path, images, **options)

    monkeypatch.setattr(weights, "run_afresh", recorded)
    run = run_named("torchvision/shufflenet_v2_x0_5", channels)
    done = coterie.export(run, "safetensors", tmp_path / "net.safetensors")
    assert opened == [(fresh.WITH_TORCHVISION, "shufflenet_v2_x0_5")]
    assert done.agreement == 1.0


def test_the_fresh_process_has_no_coterie(tmp_path):
    script = "import coterie\n"
    with pytest.raises(UserError, match=r"cannot be opened without coterie \(.*coterie.*\); not written"):
        fresh.run_afresh(script, tmp_path / "file", torch.zeros(1, 3, 8, 8))
    script = "def run(batch):\n    return batch.sum((1, 2)) + options['added']\n"
    torch.testing.assert_close(
        fresh.run_afresh(script, tmp_path / "file", torch.ones(40, 2, 3, 4), added=1), torch.full((40, 4), 7.0)
    )


def test_damaged_files_and_folders_are_one_line(run_named, program_file, tmp_path, capsys, here):
    (tmp_path / "net.pt2").write_bytes(program_file.read_bytes()[:5000])
    folder = coterie.export(run_named(*NETWORKS["resnet"]), "timm", tmp_path / "net").path
    shutil.copytree(folder, tmp_path / "no card")
    (tmp_path / "no card" / "coterie.json").unlink()
    (folder / "config.json").write_text('{"architecture": "none"}')
    said = {
        "net.pt2": "net.pt2: damaged or no file of torch.export",
        "none.pt2": "none.pt2: no such file",
        "net": "net: cannot be opened by timm",
        "no card": "no card: has no card of coterie's, coterie.json",
    }
    for name, line in said.items():
        for command in (["evaluate", tmp_path / name, "--data", "digits"], ["bench", tmp_path / name]):
            with pytest.raises(SystemExit) as stopped:
                main([*map(str, command)])
            assert stopped.value.code == 2
            assert line in " ".join(capsys.readouterr().err.splitlines()[-1:])


class Touching:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


@pytest.mark.parametrize("where", ["sample_inputs", "weights"])
def test_a_program_that_holds_pickled_objects_is_refused_unopened(where, program_file, tmp_path):
    trap, touched = tmp_path / "trap.pt2", tmp_path / "touched"
    bad = io.BytesIO()
    torch.save(Touching(touched), bad)
    with zipfile.ZipFile(program_file) as whole, zipfile.ZipFile(trap, "w") as other:
        for name in whole.namelist():
            content = whole.read(name)
            if where == "sample_inputs" and "/sample_inputs/" in name:
                content = bad.getvalue()
            if where == "weights" and name.endswith("weights_config.json"):
                config = json.loads(content)
                next(iter(config["config"].values()))["use_pickle"] = True
                content = json.dumps(config).encode()
            if where == "weights" and name.endswith("/weight_0"):
                content = bad.getvalue()
            other.writestr(name, content)
    with pytest.raises(UserError, match=f"data/{where}/.* holds pickled objects, which may run code"):
        coterie.predict(trap, [Image.new("L", (8, 8))])
    assert not touched.exists()


def test_a_program_keeps_no_images(program_file):
    with zipfile.ZipFile(program_file) as archive:
        (name,) = (each for each in archive.namelist() if "/sample_inputs/" in each)
        (images,), _ = torch.load(io.BytesIO(archive.read(name)), weights_only=True)
    assert images.shape[0] == 2
    assert not images.any()
    assert images.untyped_storage().nbytes() == images.nbytes
