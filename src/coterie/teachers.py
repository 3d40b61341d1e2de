"""Trained networks from elsewhere as teachers."""

from torch import nn

from coterie.data import ImageData
from coterie.errors import UserError
from coterie.files import user_path
from coterie.methods.frozen_teacher import Adapted, Input
from coterie.methods.offline import LIBRARIES, is_of_library
from coterie.networks import libraries
from coterie.networks.layers import classifiers
from coterie.networks.weights import load_matching
from coterie.networks.zoo import NETWORKS, Backbone
from coterie.records import Card
from coterie.run import Run, open_exported

_OPTION = "⟨method.teacher⟩"


def open_teacher(source: str, data: ImageData) -> Adapted:
    """A trained network, adapted to the images of ``data``.

    Args:
        source: A Run folder (``runs/one``), one of its deliverables (``runs/one:ensemble``), a file of ``coterie
            export`` (``net.safetensors``), a network with weights of the user's own
            (``resnet20@weights.safetensors``, ``timm/resnet18@weights.safetensors``), or a library's published weights
            (``timm/resnet18.a1_in1k``). Networks of a library take images of the size, mean and std that its table
            gives them; our own take them as the data have them.
        data: What the teacher is to be asked about; its classes must be the teacher's. A library's network whose
            weights know another number of classes comes with a fresh classifier, which a linear probe has to train.

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
    if is_of_library(source):
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
    of_library = name.startswith(LIBRARIES)
    wanted = (_library_input(name) if of_library else None) or given
    network = Backbone(name).build(len(data.classes), wanted.channels, wanted.image_size)
    replaced = load_matching(network, user_path(file), replace_classifier=of_library, option=_OPTION)
    return Adapted(network, given, wanted, fresh=classifiers(network) if replaced else ())


def _published(source: str, data: ImageData, given: Input) -> Adapted:
    wanted = _library_input(source)  # refuses an unknown name
    library, _, name = source.partition("/")
    classes = libraries.published_classes(library, name)
    if wanted is None or classes is None:
        raise UserError(f"{_OPTION} {source}: has no published weights; write {source}@FILE.safetensors")
    shape = len(data.classes), wanted.channels, wanted.image_size
    mend = f"write {source}@FILE.safetensors"
    network = libraries.make(library, name, *shape, pretrained=True, mend=mend)
    return Adapted(network, given, wanted, fresh=() if classes == len(data.classes) else classifiers(network))


def _library_input(name: str) -> Input | None:
    found = Backbone(name, pretrained=True).preprocessing()
    return None if found is None else Input(len(found.mean), found.image_size, found.mean, found.std)
