"""What is recorded of trainings runs as it stands: commands in the results, the benchmarks and the documentation."""

import json
import re
import shlex
from pathlib import Path

import pytest

from coterie import cli
from coterie.methods import METHODS, make_method
from coterie.studies.reading import load_study
from coterie.studies.results import load_results
from coterie.studies.study import name_run
from coterie.studies.trial import configuration_of
from rename_commands import rename_command, rename_results, rename_text

ROOT = Path(__file__).parent.parent
STUDIES = ("one", "oem", "srm", "meal", "compact", "multiview")


def parse(command, monkeypatch):
    """Parse a command line as the command line does, and build its method; nothing is run."""
    parsed = []

    def keep(given):
        parsed.append(given)
        if given.get("method.name"):
            options = vars(given.method) | {"name": given.method.name}
            make_method(options, "resnet8", "method")

    parts = cli.find_parts()
    with monkeypatch.context() as patch:
        patch.setattr(cli, "find_parts", lambda: {name: (parser, keep) for name, (parser, _) in parts.items()})
        program, *words = shlex.split(command)
        assert program == "coterie"
        cli.main(words)
    assert len(parsed) == 1, command


def without_seeds(command):
    """One command of those that differ in their seed alone."""
    return re.sub(r"(--seed \d+|/\d+\$')", "", re.sub(r"-\d-[0-9a-f]{8}", "", command))


@pytest.mark.parametrize("study", STUDIES)
def test_recorded_commands_are_parsed(study, monkeypatch):
    results = load_results(ROOT / "docs" / "results" / f"{study}.json")
    commands = {without_seeds(command): command for command in (results.command, *(t.command for t in results.trials))}
    assert len(commands) > 3
    for command in commands.values():
        parse(command, monkeypatch)


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_finds_its_committed_results(study):
    results = load_results(ROOT / "docs" / "results" / f"{study}.json")
    planned = {trial.key: configuration_of(trial) for trial in load_study(study).scale(results.scale).trials()}
    assert {trial.key: trial.configuration for trial in results.trials} == planned
    assert not any(trial.failed for trial in results.trials)


def test_commands_of_benchmarks_are_parsed_or_name_a_script(monkeypatch):
    commands = []
    for path in (*ROOT.glob("benchmarks/*.json"), ROOT / "docs" / "results" / "backbones-sweep.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        heads = content.values() if isinstance(content, dict) else []
        commands += [
            value for value in heads if isinstance(value, str) and re.match(r"(\w+=\S+ )*(python|coterie) ", value)
        ]
    assert len(commands) > 10
    for command in commands:
        if command.startswith("coterie"):
            parse(command.replace("SEED", "0"), monkeypatch)
        else:
            assert (ROOT / command.partition("python ")[2].split()[0]).is_file(), command


def commands_in(path):
    """The commands of a page's blocks, each on its own line or lines."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    known = re.compile(r"coterie +(train|study|evaluate|export|report) (?!.*--config)")  # a Run's file is not there
    return [line.partition(" #")[0] for line in lines if known.match(line)]


@pytest.mark.parametrize("path", sorted(ROOT.glob("docs/guides/*.md")), ids=lambda path: path.stem)
def test_commands_of_the_guides_are_parsed(path, monkeypatch):
    commands = commands_in(path)
    for command in commands:
        assert rename_text(command) == command
        parse(command, monkeypatch)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_parsed_with_its_options(method, monkeypatch):
    parse(f"coterie train --method {method} --network resnet8 --data digits", monkeypatch)


def test_old_names_are_rewritten_once():
    command = (
        "coterie train --method online --method.average 0.9 --method.teaches '[{source: each, among: [1]}]' "
        "--data digits"
    )
    renamed = rename_command(command)
    assert renamed == (
        "coterie train --method online --method.ema_decay 0.9 --method.distillations '[{source: each, teachers: [1]}]' "
        "--data digits"
    )
    assert rename_command(renamed) == renamed
    assert rename_command("coterie train --method one --method.average 0.9") == (
        "coterie train --method one --method.average 0.9"  # another method's option
    )
    text = "`coterie study backbones --sweep`, then `coterie train --method pcl \\\n  --method.own_views true`"
    assert rename_text(text) == (
        "`python benchmarks/backbones.py --sweep`, then `coterie train --method pcl \\\n  --method.view_per_peer true`"
    )


def test_a_teachers_new_folder_is_named_by_who_learns_from_it():
    def trial(arm, method):
        configuration = {"epochs": 1, "method": method, "network": {"name": "n"}, "data": {"name": "d"}, "seed": 0}
        command = f"coterie train --method {method['name']}" + (" --method.own_views true" if arm == "pcl" else "")
        place = {"data": "d", "network": "n", "row": arm, "seed": 0}
        return place | {"configuration": configuration, "command": command}

    old = {"study": "s", "scale": "small", "cells": [trial("pcl", {"name": "pcl", "own_views": True})]}
    once = rename_results(old)
    assert once["trials"][0]["configuration"]["method"] == {"name": "pcl", "view_per_peer": True}
    assert once["trials"][0]["command"].endswith("--method.view_per_peer true")
    assert once["trials"][0]["configuration"]["recipe"] == {"name": "short"}  # the default of before
    assert "coterie train --recipe short --method pcl " in once["trials"][0]["command"]
    assert rename_results(once) == once

    before, after = (
        name_run("pcl", "n", "d", 0, trial["configuration"]) for trial in (old["cells"][0], once["trials"][0])
    )
    assert before != after
    student = trial("kd", {"name": "kd", "teacher": f"@{before}:peer1"})
    both = rename_results(old | {"cells": [*old["cells"], student]})
    assert both["trials"][1]["configuration"]["method"]["teacher"] == f"@{after}:peer1"
