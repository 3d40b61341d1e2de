"""What a comparison asks: which of these trainings is best for this network on these images."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any

from coterie.bounds import Bounds, PositiveInt
from coterie.checking import check_fields
from coterie.comparison.budget import parse_duration
from coterie.errors import UserError, unknown_name
from coterie.files import user_path
from coterie.methods import METHODS, Method, method_class
from coterie.networks.zoo import Backbone
from coterie.recipes import default_recipe
from coterie.training.precision import PrecisionChoice

ALONE = "alone"
_VALIDATION = 0.1  # of the training images, to choose by, where the user says nothing
# What they deliver is no network of the same size: they are studied, not compared here.
_OTHER_SIZES = ("ensemble", "snapshot", "oem", "compact")


@dataclass(frozen=True)
class Limits:
    """How far a comparison goes.

    Attributes:
        budget: How long it may take, such as ``2h``; None without a limit.
        epochs: Of the network alone on the highest rung; None for what the budget allows.
        seeds: On the highest rung; None for what the budget allows, 5 without one.
    """

    budget: str | None = None
    epochs: PositiveInt | None = None
    seeds: Annotated[int, Bounds(least=2)] | None = None

    def __post_init__(self) -> None:
        check_fields(self, "")
        if self.budget is None and self.epochs is None:
            raise UserError("a comparison needs an end; give ⟨budget 2h⟩ or ⟨epochs 60⟩")
        if self.budget is not None:
            parse_duration(self.budget)

    @property
    def seconds(self) -> float | None:
        """Of the budget."""
        return None if self.budget is None else parse_duration(self.budget)


@dataclass(frozen=True)
class Question:
    """What is compared, in plain values.

    Attributes:
        network: As a Run's ``config.yaml`` has it: ``name``, ``pretrained``, ``weights``.
        data: Arguments of :func:`coterie.data.load`.
        methods: Names of methods, beside the network alone; empty for ONE, and for KD where there is a teacher.
        teacher: A published network such as ``timm/resnet50`` to teach in methods that take one; None without.
        recipe: Its ``name`` and options, of every arm; empty for ``modern``, or ``finetune`` where the network starts
            from trained weights.
        batch_size: Images in a step; None for 128, or fewer, down to 16, so that an epoch has 20 steps.
        precision: See :class:`coterie.training.TrainingOptions`.
    """

    network: dict[str, Any]
    data: dict[str, Any]
    methods: tuple[str, ...] = ()
    teacher: str | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    batch_size: Annotated[int, Bounds(least=2)] | None = None
    precision: PrecisionChoice = "auto"

    def __post_init__(self) -> None:
        check_fields(self, "")
        if self.data.get("validation", _VALIDATION) == 0:
            raise UserError(
                "⟨data.validation⟩ is 0; the best arm is chosen on validation images, so give 0.1, or leave it out"
            )
        if self.teacher is not None and not self.teacher.startswith(("timm/", "torchvision/")):
            raise UserError(
                f"⟨teacher {self.teacher}⟩ is no published network; name one, such as ⟨teacher timm/resnet50⟩, or "
                "train your own in a study"
            )
        for arm, method in self.methods_by_arm().items():
            _check(arm, method)

    def methods_by_arm(self) -> dict[str, dict[str, Any]]:
        """By arm, the method's name and options; the network alone first.

        Raises:
            UserError: A method is unknown.
        """
        names = self.methods or ("one", *(("kd",) if self.teacher is not None else ()))
        arms: dict[str, dict[str, Any]] = {ALONE: {"name": "vanilla"}}
        for name in names:
            if name not in METHODS:
                raise unknown_name("method", name, METHODS)
            if method_class(name).baseline:
                continue
            takes = "teacher" in {each.name for each in fields(method_class(name))}
            arms[name] = {"name": name} | ({"teacher": self.teacher} if takes and self.teacher is not None else {})
        if len(arms) == 1:
            raise UserError(
                "⟨methods⟩ names the network alone, which is compared with in any case; name another, such as one"
            )
        return arms

    def common(self) -> dict[str, Any]:
        """What every training's configuration has beside its method, its epochs and its seed."""
        starts_trained = Backbone.from_record(self.network).starts_trained
        recipe = self.recipe or {"name": default_recipe(starts_trained)}
        found: dict[str, Any] = {"recipe": dict(recipe), "precision": self.precision}
        return found | ({} if self.batch_size is None else {"batch_size": self.batch_size})

    def images(self) -> dict[str, Any]:
        """The arguments of :func:`coterie.data.load`, validation images among them."""
        root = self.data.get("root")
        place = {} if root is None else {"root": str(user_path(root).absolute())}
        return {"validation": _VALIDATION, **self.data, **place}

    def configuration(self, arm: str) -> dict[str, Any]:
        """An arm's configuration without its length and seed."""
        return {"method": self.methods_by_arm()[arm], "network": self.network, "data": self.images(), **self.common()}


def _check(arm: str, method: Mapping[str, Any]) -> None:
    kind: type[Method] = method_class(method["name"])
    if arm in _OTHER_SIZES or kind.prunes:
        raise UserError(f"⟨methods {arm}⟩ delivers no network of the same size; compare it in a study")
    needed = "teacher" in {each.name for each in fields(kind)}
    if needed and "teacher" not in method:
        raise UserError(f"⟨methods {arm}⟩ needs a teacher; name a published network, such as ⟨teacher timm/resnet50⟩")
