"""Trained networks from elsewhere as teachers, and their remembered answers."""

import hashlib
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from coterie.data import ImageData, Resident, evaluation_batches
from coterie.errors import UserError
from coterie.evaluation.predictions import errors_and_nll, predict_batches
from coterie.files import replacing, user_path
from coterie.methods.frozen_teacher import Adapted, Input, Teacher
from coterie.networks import libraries
from coterie.networks.weights import load_matching
from coterie.networks.zoo import NETWORKS, Backbone
from coterie.outputs import PeerOutput
from coterie.peers.combine import average_logits
from coterie.records import Card
from coterie.run import Run, open_exported
from coterie.training.distribution import predict_split
from coterie.training.precision import autocast
from coterie.training.stages import Setting

_OPTION = "⟨method.teacher⟩"
_LIBRARIES = ("timm/", "torchvision/")
# More than this is not remembered: a gigabyte is a million images of 256 classes.
_LARGEST = 2**30


def open_teacher(source: str, data: ImageData) -> Adapted:
    """A trained network, adapted to the images of ``data``.

    Args:
        source: A Run folder (``runs/one``), one of its deliverables (``runs/one:ensemble``), a file of ``coterie
            export`` (``net.safetensors``), a network with weights of the user's own
            (``resnet20@weights.safetensors``, ``timm/resnet18@weights.safetensors``), or a library's published weights
            (``timm/resnet18.a1_in1k``). Networks of a library take images of the size, mean and std that its table
            gives them; our own take them as the data have them.
        data: What the teacher is to be asked about; its classes must be the teacher's.

    Raises:
        UserError: There is no such network, it is damaged or unfinished, or it knows other classes.
    """
    given = Input(data.channels, data.image_size, data.mean, data.std)
    path = user_path(source)
    folder, _, student = source.rpartition(":")
    name, _, file = source.partition("@")
    if path.is_dir():
        return _of_run(Run(path), None, source, data, given)
    if folder and user_path(folder).is_dir():
        return _of_run(Run(folder), student, source, data, given)
    if file and not path.is_file():  # a path may hold an @ too
        return _with_weights(name, file, data, given)
    if path.suffix == ".safetensors":
        return _of_card(*open_exported(path), source, data, given)
    if path.suffix == ".onnx":
        raise UserError(f"{_OPTION} {source}: an ONNX file cannot teach; name the Run, or export safetensors")
    if source.startswith(_LIBRARIES):
        return _published(source, data, given)
    if source in NETWORKS:
        raise UserError(f"{_OPTION} {source}: has no published weights; write {source}@FILE.safetensors")
    raise UserError(
        f"{_OPTION} {source}: no such Run folder or file; give a Run (RUN or RUN:ensemble), an exported .safetensors, "
        "NAME@FILE.safetensors, or timm/NAME"
    )


def _of_run(run: Run, student: str | None, source: str, data: ImageData, given: Input) -> Adapted:
    card = run.card
    if card["network"] is None:
        raise UserError(f"{_OPTION} {source}: trained from a module of your own; name a Run of a network by name")
    return _of_card(card, run.network(student), source, data, given)


def _of_card(card: Card, network: nn.Module, source: str, data: ImageData, given: Input) -> Adapted:
    if card["classes"] != list(data.classes):
        theirs, ours = len(card["classes"]), len(data.classes)
        how = f"knows {theirs} classes, and the data have {ours}" if theirs != ours else "has classes of other names"
        raise UserError(f"{_OPTION} {source}: {how}; give a teacher of the classes of '{data.name}'")
    wanted = Input(card["channels"], card["image_size"], card["mean"], card["std"])
    return Adapted(network, given, wanted)


def _with_weights(name: str, file: str, data: ImageData, given: Input) -> Adapted:
    wanted = _library_input(name) if name.startswith(_LIBRARIES) else None
    wanted = wanted or given
    network = Backbone(name).build(len(data.classes), wanted.channels, wanted.image_size)
    load_matching(network, user_path(file), replace_classifier=False, option=_OPTION)
    return Adapted(network, given, wanted)


def _published(source: str, data: ImageData, given: Input) -> Adapted:
    wanted = _library_input(source)  # refuses an unknown name
    library, _, name = source.partition("/")
    classes = libraries.published_classes(library, name)
    if wanted is None or classes is None:
        raise UserError(f"{_OPTION} {source}: has no published weights; write {source}@FILE.safetensors")
    if classes != len(data.classes):
        raise UserError(
            f"{_OPTION} {source}: its published weights know {classes} classes, and the data have "
            f"{len(data.classes)}; fine-tune it first (coterie train --method vanilla --network {source} "
            "--network.pretrained true) and name that Run"
        )
    network = Backbone(source, pretrained=True).build(classes, wanted.channels, wanted.image_size)
    return Adapted(network, given, wanted)


def _library_input(name: str) -> Input | None:
    found = Backbone(name, pretrained=True).preprocessing()
    return None if found is None else Input(len(found.mean), found.image_size, found.mean, found.std)


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
            errors = [f"{errors_and_nll(peer, found.labels)['error']:.2f}" for peer in found.logits.unbind(1)]
            said = f"teacher{'s' if len(errors) > 1 else ''}: test error % {' '.join(errors)}"
            if len(errors) > 1 and found.ensemble is not None:
                said += f", together {errors_and_nll(found.ensemble, found.labels)['error']:.2f}"
            setting.reporter.say(said)
        size = 4 * len(data.train) * len(teacher.members) * len(data.classes)
        if teacher.remembers and data.augment == "none" and isinstance(data.train, Resident) and size <= _LARGEST:
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
