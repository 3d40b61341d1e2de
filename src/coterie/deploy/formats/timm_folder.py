"""``timm``: a folder that timm opens by itself, which is also one of the Hugging Face Hub."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from coterie.deploy.formats.base import CARD, Deliverable, Written
from coterie.deploy.formats.fresh import WITH_TIMM_FOLDER, run_afresh
from coterie.errors import UserError, in_a_line
from coterie.files import read_text
from coterie.records import Card, parse_card


def check_timm(deliverable: Deliverable) -> None:
    """Refuse a network that timm cannot build again.

    Raises:
        UserError: It is none of timm's, or was changed; or timm is too old.
    """
    import timm
    from timm.models import save_for_hf

    refusal = f"⟨format timm⟩: {deliverable.run.path}, {deliverable.student}"
    if not type(deliverable.network).__module__.startswith("timm."):
        raise UserError(f"{refusal} is no network of timm's; use ⟨format onnx⟩ or ⟨format torch-export⟩")
    if deliverable.card.get("pruned", False):
        raise UserError(
            f"{refusal} has lost channels, and timm builds it whole; use ⟨format onnx⟩ or ⟨format torch-export⟩"
        )
    if "data_config" not in signature(save_for_hf).parameters:
        raise UserError(
            f"⟨format timm⟩: timm {timm.__version__} is too old; install it anew with: pip install 'coterie[export]'"
        )


def is_timm_folder(path: Path) -> bool:
    """Whether a folder is one for timm, and no Run's."""
    return (path / "config.json").is_file() and not (path / "config.yaml").exists()


def open_timm_folder(path: Path) -> tuple[Card, nn.Module]:
    """The card and the network, in evaluation mode.

    Raises:
        UserError: The folder is damaged, or without a card.
    """
    import timm

    if not (path / CARD).is_file():
        raise UserError(f"{path}: has no card of coterie's, {CARD}; export it again, or name the Run")
    card = parse_card(read_text(path / CARD, "export it again"), path / CARD)
    try:
        network = timm.create_model(f"local-dir:{path}", pretrained=True)
    except Exception as error:  # whatever a damaged file makes of it
        raise UserError(f"{path}: cannot be opened by timm ({in_a_line(error)}); export it again") from error
    return card, network.eval()


def _write(deliverable: Deliverable, path: Path) -> None:
    from timm.models import save_for_hf

    card = deliverable.card
    network = deliverable.network.to(memory_format=torch.contiguous_format)  # safetensors takes no other
    preprocessing = {
        "input_size": (card["channels"], *card["image_size"]),
        "mean": tuple(card["mean"]),
        "std": tuple(card["std"]),
        "crop_pct": card.get("crop_ratio", 1.0),
        "crop_mode": "center",
        "interpolation": card.get("interpolation", "bicubic"),
    }
    # The published weights' source and licence are not those of what was trained from them.
    config = {
        "tag": None,
        "hf_hub_id": None,
        "license": None,
        "origin_url": None,
        "paper_name": None,
        "paper_ids": None,
    }
    model_config: dict[str, Any] = {"label_names": list(card["classes"]), "pretrained_cfg": config}
    with _quiet():
        try:
            save_for_hf(
                network,
                str(path),
                model_config=model_config,
                model_args={"num_classes": len(card["classes"]), "in_chans": card["channels"]},
                data_config=preprocessing,
                safe_serialization=True,
            )
        except ValueError as error:  # of arguments of a network of the user's own
            raise UserError(f"⟨format timm⟩: timm cannot describe the network ({in_a_line(error)})") from error


def _again(deliverable: Deliverable, path: Path) -> Tensor:
    return run_afresh(WITH_TIMM_FOLDER, path, deliverable.images)


@contextmanager
def _quiet() -> Iterator[None]:
    log = logging.getLogger("timm")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


TIMM = Written("", _write, _again)
