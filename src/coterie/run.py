"""A Run is the folder of one training."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from html import escape
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from coterie import data as data_room
from coterie.checking import check_value
from coterie.confusions import read_confusions
from coterie.errors import UserError, in_a_line, show_value, unknown_name
from coterie.files import read_tensors
from coterie.methods import Method, Task, make_method
from coterie.metrics import Row, read_metrics
from coterie.networks.prune.removal import resize_layers
from coterie.networks.weights import portable
from coterie.networks.zoo import Backbone, BackboneLike
from coterie.records import AVERAGE, Card, Configuration, parse_card, read_card, read_configuration


class Run:
    """A training's folder: ``config.yaml``, ``metrics.csv``, ``model.safetensors``, ``model.json`` and more.

    Args:
        path: The folder.
        network: The module that was trained, or the factory that made it, where it was the user's own rather than one
            known by name.
        method: The class of the method, or an object of it, where it was the user's own.
        data: What the run was trained on, where it was not loaded by name.

    Raises:
        UserError: There is no Run in that folder, or an object is of another kind.
    """

    def __init__(
        self,
        path: str | Path,
        network: nn.Module | Callable[..., nn.Module] | None = None,
        *,
        method: Method | type[Method] | None = None,
        data: data_room.ImageData | None = None,
    ) -> None:
        self.path = check_value("path of a Run", path, Path)
        self._own_network = network
        self._own_method = method
        self._own_data = check_value("data of a Run", data, data_room.ImageData | None)
        if not (self.path / "config.yaml").is_file():
            raise UserError(
                f"{self.path}: not a Run folder (it has no config.yaml); name one that `coterie train` made"
            )

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def _repr_html_(self) -> str:
        """What a notebook shows: what was trained on what, and how well."""
        config = self.config
        known = {"path": str(self.path), "method": config["method"]["name"]}
        for part in ("network", "data"):
            known[part] = str((config[part] or {}).get("name", "an object of your own"))
        if (self.path / "model.json").is_file():
            errors = {name: figures["error"] for name, figures in self.card["test"].items()}
            known["test error"] = ", ".join(f"{name} {error:.2f} %" for name, error in errors.items())
            known["epoch"] = f"{self.card.get('epoch', '?')} ({self.card.get('selected', 'last')})"
        else:
            known["epoch"] = f"{len(self.metrics)} done; not finished: resume=True goes on"
        rows = (f"<tr><th>{name}</th><td>{escape(value)}</td></tr>" for name, value in known.items())
        return f"<table>{''.join(rows)}</table>"

    @classmethod
    def of(cls, run: "Run | str | Path") -> "Run":
        """A Run, or the one in a folder.

        Raises:
            UserError: It is neither.
        """
        if isinstance(run, cls):
            return run
        if not isinstance(run, str | PathLike):
            raise UserError(f"run is {show_value(run)}; give a coterie.Run, or the path of its folder")
        return cls(run)

    @property
    def config(self) -> Configuration:
        """All that is needed to repeat the run.

        Raises:
            UserError: ``config.yaml`` is damaged.
        """
        return read_configuration(self.path / "config.yaml")

    @property
    def metrics(self) -> list[Row]:
        """One row an epoch, as in ``metrics.csv``."""
        return read_metrics(self.path / "metrics.csv")

    @property
    def confusions(self) -> dict[str, torch.Tensor]:
        """What each deliverable took the test images for; none where an older version trained.

        As in ``confusions.json``, counts (C, C): rows are true classes, columns what was said.

        Raises:
            UserError: The run has not finished, or the file is damaged.
        """
        return read_confusions(self.path / "confusions.json", len(self.card["classes"]))

    @property
    def card(self) -> Card:
        """``model.json``: what the deployable network is.

        Raises:
            UserError: The run has not finished, or the file is damaged.
        """
        path = self.path / "model.json"
        if not path.is_file():
            raise UserError(f"{self.path}: this run has not finished; go on with `coterie train … --resume`")
        return read_card(path)

    @cached_property
    def model(self) -> nn.Module:
        """The deployable network, trained, in evaluation mode: one object, built at the first access."""
        return self.network()

    def network(self, student: str | None = None) -> nn.Module:
        """One of the run's deliverables, newly built, trained, in evaluation mode.

        Args:
            student: As for :meth:`student`.

        Raises:
            UserError: There is no such deliverable, its weights are damaged, or the network was the user's own module.
        """
        card, student = self.card, self.student(student)
        if card["network"] is None and self._own_network is None:
            raise self._needs_network()
        backbone = self._own_network if card["network"] is None else card["network"]
        if isinstance(backbone, nn.Module):  # the user's own: its weights, mode and device are the user's
            backbone = copy.deepcopy(backbone).to("cpu")
        where = str(self.path / "model.json")
        # How many snapshots there are depends on the epochs, which the configuration has.
        network = build_deliverable(card, self.task(), student, backbone, where, self._own_method)  # type: ignore[arg-type]
        load_weights(network, self.weights_path(student), card.get("pruned", False))
        return network.eval()

    def student(self, name: str | None = None) -> str:
        """The name of a deliverable.

        Args:
            name: Itself, for example ``"target"`` or ``"ensemble"``; or its number, counted from 1; None for the
                default one, which is the first.

        Raises:
            UserError: There is no such deliverable.
        """
        students = self.card["deliverables"]
        numbered = {str(number): each for number, each in enumerate(students, 1)}
        name = students[0] if name is None else str(name)
        if name not in students and name not in numbered:
            raise unknown_name("student", name, students)
        return name if name in students else numbered[name]

    @property
    def ending(self) -> str:
        """What the names of the delivered weights end with: ``-average`` where the default is one, else nothing."""
        return AVERAGE if self.card["deliverables"][0].endswith(AVERAGE) else ""

    @property
    def ensemble(self) -> str | None:
        """The name of the ensemble as it is delivered, of averaged weights or not; None where there is none."""
        name = f"ensemble{self.ending}"
        return name if name in self.card["deliverables"] else None

    def weights_path(self, student: str) -> Path:
        """The file of a deliverable's weights: the default one is ``model.safetensors``."""
        default = self.card["deliverables"][0]
        return self.path / ("model.safetensors" if student == default else f"students/{student}.safetensors")

    def method(self) -> Method:
        """The method, with the options of this run and an untrained network."""
        config = self.config
        network = config["network"]
        if network is None and self._own_network is None:
            raise self._needs_network()
        # Only the shape is needed here: the weights come from the run, and nothing is trained.
        shape = network and {**network, "checkpoint_activations": False}
        backbone = self._own_network if shape is None else Backbone.from_record(shape)
        where = f"{self.path / 'config.yaml'}, method"
        return make_method(config["method"], backbone, where, self._own_method)  # type: ignore[arg-type]

    def task(self) -> Task:
        """The task."""
        return replace(task_of(self.card), epochs=self.config["epochs"])

    def data(self, **options: Any) -> data_room.ImageData:
        """The data that the run was trained on, or the same with other options; one's own as they are.

        Raises:
            UserError: An option is wrong, files are missing or damaged, or the data were the user's own.
        """
        recorded = self.config["data"]
        if self._own_data is not None and "name" not in options:
            if options:
                raise UserError(f"⟨data.{next(iter(options))}⟩: the data are an object of your own; leave it out")
            return self._own_data
        if recorded is not None and "name" not in {**recorded, **options}:
            raise UserError(f"{self.path / 'config.yaml'}, data: no name is there; give ⟨data NAME⟩")
        if recorded is None and "name" not in options:
            raise UserError(f"{self.path}: trained on data of yours; open it with Run(path, data=them)")
        card = self.card if (self.path / "model.json").is_file() else None
        classes, pixel_range = (None, None) if card is None else (card["classes"], card.get("pixel_range"))
        return data_room.load_run(self.path, recorded or {}, options, classes, pixel_range)

    def _needs_network(self) -> UserError:
        return UserError(
            f"{self.path}: trained from a module of yours, or a factory; open it with Run(path, network=it)"
        )


def task_of(card: Card) -> Task:
    """The task that a card's network was trained for."""
    height, width = card["image_size"]
    return Task(len(card["classes"]), card["channels"], (height, width), card.get("epochs", 1))


def build_deliverable(
    card: Card, task: Task, student: str, network: BackboneLike, where: str, method: Method | type[Method] | None = None
) -> nn.Module:
    """An untrained network of the shape of a deliverable.

    Args:
        card: Of the Run or the exported file.
        task: The task.
        student: The deliverable's name; an average's network is that of the one that it is the average of.
        network: The backbone.
        where: Names the card in the error's line.
        method: The user's own, where the card's is not known by name.

    Raises:
        UserError: No such network can be built: the card is damaged.
    """
    try:
        with torch.inference_mode(False):  # the network may be trained on, wherever it was asked for
            averaged = student.removesuffix(AVERAGE)
            if averaged == "target" and not isinstance(network, nn.Module):
                return Backbone.of(network).build(task.num_classes, task.channels, task.image_size)
            made = make_method({"name": card["method"], **card["options"]}, network, f"{where}, options", method)
            networks = made.deliverables(task)
            return networks[student if student in networks else averaged]
    except UserError as error:
        raise error if str(error).startswith(where) else UserError(f"{where}: {error}") from error
    except Exception as error:  # a library's network of a wrong shape raises whatever it meets
        raise UserError(f"{where}: describes no network that can be built ({in_a_line(error)})") from error


def load_weights(network: nn.Module, path: Path, pruned: bool = False) -> None:
    """Load a state dict strictly from a safetensors file.

    Args:
        network: Changed in place.
        path: The file.
        pruned: Whether the file's network is this one with fewer channels: layers are then made as wide as it says.

    Raises:
        UserError: The file is missing, damaged, or another network's.
    """
    state, _ = read_tensors(path, "train the run again")
    if pruned:
        resize_layers(network, {name: tensor.shape for name, tensor in state.items()})
    try:
        network.load_state_dict(state)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: weights of another network ({in_a_line(error)})") from error


def open_exported(path: Path) -> tuple[Card, nn.Module]:
    """The card and the network, in evaluation mode, of a safetensors file that ``coterie export`` made.

    Raises:
        UserError: The file is missing, damaged, without a card, or holds weights of a module of the user's own.
    """
    card = parse_card(read_tensors(path, "export it again")[1], path)
    if card["network"] is None:
        raise UserError(f"{path}: weights of a module of your own; export ONNX, which carries the network itself")
    network = build_deliverable(card, task_of(card), card["student"], card["network"], f"the card in {path}")
    load_weights(network, path, card.get("pruned", False))
    return card, network.eval()


def portable_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """A module's state as contiguous tensors on the CPU, for a file."""
    return portable(module.state_dict())
