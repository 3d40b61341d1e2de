"""A Run is the folder of one training."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from coterie import data as data_room
from coterie.errors import UserError, unknown_name
from coterie.files import read_tensors, write_text
from coterie.methods import Method, Spec, method_class
from coterie.networks.surgery import resize
from coterie.networks.zoo import Network

Row = dict[str, float | int | str]


class Run:
    """A training's folder: ``config.yaml``, ``metrics.csv``, ``model.safetensors``, ``model.json`` and more.

    Args:
        path: The folder.
        network: The module that was trained, or the factory that made it, where it was the user's own rather than one
            known by name.

    Raises:
        UserError: There is no Run in that folder.
    """

    def __init__(self, path: str | Path, network: nn.Module | Callable[..., nn.Module] | None = None) -> None:
        self.path = Path(path)
        self._own_network = network
        if not (self.path / "config.yaml").is_file():
            raise UserError(
                f"{self.path}: not a Run folder (it has no config.yaml); name one that `coterie train` made"
            )

    @property
    def config(self) -> dict[str, Any]:
        """All that is needed to repeat the run."""
        try:
            config = yaml.safe_load((self.path / "config.yaml").read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise UserError(f"{self.path / 'config.yaml'}: not valid YAML; train the run again") from error
        if not isinstance(config, dict):
            raise UserError(f"{self.path / 'config.yaml'}: not a run's configuration; train the run again")
        return config

    @property
    def metrics(self) -> list[Row]:
        """One row an epoch, as in ``metrics.csv``."""
        return read_metrics(self.path / "metrics.csv")

    @property
    def card(self) -> dict[str, Any]:
        """``model.json``: what the deployable network is.

        Raises:
            UserError: The run has not finished.
        """
        path = self.path / "model.json"
        if not path.is_file():
            raise UserError(f"{self.path}: this run has not finished; go on with `coterie train … --resume`")
        try:
            card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path}: not valid JSON; train the run again") from error
        return card

    @property
    def model(self) -> nn.Module:
        """The deployable network, trained, in evaluation mode."""
        return self.network()

    def network(self, student: str | None = None) -> nn.Module:
        """One of the run's deliverables, trained, in evaluation mode.

        Args:
            student: As for :meth:`student`.

        Raises:
            UserError: There is no such deliverable, its weights are damaged, or the network was the user's own module.
        """
        student = self.student(student)
        with torch.inference_mode(False):  # the network may be trained on, wherever it was asked for
            network = self.method().deliverables(self.spec())[student]
        load_weights(network, self.weights_path(student), self.card.get("cut", False))
        return network.eval()

    def student(self, name: str | None = None) -> str:
        """The name of a deliverable.

        Args:
            name: Itself, for example ``"target"`` or ``"ensemble"``; or its number, counted from 1; None for the
                default one, which is the first.

        Raises:
            UserError: There is no such deliverable.
        """
        students: list[str] = self.card["deliverables"]
        numbered = {str(number): each for number, each in enumerate(students, 1)}
        name = students[0] if name is None else name
        if name not in students and name not in numbered:
            raise unknown_name("student", name, students)
        return name if name in students else numbered[name]

    def weights_path(self, student: str) -> Path:
        """The file of a deliverable's weights: the default one is ``model.safetensors``."""
        default = self.card["deliverables"][0]
        return self.path / ("model.safetensors" if student == default else f"students/{student}.safetensors")

    def method(self) -> Method:
        """The method, with the options of this run and an untrained network."""
        options = dict(self.config["method"])
        network = self.config["network"]
        if network is None and self._own_network is None:
            raise UserError(
                f"{self.path}: trained from a module of yours, or a factory; open it with Run(path, network=it)"
            )
        # Only the shape is needed here: the weights come from the run.
        options["network"] = self._own_network or Network(network["name"])
        return method_class(options.pop("name"))(**options)

    def spec(self) -> Spec:
        """The task."""
        card = self.card
        return Spec(len(card["classes"]), card["channels"], tuple(card["image_size"]), self.config["epochs"])

    def data(self, **options: Any) -> data_room.ImageData:
        """The data that the run was trained on, or the same with other options."""
        card = self.card if (self.path / "model.json").is_file() else {}
        found = card.get("classes"), card.get("pixel_range")
        return data_room.load_run(self.path, self.config["data"], options, *found)


def load_weights(network: nn.Module, path: Path, cut: bool = False) -> None:
    """Load a state dict strictly from a safetensors file.

    Args:
        network: Changed in place.
        path: The file.
        cut: Whether the file's network is this one cut to fewer channels: the layers are then made as wide as it says.

    Raises:
        UserError: The file is missing, damaged, or another network's.
    """
    state, _ = read_tensors(path, "train the run again")
    if cut:
        resize(network, {name: tensor.shape for name, tensor in state.items()})
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"{path}: weights of another network ({str(error).splitlines()[-1].strip()})") from error


def read_card(text: str | None, path: Path) -> dict[str, Any]:
    """The card that an exported file carries.

    Raises:
        UserError: It carries none.
    """
    try:
        card: dict[str, Any] = json.loads(text or "")
    except ValueError as error:
        raise UserError(f"{path}: has no card of coterie's; export it again, or name the Run") from error
    return card


def open_exported(path: Path) -> tuple[dict[str, Any], nn.Module]:
    """The card and the network, in evaluation mode, of a safetensors file that ``coterie export`` made.

    Raises:
        UserError: The file is missing, damaged, without a card, or holds weights of a module of the user's own.
    """
    card = read_card(read_tensors(path, "export it again")[1], path)
    if card["network"] is None:
        raise UserError(f"{path}: weights of a module of your own; export ONNX, which carries the network itself")
    spec = Spec(len(card["classes"]), card["channels"], tuple(card["image_size"]))
    with torch.inference_mode(False):  # the network may be trained on, wherever it was asked for
        if card["student"] == "target":
            network = Network(card["network"]).build(spec.num_classes, spec.channels, spec.image_size)
        else:
            options = {**card["options"], "network": card["network"]}
            network = method_class(card["method"])(**options).deliverables(spec)[card["student"]]
    load_weights(network, path, card.get("cut", False))
    return card, network.eval()


def read_metrics(path: Path) -> list[Row]:
    """The rows of a ``metrics.csv``, numbers as numbers; none where the file is missing."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return [{key: _number(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def write_metrics(path: Path, rows: Sequence[Mapping[str, float | int | str]]) -> None:
    """Write rows, whole, with the union of their columns in the order of first appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _number(text: str) -> float | int | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def portable_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """A module's state as contiguous tensors on the CPU, for a file."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
