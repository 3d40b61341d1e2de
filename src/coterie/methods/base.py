"""What a method is: a list of stages, a stage a list of turns.

A method is a dataclass of its options. Its :meth:`Method.stages` builds networks and says what is trained, in plain
PyTorch; the runner in ``coterie.training`` knows nothing more of it. To add a method, write one file with one
subclass of :class:`Method` in this folder, name it in ``coterie/methods/__init__.py``, and test it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Required, TypedDict

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from coterie.bounds import PositiveInt
from coterie.checking import check_fields, check_names
from coterie.errors import UserError
from coterie.methods.frozen_teacher import Adapted, Teacher
from coterie.networks.zoo import Backbone, BackboneLike


@dataclass(frozen=True)
class Task:
    """What a method needs to know of the task.

    Attributes:
        num_classes: C.
        channels: Channels of the images.
        image_size: (height, width) in pixels.
        epochs: The length of a stage that does not say its own.
        open: Opens a trained network by what a user writes for it (a Run folder, a file, a published name), adapted to
            this task's images; None where nothing is to be trained.
    """

    num_classes: int
    channels: int
    image_size: tuple[int, int]
    epochs: int = 1
    open: Callable[[str], Adapted] | None = None


class ParameterGroup(TypedDict, total=False):
    """Parameters with settings of their own, in the form of PyTorch's optimisers.

    Attributes:
        params: The parameters.
        lr: The peak of their learning rate; the recipe's where it is left out.
        decay_factor: Their weight decay, as a multiple of the recipe's; 1 where it is left out.
    """

    params: Required[Sequence[nn.Parameter]]
    lr: float
    decay_factor: float


Parameters = Sequence[nn.Parameter] | Sequence[ParameterGroup]


@dataclass(frozen=True)
class Turn:
    """One forward, backward and step on a batch.

    Attributes:
        module: Maps a :class:`~coterie.outputs.Batch` to a :class:`~coterie.outputs.StepResult`.
        parameters: What this turn updates: parameters, or groups of them with settings of their own. Everything else of
            the module is held still while the turn runs.
        optimiser: Makes the turn's optimiser from groups of parameters; None for the run's own recipe.
    """

    module: nn.Module
    parameters: Parameters
    optimiser: Callable[[list[dict[str, Any]]], Optimizer] | None = None

    def groups(self) -> list[dict[str, Any]]:
        """The parameters as groups, without those that need no gradient now."""
        return parameter_groups(self.parameters)

    def trainable(self) -> list[nn.Parameter]:
        """The parameters of all groups in order, without those that need no gradient now."""
        return [parameter for group in self.groups() for parameter in group["params"]]


def parameter_groups(parameters: Iterable[Any]) -> list[dict[str, Any]]:
    """Parameters, or groups of them, as groups, without those that need no gradient now.

    Args:
        parameters: All of them parameters, or all of them :class:`ParameterGroup`.

    Raises:
        UserError: A group has no ``params``, or a setting of another name.
    """
    groups: list[Any] = list(parameters)
    if not groups or isinstance(groups[0], nn.Parameter):
        groups = [{"params": groups}]
    for group in groups:
        check_names("a group of parameters", group, known=("params", "lr", "decay_factor"), needed=("params",))
    return [{**group, "params": [each for each in group["params"] if each.requires_grad]} for group in groups]


@dataclass(frozen=True)
class Hooks:
    """What a stage does beside its turns.

    Attributes:
        after_step: Called after the turns of every batch with the share of the stage's steps that are over, in
            (0, 1]: moving averages.
        after_validation: Called after every epoch with the network's logits (N, m, C) on the validation images and
            their labels (N,). A stage that has it cannot do without a validation split.
    """

    after_step: Callable[[float], None] | None = None
    after_validation: Callable[[Tensor, Tensor], None] | None = None


@dataclass(frozen=True)
class Stage:
    """One optimisation with one objective.

    Attributes:
        name: Names the stage in the progress bar, the metrics and ``--method.epochs.NAME``.
        turns: Run in order on every batch.
        network: Maps images (B, channels, H, W) to a :class:`~coterie.outputs.PeerOutput` or to logits (B, C);
            measured after every epoch. None where the stage trains no classifier.
        peers: The names of the network's peers, in order.
        deliver: Name to network of what can be deployed after this stage, the first being the default.
        epochs: Length; None for the run's ``--epochs``.
        views: How many augmentations of each image a batch holds.
        schedule: Makes the stage's own learning-rate schedule from (optimiser, steps in the stage), stepped once a
            batch; None for the run's recipe.
        hooks: What the stage does after a step, and with the validation images after an epoch.
        state: Modules beside the turns' whose state belongs into a checkpoint (averages, collected snapshots).
        teacher: What the stage learns from: its test error is said before training, and where images are not augmented
            its answers are computed once and remembered (:meth:`~coterie.methods.frozen_teacher.Teacher.answers`).
        group: The names of the peers of delivered groups, in order; empty where they are those of ``peers``.
        selects: Whether a validation split chooses the epoch; False delivers the last.
    """

    name: str
    turns: Sequence[Turn]
    network: nn.Module | None = None
    peers: Sequence[str] = ("target",)
    deliver: Mapping[str, nn.Module] = field(default_factory=dict)
    epochs: int | None = None
    views: int = 1
    schedule: Callable[[Optimizer, int], LRScheduler] | None = None
    hooks: Hooks = Hooks()
    state: Mapping[str, nn.Module] = field(default_factory=dict)
    teacher: Teacher | None = None
    group: Sequence[str] = ()
    selects: bool = True

    def trains(self, network: nn.Module) -> bool:
        """Whether one of the turns updates any of a network's parameters."""
        trained = {id(parameter) for turn in self.turns for parameter in turn.trainable()}
        return any(id(parameter) in trained for parameter in network.parameters())


@dataclass(frozen=True)
class Edge:
    """One arrow in the drawing of who teaches whom.

    Attributes:
        source: A peer, an ensemble, a teacher.
        to: Who learns from it, or what is made of it.
        label: How: what is taught, at which temperature.
        teaches: False where ``to`` is only made of ``source``.
    """

    source: str
    to: str
    label: str = ""
    teaches: bool = True


@dataclass(kw_only=True)
class Method(ABC):
    """A published way to train a classifier; subclasses are dataclasses of its options.

    Attributes:
        network: The backbone: a name, a :class:`~coterie.networks.zoo.Backbone`, a factory, or a module of yours.
        epochs: Stage name to its own number of epochs, for stages that should differ from the run's.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    # Whether training decides how wide the delivered network's layers are: they are then read off its weights.
    prunes: ClassVar[bool] = False
    # Whether it trains the network alone, as what others are compared with.
    baseline: ClassVar[bool] = False

    network: BackboneLike = "resnet32"
    epochs: dict[str, PositiveInt] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every option against its type hint; a subclass that checks more calls this first.

        Raises:
            UserError: An option is not what its hint says.
        """
        check_fields(self, "method", skip=("network",))

    @abstractmethod
    def stages(self, task: Task) -> Iterator[Stage]:
        """Yield the stages in order. Code after a ``yield`` runs when that stage is trained, or restored."""

    def stage_names(self) -> tuple[str, ...]:
        """The names of the stages in order, known before any is built."""
        return ("train",)

    def deliverables(self, task: Task) -> Mapping[str, nn.Module]:
        """Untrained networks of the shape that this method delivers, by name, the first being the default."""
        deliver: Mapping[str, nn.Module] = {}
        for stage in self.stages(task):
            deliver = stage.deliver or deliver
        return deliver

    def build(self, task: Task) -> nn.Module:
        """The backbone for this task."""
        return Backbone.of(self.network).build(task.num_classes, task.channels, task.image_size)

    def build_another(self, task: Task) -> nn.Module:
        """A backbone of its own for this task, where a method trains several.

        Raises:
            UserError: The network is a module of the user's own, of which there is one.
        """
        if isinstance(Backbone.of(self.network).source, nn.Module):
            raise UserError(
                f"method '{self.name}' trains several networks, and a module of your own is one; give a factory"
            )
        return self.build(task)

    def teaching(self) -> Sequence[Edge]:
        """Who teaches whom and what is made of what, for the drawing of the method; nothing where nobody does."""
        return ()
