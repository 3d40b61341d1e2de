"""What the README shows works, and the files around it say the same version."""

import re
import shlex
from pathlib import Path

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file

import coterie
from coterie.cli import find_parts
from coterie.cli.arguments import expanded

ROOT = Path(__file__).parents[1]


def snippet(title, page="README.md"):
    """The first Python block below a title of a page."""
    text = re.split(rf"^#+ {title}\n", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE)[1]
    return re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]


def commands(page):
    """Every command of a page that has lines of its own, as words without the program's name."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"^(`?)(coterie [^`\n]*)\1$", text, re.MULTILINE)
    return [shlex.split(line, comments=True)[1:] for _, line in lines]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_readmes_own_loop_trains_the_plain_model(place):
    torch.manual_seed(0)
    loader = [(torch.randn(4, 3, 32, 32), torch.arange(4)) for _ in range(2)]
    names = {"loader": loader}
    exec(snippet("In your own loop"), names)
    model, net = names["model"], names["net"]
    fresh = timm.create_model("resnet18", num_classes=10)
    assert type(model) is type(fresh)
    fresh.load_state_dict(model.state_dict())
    assert net.target is model
    assert names["loss"].isfinite()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert any(state for state in names["optimiser"].state.values())


def test_the_readmes_serving_lines_load_the_weights(place):
    trained = timm.create_model("resnet18", num_classes=10).eval()
    (place / "runs" / "mine").mkdir(parents=True)
    save_file(trained.state_dict(), place / "runs" / "mine" / "model.safetensors")
    names = {}
    exec(snippet("Serving without coterie"), names)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(names["model"](images), trained(images))


@pytest.mark.parametrize("page", ["README.md", "docs/guides/glyphs.md", "docs/guides/noisy-labels.md"])
def test_the_commands_of_a_page_are_understood_and_read_what_earlier_ones_made(page):
    made = set()
    assert commands(page)
    for name, *words in commands(page):
        given = expanded(words)
        parsed = find_parts()[name][0](given).parse_args(given)
        if name == "predict":
            assert parsed.source in made
        if name in ("evaluate", "export"):
            assert parsed.run in made
        if name == "report":
            assert set(parsed.runs) <= made
        if name in ("train", "export", "report"):
            assert parsed.out not in made
            made.add(parsed.out)


def test_the_readmes_python_trains_measures_exports_and_reports(place):
    small = {
        '"fashion_mnist"': '"digits", train_samples=160, test_samples=100',
        "resnet32": "resnet8",
        "epochs=30": "epochs=1",
    }
    lines = snippet("From the shell")
    for shown, run in small.items():
        assert shown in lines
        lines = lines.replace(shown, run)
    names = {}
    exec(lines, names)
    assert type(names["network"]) is type(coterie.networks.build("resnet8"))
    assert [row["epoch"] for row in names["rows"]] == [1]
    assert names["figures"]["error"] == names["run"].card["test"]["ensemble"]["error"]
    assert {"model.onnx", "model.onnx.json", "report.html"} <= {path.name for path in place.iterdir()}


def test_the_branched_network_gives_what_the_docs_say(place):
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    names = {"coterie": coterie, "model": coterie.networks.build("resnet8"), "images": images, "labels": labels}
    exec(snippet("Branching a network", "docs/guides/branching.md"), names)
    output = names["output"]
    assert output.logits.shape == (4, 3, 10)
    assert output.weights.shape == (4, 3)
    assert output.ensemble.shape == (4, 10)
    assert names["loss"].isfinite()


def test_the_composed_method_of_the_docs_trains(place):
    names = {}
    exec(snippet("Composing a method", "docs/extending/compose.md"), names)
    run = names["run"]
    assert run.card["method"] == "online"
    assert {edge.to for edge in run.method().teaching()} == {
        "target",
        "branch1",
        "branch2",
        "ensemble",
        "the mean of the logits",
    }


def test_changelog_and_citation_know_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == coterie.__version__
    assert re.search(
        rf"^## {re.escape(coterie.__version__)} ", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M
    )
