"""An exported file opened again in a process of its own, in which nothing of coterie can be imported."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coterie.errors import UserError

_BATCH = 32
_PATIENCE = 1800  # seconds

_BEGIN = """
import json, sys
sys.modules["coterie"] = None  # whoever imports it from now on gets an ImportError
import numpy
path, place, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
batches = numpy.load(place + "/images.npz")
"""
_END = """
numpy.save(place + "/logits.npy", numpy.concatenate([run(batches[name]) for name in batches.files]))
"""
_TORCH = """
import torch
torch.set_num_threads(options["threads"])
def run(batch):
    with torch.no_grad():
        return model(torch.from_numpy(batch)).numpy()
"""

WITH_ONNX = """
import onnxruntime
session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
name = session.get_inputs()[0].name
def run(batch):
    return session.run(None, {name: batch})[0]
"""
WITH_TIMM_FOLDER = f"""{_TORCH}
import timm
model = timm.create_model("local-dir:" + path, pretrained=True).eval()
"""
WITH_TIMM = f"""{_TORCH}
import timm, safetensors.torch
try:
    model = timm.create_model(options["name"], **options["arguments"], img_size=options["image_size"])
except TypeError as error:  # most networks take any size and have no such option
    if "img_size" not in str(error):
        raise
    model = timm.create_model(options["name"], **options["arguments"])
model.load_state_dict(safetensors.torch.load_file(path))
model.eval()
"""
WITH_TORCHVISION = f"""{_TORCH}
import torchvision, safetensors.torch
model = torchvision.models.get_model(options["name"], **options["arguments"])
if options["channels"] != 3:
    stem = next(module for module in model.modules() if isinstance(module, torch.nn.Conv2d))
    stem.in_channels = options["channels"]
    stem.weight = torch.nn.Parameter(torch.empty(stem.out_channels, stem.in_channels, *stem.kernel_size))
model.load_state_dict(safetensors.torch.load_file(path))
model.eval()
"""
WITH_EXPORTED_PROGRAM = f"""{_TORCH}
model = torch.export.load(path).module()
"""


def run_afresh(script: str, path: Path, images: Tensor | Sequence[Tensor], **options: Any) -> Tensor:
    """Logits (N, C) of an exported file, from a fresh process without coterie.

    Args:
        script: One of this module's.
        path: The file or folder.
        images: Normalised (N, channels, H, W); or batches, each as the file takes them.
        options: For the script, plain values.

    Raises:
        UserError: The file cannot be opened so, or not be run on these images.
    """
    with tempfile.TemporaryDirectory() as place:
        batches = torch.split(images, _BATCH) if isinstance(images, Tensor) else images
        np.savez(Path(place) / "images.npz", *(batch.contiguous().numpy() for batch in batches))
        told = json.dumps({"threads": torch.get_num_threads(), **options})
        command = [sys.executable, "-P", "-c", _BEGIN + script + _END, str(path.absolute()), place, told]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=_PATIENCE, cwd=place, env=environment
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise UserError(f"{path}: no process could open it again ({error}); export it again") from error
        if done.returncode != 0:
            said = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
            reason = next((line for line in said if line.startswith(("RuntimeError", "TypeError"))), said[-1])
            raise _unopened(path, reason[:300])
        return torch.from_numpy(np.load(Path(place) / "logits.npy"))


def _unopened(path: Path, reason: str) -> UserError:
    return UserError(f"{path}: cannot be opened without coterie ({reason}); not written")
