"""Offline distillation: the base of methods whose teachers are trained first, and where these teachers come from.

A method of this kind is a dataclass of its options over :class:`OfflineMethod`. Its ``stages`` begins with

    teacher = yield from self.teacher_stages(task)

which trains the teachers where none is named, or a library's network's classifier where its weights know other classes,
and returns them as one module, the frozen :class:`~coterie.methods.frozen_teacher.Teacher`. The stage in which the
student learns is then made by ``Stage(…, teacher=teacher)``.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.optim import Adam

from coterie.bounds import Count
from coterie.errors import UserError
from coterie.files import user_path
from coterie.methods.base import Edge, Method, Stage, Task
from coterie.methods.frozen_teacher import Teacher
from coterie.methods.linear_probe import LinearProbe, make_probe_stage
from coterie.methods.vanilla import make_plain_stage
from coterie.networks.zoo import Backbone

LIBRARIES = ("timm/", "torchvision/")

# Adam's, of a probe: features may have any scale, which one rate of SGD does not fit. Of 3e-4 to 3e-2 it erred least on
# EfficientNet-Lite0's features of 168 flags and of Fashion-MNIST, in 5 epochs and in 30.
_PROBE_RATE = 3e-3


def is_of_library(source: str) -> bool:
    """Whether a teacher's source names a network of timm or torchvision, whose weights may know other classes."""
    folder = source.rpartition(":")[0] or source
    return source.startswith(LIBRARIES) and not user_path(folder).exists() and not user_path(source).exists()


@dataclass(kw_only=True)
class OfflineMethod(Method):
    """A method whose student learns from teachers that were trained before it.

    Attributes:
        network: The student: a name, a factory, or a module of yours.
        epochs: Stage name to its own number of epochs.
        teacher: Trained teachers, separated by commas: a Run folder (``runs/one``), one of its deliverables
            (``runs/one:ensemble``), an exported file (``net.safetensors``), weights of a network by name
            (``resnet20@weights.safetensors``), or published ones (``timm/NAME``). Where weights of a library's network
            know another number of classes, a linear probe is trained first, in stage ``teacher-probe``. None trains
            the teachers first.
        teacher_network: The name of the network of teachers that are trained first; None for the student's own.
        teachers: How many teachers are trained first, in stages ``teacher``, or ``teacher1``, ``teacher2`` and so on.
        remember: Whether teachers are asked once an image, and not once an epoch, where images are not augmented
            (``--data.augment none``); the result is the same.
    """

    teacher: str | Sequence[str] | None = None
    teacher_network: str | None = None
    teachers: Count = 1
    remember: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.teacher, str):
            self.teacher = self.teacher.split(",")
        self.teacher = [source.strip() for source in self.teacher] if self.teacher is not None else None
        if self.teacher is not None and (not self.teacher or not all(self.teacher)):
            raise UserError("⟨method.teacher⟩ names no teacher; give a Run folder or a file, or leave it out")
        asked = self.teachers != type(self).teachers
        if self.teacher is not None and (asked or self.teacher_network is not None):
            raise UserError(
                "⟨method.teacher⟩ names trained teachers; leave out ⟨method.teachers⟩ and ⟨method.teacher_network⟩, "
                "which train new ones"
            )

    def teacher_stage_names(self) -> tuple[str, ...]:
        """The stages that train teachers; of those that are given, the linear probes of a library's networks.

        A probe is left out where the network's weights know the number of the data's classes.
        """
        if self.teacher is not None:
            return _numbered("teacher-probe", sum(map(is_of_library, self.teacher)))
        return _numbered("teacher", self.teachers)

    def teacher_names(self) -> tuple[str, ...]:
        """What the teachers are called: by the user, or as the stages that train them."""
        return self.teacher_stage_names() if self.teacher is None else tuple(self.teacher)

    def teacher_stages(self, task: Task) -> Generator[Stage, None, Teacher]:
        """Yield the stages that train the teachers, if any, and give the teachers frozen.

        Raises:
            UserError: A named teacher is missing, unfinished, damaged, or knows other classes; before any stage.
        """
        if self.teacher is not None:
            if task.open is None:
                raise UserError("a named teacher is opened by Task.open; use coterie.train, or give it")
            # Opening builds a network, which must not change the random numbers that the student starts from.
            with torch.random.fork_rng(devices=[]):
                opened = [task.open(source) for source in self.teacher]
            names = iter(self.teacher_stage_names())
            for source, adapted in zip(self.teacher, opened, strict=True):
                name = next(names) if is_of_library(source) else ""
                if adapted.fresh:
                    yield make_probe_stage(name, LinearProbe(adapted, adapted.fresh), partial(Adam, lr=_PROBE_RATE))
            return Teacher(opened, self.remember)
        trained = []
        for name in self.teacher_stage_names():
            trained.append(self._untrained_teacher(task))
            yield make_plain_stage(name, trained[-1])
        return Teacher(trained, self.remember)

    def teaching(self) -> Sequence[Edge]:
        """Every teacher teaches the student."""
        return [Edge(name, "target", "soft labels") for name in self.teacher_names()]

    def deliverables(self, task: Task) -> Mapping[str, nn.Module]:
        """The student; its teachers are not needed for its shape."""
        return {"target": self.build(task)}

    def _untrained_teacher(self, task: Task) -> nn.Module:
        if self.teacher_network is None:
            return self.build_another(task)
        return Backbone(self.teacher_network).build(task.num_classes, task.channels, task.image_size)


def _numbered(name: str, count: int) -> tuple[str, ...]:
    return (name,)[:count] if count < 2 else tuple(f"{name}{index + 1}" for index in range(count))
