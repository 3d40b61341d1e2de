"""What a run hands over at its end: the deliverables' weights, what they took for what, and the card."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import nn

from coterie.confusions import Pair, count_pairs, write_confusions
from coterie.data import ImageData
from coterie.evaluation.costs import cost
from coterie.evaluation.predictions import measures
from coterie.files import replacing, write_text
from coterie.methods import Method, Stage
from coterie.methods.frozen_teacher import Adapted
from coterie.metrics import Row
from coterie.networks.zoo import Backbone
from coterie.outputs import answer
from coterie.records import AVERAGE, FORMAT, Card
from coterie.run import portable_state
from coterie.training.distribution import predict_split
from coterie.training.folder.resume import method_options
from coterie.training.stages import Setting
from coterie.training.stages.averaging import Averages
from coterie.version import __version__


@dataclass(frozen=True)
class Delivery:
    """What the last stage of a run hands over.

    Attributes:
        stage: The stage.
        averages: Its averaged weights, if there are any.
        prefers_average: Whether these are the default.
    """

    stage: Stage
    averages: Averages | None
    prefers_average: bool

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Name to network of what can be deployed, averages behind; but the first is the default."""
        averaged = {} if self.averages is None else self.averages.deliver
        networks = {**self.stage.deliver, **averaged}
        default = next(iter(self.stage.deliver))
        if self.prefers_average and default + AVERAGE in averaged:
            default += AVERAGE
        return {default: networks[default], **networks}

    @property
    def trained(self) -> list[tuple[str, nn.Module]]:
        """The network that was trained and its average, each with what its peers' names end with."""
        networks = {"": self.stage.network, AVERAGE: None if self.averages is None else self.averages.network}
        return [(ending, network) for ending, network in networks.items() if network is not None]


def deliver(
    path: Path,
    method: Method,
    delivery: Delivery,
    setting: Setting,
    rows: Sequence[Row],
    best: int | None,
    before: Card | None = None,
) -> None:
    """Measure the deliverables in float32 and write them; ``model.json`` comes last, and says all is there.

    Args:
        path: The Run's folder.
        method: What was trained.
        delivery: What its last stage hands over.
        setting: The run's.
        rows: One an epoch.
        best: The epoch that was chosen on the validation split; None for the last one.
        before: The card of the Run that was gone on from, whose seconds and FLOPs count too; None for none.
    """
    networks, stage = delivery.networks, delivery.stage
    figures, costs, confusions = _measured(delivery, setting)
    if not setting.accelerator.is_main_process:
        return
    for number, (name, network) in enumerate(networks.items()):
        file = path / ("model.safetensors" if number == 0 else f"students/{name}.safetensors")
        with replacing(file) as temporary:
            save_file(portable_state(network), temporary)
    write_confusions(path / "confusions.json", confusions)
    data, backbone = setting.data, Backbone.of(method.network).source
    card = {
        "format": FORMAT,
        "coterie": __version__,
        "method": method.name,
        "network": backbone if isinstance(backbone, str) else None,
        "options": method_options(method),
        "deliverables": list(networks),
        "pruned": method.prunes,
        "peers": list(stage.group or stage.peers),
        "classes": list(data.classes),
        "channels": data.channels,
        "image_size": list(data.image_size),
        "mean": list(data.mean),
        "std": list(data.std),
        "pixel_range": None if data.pixel_range is None else list(data.pixel_range),
        "crop_ratio": data.crop_ratio,
        "interpolation": data.interpolation,
        "data": data.name,
        "images": {split: len(getattr(data, split) or ()) for split in ("train", "validation", "test")},
        "class_images": np.bincount(data.train.labels, minlength=len(data.classes)).tolist(),
        "selected": "last" if best is None else "best on validation",
        "epoch": rows[-1]["epoch"] if best is None else best,
        "seconds": round(sum(float(row["seconds"]) for row in rows) + (before["seconds"] if before else 0), 1),
        "training_flops": _training_flops(rows, before),
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": _name_device(setting.accelerator),
        "torch": torch.__version__,
        "test": figures,
        "cost": costs,
    }
    write_text(path / "model.json", json.dumps(card, indent=2, ensure_ascii=False) + "\n")


def _name_device(accelerator: Accelerator) -> str:
    """Its kind, or its name where it is a GPU of NVIDIA's, and how many."""
    device, count = accelerator.device, accelerator.num_processes
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{count} × {name}" if count > 1 else name


def _measured(
    delivery: Delivery, setting: Setting
) -> tuple[dict[str, dict[str, float]], dict[str, Any], dict[str, list[Pair]]]:
    """Test figures and costs, of every deliverable and of what was trained; and deliverables' confusions."""
    data, stage = setting.data, delivery.stage
    figures: dict[str, dict[str, float]] = {}
    costs: dict[str, Any] = {}
    confusions: dict[str, list[Pair]] = {}
    for student, network in delivery.networks.items():
        predictions = predict_split(network, data, "test", setting.accelerator)
        logits = answer(predictions)
        figures[student] = measures(logits, predictions.labels)
        confusions[student] = count_pairs(logits, predictions.labels)
        if predictions.logits.shape[1] > 1:
            ending = AVERAGE if student.endswith(AVERAGE) else ""
            for peer, logits in predictions.by_name(stage.group).items():
                figures.setdefault(peer + ending, measures(logits, predictions.labels))
        costs[student] = vars(cost(network, data.channels, data.image_size))
    for ending, network in delivery.trained:
        predictions = predict_split(network, data, "test", setting.accelerator)
        for peer, logits in predictions.by_name(stage.peers).items():
            figures.setdefault(peer + ending, measures(logits, predictions.labels))
    if stage.network is not None:
        costs["training"] = dict(vars(cost(stage.network, data.channels, data.image_size)))
        if stage.teacher is not None:
            costs["training"]["flops"] += sum(_asking(member, data) for member in stage.teacher.members)
    return figures, costs, confusions


def _training_flops(rows: Sequence[Row], before: Card | None) -> float | None:
    """Of all stages, teachers that they train among them, and of the Run that was gone on from.

    None where a compiled network hid them.
    """
    counted = [float(row["training_flops"]) for row in rows if "training_flops" in row]
    earlier = 0.0 if before is None else before["training_flops"]
    return sum(counted) + earlier if len(counted) == len(rows) and earlier is not None else None


def _asking(member: Adapted, data: ImageData) -> int:
    """The FLOPs of asking a teacher about an image."""
    size = (data.channels, data.image_size)
    if member.conversion is not None:
        size = (member.conversion[1].channels, member.conversion[1].image_size)
    return cost(member.network, *size).flops
