"""From a person's words to a parser's arguments: configuration files, short names, plain complaints."""

import os
import re
import shlex
import sys
from argparse import Action
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace

from coterie.checking import check_value
from coterie.errors import UserError, in_a_line
from coterie.files import read_yaml, user_path
from coterie.records import upgrade_options

if TYPE_CHECKING:
    from coterie.methods import Method

# `--method one` is short for `--method.name one`: the other options of these groups depend on the name.
_GROUPS = ("method", "network", "data", "recipe")


class _Formatter(DefaultHelpFormatter):
    """Shows the range of a number in words: ``float above 0`` for ``Annotated[float, above 0]``."""

    def _expand_help(self, action: Action) -> str:
        return re.sub(r"Annotated\[(\w+), ([^\]]*)\]", r"\1 \2", super()._expand_help(action) or "")


def new_parser() -> ArgumentParser:
    """An empty parser, strict about names."""
    return ArgumentParser(exit_on_error=False, allow_abbrev=False, default_env=False, formatter_class=_Formatter)


def expanded(given: list[str]) -> list[str]:
    """``--method one`` as ``--method.name one``, ``--from RUN`` as ``--start_from RUN``, and dashes as underscores."""
    pattern = re.compile(rf"^--({'|'.join(_GROUPS)})(=.*)?$")
    end = given.index("--") if "--" in given else len(given)  # what follows are no options
    words = [re.sub(r"^--from(=.*)?$", r"--start_from\1", word) for word in given[:end]]
    return [pattern.sub(r"--\1.name\2", _underscored(word)) for word in words] + given[end:]


def _underscored(word: str) -> str:
    """An option with underscores for dashes; what follows GROUP.OPTION, such as a stage's name, as it is."""
    return re.sub(r"^--[^.=]+(\.[^.=]+)?", lambda name: "--" + name[0][2:].replace("-", "_"), word)


def with_config(given: list[str]) -> list[str]:
    """The options of ``--config FILE`` before those of the line; ``--resume`` takes the run's own file."""
    rest, files = [], []
    words = iter(given)
    for word in words:
        if word == "--config" or word.startswith("--config="):
            files.append(user_path(word.partition("=")[2] or next(words, "")))
        else:
            rest.append(word)
    if (
        "--resume" in rest
        and not files
        and (out := value_of(rest, "out"))
        and (user_path(out) / "config.yaml").is_file()
    ):
        files.append(user_path(out) / "config.yaml")
    found: list[str] = []
    for file in files:
        content = read_yaml(file, "give --config a YAML file of options, or a Run's config.yaml")
        if not isinstance(content, dict):
            raise UserError(f"{file}: holds no options; write lines such as 'method: one'")
        if content.pop("tensorboard", None):  # what 0.1.0 called it
            content = {"track": "tensorboard", **content}
        method = content.get("method")
        if isinstance(method, dict):
            content = {**content, "method": upgrade_options(method.get("name"), method)}
        name = method.get("name") if isinstance(method, dict) else method
        if isinstance(name, str) and ":" in name:
            raise UserError(f"{file}: method '{name}' names code to import, which no file may; give ⟨method {name}⟩")
        found += _flags(content)
    # A group's name on the line takes the place of the file's, whose options may be another class's.
    for group in _GROUPS:
        name = value_of(rest, group) or value_of(rest, f"{group}.name")
        if name and group == "method" and ":" in name:
            name = find_method(name).name
        if name and name != value_of(found, f"{group}.name"):
            found = [flag for flag in found if not flag.startswith((f"--{group}.", f"--{group}="))]
    return found + rest


def _flags(content: dict[str, Any], place: str = "") -> list[str]:
    flags: list[str] = []
    for key, value in content.items():
        name = f"{place}{key}"
        if value is None and name in _GROUPS:
            raise UserError(f"config: {name} was an object of your own; repeat this run from Python with that object")
        if value == {} and not place:
            raise UserError(f"config: {name} is empty; write its options, or leave it out")
        if isinstance(value, dict) and not place:
            flags += _flags(value, f"{name}.")
        elif name in _GROUPS:
            flags.append(f"--{name}.name={value}")
        elif isinstance(value, bool) and name == "resume":
            flags += [f"--{name}"] if value else []
        elif value != {}:
            text = yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n...\n").strip()
            flags.append(f"--{name}={text}")
    return flags


def value_of(given: list[str], option: str) -> str | None:
    """The last value of an option."""
    found = None
    for index, word in enumerate(given):
        if word.startswith(f"--{option}="):
            found = word.partition("=")[2]
        elif word == f"--{option}" and index + 1 < len(given):
            found = given[index + 1]
    return found


def find_method(name: str) -> "type[Method]":
    """The method of a name that stands on the command line: one of a registry, or ``package.module:Class``.

    Code is imported by its place at the shell's word alone: files, which may come from strangers, name methods of
    registries (:func:`coterie.methods.method_class`).

    Raises:
        UserError: It is unknown, cannot be imported, or is no method.
    """
    from coterie.methods import find_fault, method_class  # torch, which `coterie serve` can do without

    if ":" not in name:
        return method_class(name)
    module, _, attribute = name.partition(":")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a file beside the user is found, and hides no library
    try:
        item = getattr(import_module(module), attribute)
    except Exception as error:  # a user's own code raises whatever it likes while it is imported
        raise UserError(f"⟨method {name}⟩ cannot be imported ({in_a_line(error)})") from error
    if fault := find_fault(getattr(item, "name", ""), item):
        raise UserError(f"⟨method {name}⟩ {fault}")
    kind: type[Method] = item
    return kind


def options_of(group: Namespace) -> dict[str, Any]:
    """A group of options as keyword arguments, lists as tuples."""
    options = {key: value for key, value in vars(group).items()}
    return {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}


def plain(error: Exception, parser: ArgumentParser, given: list[str]) -> UserError:
    """A parser's complaint about what was given in one line, with the nearest option where one is unknown."""
    text = " ".join(str(error).split())
    if unknown := re.search(r"[Uu]nrecognized arguments: (\S+)", text):
        option = unknown[1].split("=")[0]
        near = _nearest(option, [name for action in parser._actions for name in action.option_strings])
        return UserError(f"unknown option {option}; {f'did you mean {near}?' if near else 'see --help'}")
    if missing := re.search(r"arguments are required: (.+)", text):
        names = missing[1].split(", ")
        positional = {action.dest: action.help or "" for action in parser._actions if not action.option_strings}
        said = [f"{name.upper()} ({positional[name]})" if name in positional else f"--{name}" for name in names]
        return UserError(f"{' and '.join(said)} {'is' if len(said) == 1 else 'are'} missing; see --help")
    if alone := re.search(r"^argument (--\S+): expected (?:one|at least one) argument", text):
        return UserError(f"{alone[1].removesuffix('.name')} has no value; write one behind it")
    text = re.sub(r'^Parser key "([^"]+)": ?', lambda match: f"--{match[1]}: ", text)
    if choice := re.search(r"^(--\S+): Expected a (?:typing\.)?Literal\[([^]]+)\]\. Got value: (.*)", text):
        *names, last = re.findall("'([^']+)'", choice[2])
        return UserError(f"{choice[1]} {choice[3]}: unknown; use {', '.join(names)} or {last}")
    # The whole value as it was given: of a list or a mapping the parser names the part alone that it refuses.
    if (value := re.search(r"^--([^:\s]+): .*(?:Given|Got) value: (.*)", text)) and (
        refusal := _refused(value[1], value_of(given, value[1]) or value[2], parser)
    ):
        return refusal
    return UserError(text[:300])


def _refused(option: str, text: str, parser: ArgumentParser) -> UserError | None:
    """What the one checker says of an option's value; None where it has nothing against it."""
    hint = next((getattr(action, "_typehint", None) for action in parser._actions if action.dest == option), None)
    if hint is None:
        return None
    try:
        check_value(f"--{option}", yaml.safe_load(text), hint)
    except UserError as error:
        return error
    except (yaml.YAMLError, ValueError):
        return UserError(f"--{option} {text[:100]}: not valid YAML; write it as '[1, 2]' or '{{name: 1}}'")
    return None


# What other packages call an option.
_ELSEWHERE = {
    "lr": "recipe.learning_rate",
    "wd": "recipe.weight_decay",
    "optimizer": "recipe",
    "optimiser": "recipe",
    "opt": "recipe",
    "model": "network",
    "arch": "network",
    "backbone": "network",
    "dataset": "data",
    "data_dir": "data.root",
    "data_path": "data.root",
    "img_size": "data.image_size",
    "crop_pct": "data.crop_ratio",
    "num_workers": "data.workers",
    "num_epochs": "epochs",
    "bs": "batch_size",
    "batch": "batch_size",
    "output": "out",
    "output_dir": "out",
    "amp": "precision",
    "report_to": "track",
    "log_with": "track",
    "logger": "track",
    "tensorboard": "track",
    "wandb": "track",
    "mlflow": "track",
    "gpu": "device",
}


def _nearest(option: str, known: list[str]) -> str:
    """The options that an unknown one may have meant: by its last part, by its name elsewhere, by its letters."""
    short = {f"--{group}.name": f"--{group}" for group in _GROUPS}  # as people write them
    names = [short.get(each, each) for each in known if each.startswith("--")]
    part = option.lstrip("-")
    same = [name for name in names if name.endswith((f".{part}", f"--{_ELSEWHERE.get(part)}"))]
    bare = {word: f"--{ours}" for word, ours in _ELSEWHERE.items() if f"--{ours}" in names}
    bare |= {name.lstrip("-"): name for name in names}  # without the dashes, which all have
    close = [bare[match] for match in get_close_matches(part, bare, n=2)]
    return " or ".join(same[:2] or close)


def check_data_name(name: str) -> None:
    """Refuse a folder or a CSV file where a data set's name stands.

    Raises:
        UserError: It says how one's own images are named.
    """
    from coterie.data import DATASETS  # torch, which `coterie serve` can do without

    if name not in DATASETS and name.lower().endswith((".csv", ".tsv")):
        here = shlex.quote(name)
        raise UserError(f"--data {here}: names a data set, not a file; give --data csv --data.file {here}")
    if name not in DATASETS and (set("/\\") & set(name) or Path(name).is_dir()):
        here = shlex.quote(name)
        raise UserError(f"--data {here}: names a data set, not a folder; give --data folder --data.root {here}")


def new_file(named: str, ending: str, option: str) -> Path:
    """A file that a command will write, before anything is computed.

    Raises:
        UserError: Its name ends otherwise, or it is there already.
    """
    path = user_path(named)
    if path.suffix != ending:
        raise UserError(
            f"⟨{option} {path}⟩: the file's name ends in {ending}; give ⟨{option} {path.with_suffix(ending)}⟩"
        )
    if path.exists():
        raise UserError(f"{path}: exists already; choose another ⟨{option}⟩")
    return path
