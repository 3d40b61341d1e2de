"""Rewrites what is recorded of trainings to the names of this version: ``python benchmarks/rename_commands.py``.

Recorded commands must run as they stand, and a study must find its results again. What options were called before is
said in ``coterie/records.py`` alone. A trial that names no recipe had ``short``, which was the default. No figure is
touched, and a second time changes nothing.
"""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import yaml

from coterie.checking import make_checked
from coterie.records import upgrade_options
from coterie.studies.results import Results, save_results
from coterie.studies.study import name_run

ROOT = Path(__file__).parent.parent
COMMANDS = {
    "coterie study backbones": "python benchmarks/backbones.py",
    "coterie list cuts": "coterie list splits",
}
# A command in a text ends with its line, unless a backslash continues it, or with the quotes around it.
_TRAINING = re.compile(r'coterie train(?:[^\n`"\\]|\\\n)*')
_METHOD = re.compile(r"--method(?:\.name)?[ =]([\w-]+)")
_OPTION = re.compile(r"""--method\.(\w+)([ =])((?:'[^']*'|"[^"]*"|[^\s'"])+)""")


def rename_text(text: str) -> str:
    """A text with its commands under the names of this version."""
    for old, new in COMMANDS.items():
        text = text.replace(old, new)
    return _TRAINING.sub(lambda command: rename_command(command[0]), text)


def rename_command(command: str) -> str:
    """A ``coterie train`` command with its method's options under the names of this version."""
    method = _METHOD.search(command)

    def rename(option: re.Match[str]) -> str:
        name, sign, value = option.groups()
        old = {name: yaml.safe_load(shlex.split(value)[0])}
        new = upgrade_options(method[1] if method else "one", old)
        if new == old:
            return option[0]
        ((name, content),) = new.items()
        if content != next(iter(old.values())):
            value = shlex.quote(yaml.safe_dump(content, default_flow_style=True, width=10**6).split("\n")[0])
        return f"--method.{name}{sign}{value}"

    return _OPTION.sub(rename, command)


def rename_results(content: dict[str, Any]) -> dict[str, Any]:
    """A study's results, as they are in their file, under the names of this version."""
    renamed: dict[str, str] = {}  # folders of Runs, whose names hold a hash of the configuration
    trials = []
    for trial in content.get("trials") or content["cells"]:
        text = json.dumps(trial)
        for old, new in renamed.items():
            text = text.replace(old, new)
        trial = {"arm" if key == "row" else key: value for key, value in json.loads(text).items()}
        before = trial["configuration"]
        if method := before.get("method"):
            trial["configuration"] = before | {"method": upgrade_options(method["name"], method)}
            trial["command"] = rename_command(trial["command"])
            if "recipe" not in before:
                trial["configuration"]["recipe"] = {"name": "short"}
                trial["command"] = trial["command"].replace(" --method", " --recipe short --method", 1)
            old, new = (name_run_of(trial, configuration) for configuration in (before, trial["configuration"]))
            renamed |= {old: new} if old != new else {}
        trials.append(trial)
    return {key: value for key, value in content.items() if key != "cells"} | {"trials": trials}


def name_run_of(trial: dict[str, Any], configuration: dict[str, Any]) -> str:
    """The name of the folder of a trial's Run."""
    own = {name: value for name, value in configuration.items() if name != "measures"}
    return name_run(trial["arm"], trial["network"], trial["data"], trial["seed"], own)


def main() -> None:
    """Rewrite all files."""
    for pattern in ("docs/**/*.md", "docs/results/*.json", "benchmarks/*.json", "README.md"):
        for path in sorted(ROOT.glob(pattern)):
            text = path.read_text(encoding="utf-8")
            content = json.loads(text) if path.suffix == ".json" else {}
            if {"trials", "cells"} & content.keys():
                save_results(path, make_checked(Results, path.name, rename_results(content)))
            elif rename_text(text) != text:
                path.write_text(rename_text(text), encoding="utf-8")


if __name__ == "__main__":
    main()
