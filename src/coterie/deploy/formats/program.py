"""``torch-export``: the network as a program that plain PyTorch runs, without its code."""

import io
import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from coterie.deploy.formats.base import Deliverable, Logits, Written
from coterie.deploy.formats.fresh import WITH_EXPORTED_PROGRAM, run_afresh
from coterie.errors import UserError, in_a_line
from coterie.records import Card, parse_card

_CARD = "coterie.json"  # in the archive


def open_program(path: Path) -> tuple[Card, Callable[[Tensor], Tensor]]:
    """The card of a ``.pt2`` file, and what gives logits (B, C) for normalised images (B, channels, H, W).

    Raises:
        UserError: It is damaged, of a newer PyTorch, holds pickled objects, or has no card.
    """
    told = {_CARD: ""}
    try:
        _refuse_pickles(path)
        module = torch.export.load(path, extra_files=told).module()
    except UserError:
        raise
    except Exception as error:  # whatever the bytes of a damaged file spell
        raise UserError(f"{path}: damaged or no file of torch.export ({in_a_line(error)}); export it again") from error
    text = told[_CARD]
    return parse_card(text.decode() if isinstance(text, bytes) else text, path), module


def _refuse_pickles(path: Path) -> None:
    """Refuse an archive of which PyTorch would unpickle more than tensors.

    Raises:
        UserError: It holds such objects.
    """
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        pickled = [name for name in names if "/data/sample_inputs/" in name]
        for config in (name for name in names if name.endswith(("_weights_config.json", "_constants_config.json"))):
            entries = json.loads(archive.read(config)).get("config", {}).values()
            place = config.rpartition("/")[0]
            pickled += [f"{place}/{entry['path_name']}" for entry in entries if entry.get("use_pickle")]
        for name in pickled:
            try:
                torch.load(io.BytesIO(archive.read(name)), weights_only=True)
            except Exception as error:  # code, or what is no pickle at all
                raise UserError(
                    f"{path}: {name.partition('/')[2]} holds pickled objects, which may run code; coterie opens none"
                ) from error


def _write(deliverable: Deliverable, path: Path) -> None:
    batch = torch.export.Dim("batch")
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # PyTorch's own deprecations are not the user's concern
            program = torch.export.export(
                Logits(deliverable.network).eval(),
                (torch.zeros_like(deliverable.images[:2]),),  # the file keeps them: no images of the user's
                dynamic_shapes=({0: batch},),
            )
            torch.export.save(program, path, extra_files={_CARD: json.dumps(deliverable.card)})
    except OSError:
        raise
    except Exception as error:  # a network of the user's own may do what cannot be traced
        raise UserError(
            f"⟨format torch-export⟩: PyTorch cannot export the network for any number of images ({in_a_line(error)}); "
            "use ⟨format safetensors⟩"
        ) from error


def _again(deliverable: Deliverable, path: Path) -> Tensor:
    return run_afresh(WITH_EXPORTED_PROGRAM, path, deliverable.images)


TORCH_EXPORT = Written(".pt2", _write, _again)
