"""What a run hands over at its end: the deliverables' weights, and the card that says what they are."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from coterie.data import ImageData
from coterie.evaluation.costs import cost
from coterie.evaluation.predictions import measures
from coterie.files import replacing, write_text
from coterie.methods import Method, Stage
from coterie.methods.frozen_teacher import Adapted
from coterie.metrics import Row
from coterie.networks.zoo import Backbone
from coterie.outputs import answer
from coterie.records import FORMAT
from coterie.run import portable_state
from coterie.training.distribution import predict_split
from coterie.training.folder.resume import method_options
from coterie.training.stages import Setting
from coterie.version import __version__


def deliver(path: Path, method: Method, stage: Stage, setting: Setting, rows: Sequence[Row], best: int | None) -> None:
    """Measure the deliverables in float32 and write them; ``model.json`` comes last, and says all is there.

    Args:
        path: The Run's folder.
        method: What was trained.
        stage: Its last stage.
        setting: The run's.
        rows: One an epoch.
        best: The epoch that was chosen on the validation split; None for the last one.
    """
    networks = stage.deliver
    figures, costs = _measured(networks, stage, setting)
    if not setting.accelerator.is_main_process:
        return
    for number, (name, network) in enumerate(networks.items()):
        file = path / ("model.safetensors" if number == 0 else f"students/{name}.safetensors")
        with replacing(file) as temporary:
            save_file(portable_state(network), temporary)
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
        "data": data.name,
        "selected": "last" if best is None else "best on validation",
        "epoch": rows[-1]["epoch"] if best is None else best,
        "seconds": round(sum(float(row["seconds"]) for row in rows), 1),
        "training_flops": _training_flops(rows),
        "test": figures,
        "cost": costs,
    }
    write_text(path / "model.json", json.dumps(card, indent=2, ensure_ascii=False) + "\n")


def _measured(
    networks: Mapping[str, nn.Module], stage: Stage, setting: Setting
) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
    """Test figures and costs, of every deliverable and of what was trained."""
    data = setting.data
    figures: dict[str, dict[str, float]] = {}
    costs: dict[str, Any] = {}
    for student, network in networks.items():
        predictions = predict_split(network, data, "test", setting.accelerator)
        logits = answer(predictions)
        figures[student] = measures(logits, predictions.labels)
        if predictions.logits.shape[1] > 1:
            for peer, logits in predictions.by_name(stage.group).items():
                figures.setdefault(peer, measures(logits, predictions.labels))
        costs[student] = vars(cost(network, data.channels, data.image_size))
    if stage.network is not None:
        predictions = predict_split(stage.network, data, "test", setting.accelerator)
        for peer, logits in predictions.by_name(stage.peers).items():
            figures.setdefault(peer, measures(logits, predictions.labels))
        costs["training"] = dict(vars(cost(stage.network, data.channels, data.image_size)))
        if stage.teacher is not None:
            costs["training"]["flops"] += sum(_asking(member, data) for member in stage.teacher.members)
    return figures, costs


def _training_flops(rows: Sequence[Row]) -> float | None:
    """Of all stages, teachers that they train among them; None where a compiled network hid them."""
    counted = [float(row["training_flops"]) for row in rows if "training_flops" in row]
    return sum(counted) if len(counted) == len(rows) else None


def _asking(member: Adapted, data: ImageData) -> int:
    """The FLOPs of asking a teacher about an image."""
    size = (data.channels, data.image_size)
    if member.conversion is not None:
        size = (member.conversion[1].channels, member.conversion[1].image_size)
    return cost(member.network, *size).flops
