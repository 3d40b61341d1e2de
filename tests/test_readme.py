"""What the README shows works, and the files around it say the same version."""

import re
from pathlib import Path

import pytest
import timm
import torch
import yaml

import coterie

ROOT = Path(__file__).parents[1]


def snippet(title, page="README.md"):
    """The first Python block below a title of a page."""
    text = re.split(rf"^#+ {title}\n", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE)[1]
    return re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]


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
