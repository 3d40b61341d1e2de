"""The site has a place for each public name, each command, each method and each page. `make docs` tries the links."""

import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import coterie
from coterie.cli import COMMANDS
from coterie.methods import METHODS

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))
ROOMS = [coterie, *(room for name in coterie.__all__ if isinstance(room := getattr(coterie, name), ModuleType))]


def read(page):
    return (DOCS / page).read_text(encoding="utf-8")


def identifiers():
    """What the pages ask mkdocstrings for: each name with the options below it."""
    pattern = r"^::: (\S+)\n((?: {4}.*\n?)*)"
    return {name: options for page in PAGES for name, options in re.findall(pattern, read(page), re.MULTILINE)}


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.__name__)
def test_every_public_name_of_a_room_is_in_the_reference(room):
    asked = identifiers()
    whole = "members: false" not in asked.get(room.__name__, "members: false")
    for name in getattr(room, "__all__", ()):
        value = getattr(room, name)
        if isinstance(value, ModuleType):
            assert value.__name__ in asked
        elif inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__
            assert whole or f"{room.__name__}.{name}" in asked
        else:  # a table of names, a type: the room's own page leaves them out, as they have no docstring
            assert f"{room.__name__}.{name}" in asked


def test_the_navigation_names_every_page_once():
    def pages(entry):
        if isinstance(entry, str):
            return [entry]
        return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in pages(part)]

    listed = pages(yaml.safe_load((DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    assert sorted(listed) == PAGES


def test_the_page_of_the_command_line_asks_for_every_commands_help():
    page = read("reference/command-line.md")
    assert re.findall(r"^<!-- coterie (\w+) --help -->$", page, re.MULTILINE) == list(COMMANDS)
    assert "<!-- the options of every method -->" in page


@pytest.mark.parametrize("name", METHODS.own)
def test_every_method_has_a_page_with_its_drawing_its_equations_and_its_options(name):
    page, method = read(f"methods/{name}.md"), METHODS.own[name]
    assert f"({name}.md)" in read("methods/index.md")
    assert (f"({name}.svg)" in page) == bool(method().teaching())
    assert f"::: {method.__module__}\n" in page
    assert f"::: coterie.methods.{method.__name__}\n" in page
    for line in re.findall(r"^method = (.*)$", page, re.MULTILINE):
        assert isinstance(eval(line, {"coterie": coterie}), method)


def test_the_page_on_adding_parts_shows_the_toys_that_the_tests_install():
    shown = re.findall(r"^--8<--\n(.+)\n--8<--$", read("extending/add.md"), re.MULTILINE)
    toys = DOCS.parent / "tests" / "toy_package"
    files = [*toys.rglob("[!_]*.py"), toys / "pyproject.toml"]
    assert sorted(shown) == sorted(file.relative_to(DOCS.parent).as_posix() for file in files)
