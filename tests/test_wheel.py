"""What is built for people to install: the wheel and the sdist are whole, and the wheel runs elsewhere."""

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import coterie

ROOT = Path(coterie.__file__).parents[2]
FILES = ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "MANIFEST.in")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist, and the wheel that is built from it, of a copy: nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp("build")
    copy, out = folder / "copy", folder / "dist"
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in FILES:
        shutil.copy(ROOT / name, copy / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return sdist, wheel


def files_of_the_package():
    files = (path.relative_to(ROOT / "src") for path in (ROOT / "src" / "coterie").rglob("*") if path.is_file())
    return {path.as_posix() for path in files if "__pycache__" not in path.parts}


def test_every_file_of_the_package_is_in_the_wheel_and_nothing_else(built):
    with zipfile.ZipFile(built[1]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == files_of_the_package()
    assert {"coterie/py.typed", "coterie/serving/page.html", "coterie/data/sources/glyphs_recipe.json"} <= names


def test_the_sdist_holds_what_the_wheel_is_built_from(built):
    with tarfile.open(built[0]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {f"src/{name}" for name in files_of_the_package()} | set(FILES) <= names
    assert not any(name.startswith("tests") for name in names)


def test_the_metadata_say_what_the_project_says(built):
    with zipfile.ZipFile(built[1]) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(wheel.read(name).decode())
        scripts = wheel.read(name.replace("METADATA", "entry_points.txt")).decode()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert metadata["Version"] == coterie.__version__
    assert metadata.get_all("Provides-Extra") == list(project["optional-dependencies"])
    assert metadata.get_payload().strip() == (ROOT / "README.md").read_text(encoding="utf-8").strip()
    assert "coterie = coterie.cli:main" in scripts


def test_the_installed_wheel_runs_outside_of_the_checkout(built, tmp_path):
    target = tmp_path / "site"
    with zipfile.ZipFile(built[1]) as wheel:  # what pip does with a wheel of plain Python
        wheel.extractall(target)
    code = "import coterie; print(coterie.__file__); from coterie.cli import main; main(['list', 'datasets'])"
    environment = {**os.environ, "PYTHONPATH": str(target)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(target))
    assert "glyphs" in done.stdout
