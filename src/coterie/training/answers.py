"""What teachers say of the training images, remembered where these never change."""

import hashlib
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from coterie.data import ImageData, Resident, evaluation_batches
from coterie.evaluation.predictions import errors_and_nll, predict_batches
from coterie.files import replacing
from coterie.methods.frozen_teacher import Teacher
from coterie.outputs import PeerOutput
from coterie.peers.combine import average_logits
from coterie.training.distribution import predict_split
from coterie.training.precision import autocast
from coterie.training.stages import Setting

# More than this is not remembered: a gigabyte is a million images of 256 classes.
_LARGEST = 2**30


class _Group(nn.Module):
    """A teacher as a group of peers with their mean, as the runner measures one."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(self, images: Tensor) -> PeerOutput:
        logits = self.teacher(images)
        return PeerOutput(logits, ensemble=average_logits(logits))


def prepare(teacher: Teacher, setting: Setting, folder: Path, begun: bool) -> None:
    """Say a teacher's test error, and remember its answers where the training images never change.

    Args:
        teacher: On the device already.
        setting: The run's.
        folder: Where remembered answers are kept between sessions.
        begun: An earlier session began the stage and has said the errors.
    """
    data, accelerator = setting.data, setting.accelerator
    with autocast(accelerator.device, setting.options.precision):
        if not begun:
            found = predict_split(_Group(teacher), data, "test", accelerator)
            errors = [f"{errors_and_nll(peer, found.labels)['error']:.2f} %" for peer in found.logits.unbind(1)]
            said = f"teacher{'s' if len(errors) > 1 else ''}: test error {', '.join(errors)}"
            if len(errors) > 1 and found.ensemble is not None:
                said += f", together {errors_and_nll(found.ensemble, found.labels)['error']:.2f} %"
            setting.reporter.say(said)
        size = 4 * len(data.train) * len(teacher.members) * len(data.classes)
        fixed = data.augment == "none" and not setting.recipe.mixing.mixes  # of a mixed image no answer was remembered
        if teacher.remembers and fixed and isinstance(data.train, Resident) and size <= _LARGEST:
            teacher.remember(_answers(teacher, data, data.train, setting, folder).to(accelerator.device))


def _answers(teacher: Teacher, data: ImageData, images: Resident, setting: Setting, folder: Path) -> Tensor:
    """Logits (N, t, C) of all training images, from the folder's file where it is of the same teachers and images."""
    device, precision = setting.accelerator.device, setting.options.precision
    facts = f"{teacher.fingerprint.tolist()} {data.mean} {data.std} {device.type} {precision} {setting.batch_size}"
    digest = hashlib.blake2b(facts.encode(), digest_size=16)
    digest.update(images.data.numpy().data)
    key = digest.hexdigest()
    file = folder / f"answers-{key}.safetensors"
    kept = _kept(file, key)
    if kept is not None:
        return kept
    # In batches of the training's size: some kernels round differently for another.
    batches = evaluation_batches(data, images, batch_size=setting.batch_size)
    logits = predict_batches(_Group(teacher), batches, device).logits.cpu().contiguous().clone()
    if setting.accelerator.is_main_process:
        with replacing(file) as temporary:
            save_file({"logits": logits}, temporary, metadata={"key": key, "content": _content(logits)})
    return logits


def _kept(file: Path, key: str) -> Tensor | None:
    """The tensor of a file that is whole and of this key; None otherwise, for it to be computed again."""
    try:
        with safe_open(file, framework="pt") as opened:
            facts, logits = opened.metadata() or {}, opened.get_tensor("logits")
    except (FileNotFoundError, SafetensorError):
        return None
    return logits if facts.get("key") == key and facts.get("content") == _content(logits) else None


def _content(tensor: Tensor) -> str:
    return hashlib.blake2b(tensor.numpy().data, digest_size=16).hexdigest()
