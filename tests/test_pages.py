"""What the README and the documentation show is understood by the real parsers, compiles, and runs."""

import ast
import os
import re
import shlex
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import coterie
from coterie.cli import find_parts, main
from coterie.cli.arguments import expanded
from coterie.data.transforms import normalise
from coterie.deploy.formats.preparing import preprocessing

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md"))]
# Pages that are followed from top to bottom, but for blocks below `<!-- not run: REASON -->`.
WALKED = [
    "docs/tutorials/own-folder.md",
    "docs/tutorials/fine-tuning.md",
    "docs/tutorials/own-loop.md",
    "docs/guides/export.md",
    "docs/guides/measuring.md",
    "docs/guides/bench.md",
]
# What keeps that to seconds, and from downloads.
SMALLER = {
    r"--epochs \d+": "--epochs 1",
    r"\bepochs=\d+": "epochs=1",
    r"--data fashion_mnist": "--data digits --data.train_samples 64",
    r'load\("fashion_mnist"': 'load("digits", train_samples=64',
    r"resnet32": "resnet8",
    r"--data\.root (my_images|known)": r"\g<0> --data.train_samples 100 --data.test_samples 40",
}


@cache
def blocks(page):
    """Each fenced block of a page: its language, its text, and whether it is to be run."""
    text = (ROOT / page).read_text(encoding="utf-8")
    text = re.sub(
        r"^--8<--\n(.+)\n--8<--$", lambda file: (ROOT / file[1]).read_text(encoding="utf-8"), text, flags=re.M
    )
    fence = r"^(<!-- not run: [^>]+ -->\n+)?( *)```(\w+)\n(.*?)^\2```$"
    return [
        (language, re.sub(f"^{indent}", "", body, flags=re.M), not mark)
        for mark, indent, language, body in re.findall(fence, text, re.DOTALL | re.MULTILINE)
    ]


def commands_in(text):
    """The lines of a shell block that call coterie, as words without the program's name."""
    lines = text.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("coterie ")]


def commands(page):
    """Every command of a page: those of its blocks, and those that have a line of their own."""
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    alone = re.findall(r"^`(coterie [^`\n]*)`$", text, re.MULTILINE)
    return [words for _, body, _ in blocks(page) for words in commands_in(body)] + [shlex.split(c)[1:] for c in alone]


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)])
def test_commands_are_understood_and_read_what_earlier_ones_made(page):
    made = set()
    for name, *words in commands(page):
        given = expanded(words)
        parsed = find_parts()[name][0](given).parse_args(given)
        if name in ("evaluate", "predict", "serve"):
            assert parsed.source in made
        if name == "export":
            assert parsed.run in made
        if name == "bench":
            assert set(parsed.sources) <= made
        if name == "report":
            assert all(run in made or (ROOT / run).is_file() for run in parsed.runs)
        if name in ("train", "export", "report", "compare"):
            assert parsed.out not in made
        if name in ("train", "export", "report", "study"):
            made.add(parsed.out)
        if name == "compare":
            made |= {f"{parsed.out}/network", f"{parsed.out}/results.json"}


@pytest.mark.parametrize("page", [page for page in PAGES if any(language == "python" for language, *_ in blocks(page))])
def test_python_compiles(page):
    for language, body, _ in blocks(page):
        if language == "python":
            compile(body, page, "exec")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with what pages take as given: pictures, and the weights of a Run on images of three channels."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 30), "red").save("photo.jpg")
    Image.new("RGBA", (30, 40), (0, 0, 255, 100)).save("other.png")
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    save_file(timm.create_model("resnet18", num_classes=10).state_dict(), "runs/mine/model.safetensors")
    return tmp_path


@pytest.fixture
def walk(place, monkeypatch):
    """Follows a page: Python and commands in their order, in one folder and one namespace, which it gives."""
    module = ModuleType("page")  # classes of the page need a module to be looked up in
    monkeypatch.setitem(sys.modules, "page", module)

    def follow(page):
        names = vars(module)
        torch.manual_seed(0)
        names["coterie"], names["model"] = coterie, coterie.networks.build("resnet8", 10, 3)
        names["images"], names["labels"] = torch.randn(4, 3, 32, 32), torch.arange(4)
        names["loader"] = [(names["images"], names["labels"]) for _ in range(2)]
        for language, body, run in blocks(page):
            if run:
                for pattern, smaller in SMALLER.items():
                    body = re.sub(pattern, smaller, body)
                if language == "python":
                    exec(compile(body, page, "exec"), names)
                if language == "sh":
                    for words in commands_in(body):
                        main(words)  # ends the process where something is wrong
        return names

    return follow


@pytest.mark.parametrize("page", WALKED)
def test_a_page_can_be_followed(page, walk, capsys):
    walk(page)
    assert "Traceback" not in capsys.readouterr().err


def test_the_training_guides_python_trains_measures_exports_and_reports(walk, place):
    names = walk("docs/guides/training.md")
    assert type(names["network"]) is type(coterie.networks.build("resnet8"))
    assert [row["epoch"] for row in names["rows"]] == [1]
    assert names["figures"]["error"] == names["run"].card["test"]["ensemble"]["error"]
    assert {"model.onnx", "model.onnx.json", "python.html"} <= {path.name for path in place.iterdir()}


def test_the_branched_network_gives_what_the_guide_says(walk):
    names = walk("docs/guides/branching.md")
    output = names["output"]
    assert output.logits.shape == (4, 3, 10)
    assert output.weights.shape == (4, 3)
    assert output.ensemble.shape == (4, 10)
    assert names["loss"].isfinite()


def test_the_guides_serving_lines_load_the_weights(place):
    trained = timm.create_model("resnet18", num_classes=10).eval()
    save_file(trained.state_dict(), place / "runs" / "mine" / "model.safetensors")
    names = {}
    (body,) = (body for _, body, _ in blocks("docs/guides/export.md") if "runs/mine" in body and "timm" in body)
    exec(body, names)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(names["model"](images), trained(images))


def test_the_guides_own_serving_prepares_images_as_training_does(place):
    names = {}
    (body,) = (body for _, body, _ in blocks("docs/guides/export.md") if "def preprocess" in body)
    exec(body, names)
    noise = np.random.default_rng(0).integers(0, 256, (50, 70, 4), np.uint8)
    for mode in ("L", "RGB", "RGBA"):
        Image.fromarray(noise).convert(mode).save("noise.png")
        for channels in (1, 3):
            card = {"channels": channels, "image_size": [32, 48], "mean": [0.4] * channels, "std": [0.2] * channels}
            for framing in ({}, {"crop_ratio": 0.875, "interpolation": "bilinear"}, {"crop_ratio": 32 / 37}):
                pixels = coterie.data.decode(Path("noise.png"), (32, 48), channels, **framing)
                expected = normalise(torch.from_numpy(pixels.copy())[None], tuple(card["mean"]), tuple(card["std"]))
                told = {"preprocessing": preprocessing(card | framing, inside=False)}
                images = torch.from_numpy(names["preprocess"]("noise.png", told))
                torch.testing.assert_close(images, expected.contiguous(), atol=1e-5, rtol=0)


def texts_of(source):
    """Every text in a module's code, with … for each value that is put into it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_every_line_of_the_troubleshooting_page_is_one_that_the_package_says():
    page = (ROOT / "docs/guides/troubleshooting.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| `([^`]+)`", page, re.MULTILINE)
    assert len(lines) > 20
    texts = {text for path in (ROOT / "src").rglob("*.py") for text in texts_of(path.read_text(encoding="utf-8"))}
    for line in lines:
        pattern = ".*".join(re.escape(part.strip()) for part in line.split("…"))
        assert any(re.search(pattern, text) for text in texts), line


def test_nothing_in_the_pages_names_a_file_that_is_not_there():
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for name in re.findall(r"`((?:benchmarks|examples|tests|docs/results|docs/guides)/[\w./-]+)`", text):
            assert (ROOT / name).exists(), f"{page}: {name}"
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text):
            if page == "README.md":  # the site's own links are checked by its builder
                assert os.path.exists(ROOT / target), f"{page}: {target}"
