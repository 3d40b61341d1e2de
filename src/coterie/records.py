"""What is written down of a training: a Run's ``config.yaml``, and the card in ``model.json`` and in exported files.

Both may come from elsewhere, so each has one reader, which checks it against a schema: whatever is wrong is one line
that names the file and the field. Keys that a newer version added are kept and not looked at.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from coterie.bounds import Bounds, NonNegative, NonNegativeInt, Positive, PositiveInt, PositiveShare
from coterie.checking import make_checked
from coterie.errors import UserError
from coterie.files import parse_json, read_json, read_yaml

_AGAIN = "train the run again"
Side = Annotated[int, Bounds(least=1, most=4096)]
FORMAT = 2  # of the cards that this version writes
AVERAGE = "-average"  # ends the name of a deliverable whose weights are the average of the one named before it
# A loss may be infinite where a network is sure of what is wrong.
Figure = Annotated[float, Bounds(finite=False)]


class NetworkRecord(TypedDict):
    """A backbone by name."""

    name: str
    pretrained: NotRequired[bool]
    weights: NotRequired[str | None]
    drop_path: NotRequired[float | None]
    freeze: NotRequired[str | None]
    checkpoint_activations: NotRequired[bool]


class Configuration(TypedDict):
    """``config.yaml``: all that is needed to repeat a training. Here is what is read of it again.

    The file also has the recipe and all of :class:`coterie.training.TrainingOptions`, which check themselves.

    Attributes:
        method: Its ``name``, and its options.
        network: None for a module of the user's own.
        data: Arguments of :func:`coterie.data.load`; None for an object of the user's own.
        epochs: Of each stage.
        seed: Of everything.
        precision: The one that was chosen.
        threads: As many as there were.
    """

    method: dict[str, Any]
    network: NetworkRecord | None
    data: dict[str, Any] | None
    epochs: PositiveInt
    seed: int
    precision: NotRequired[Literal["bf16", "fp32"]]
    threads: NotRequired[PositiveInt]


class CostRecord(TypedDict):
    """What a deliverable costs: parameters, and FLOPs of one image's forward."""

    parameters: NonNegativeInt
    flops: NonNegativeInt


class Card(TypedDict):
    """``model.json``: what the deployable network is.

    Attributes:
        format: 2; 1 was that of 0.1.0, whose names are read as today's.
        coterie: The version that wrote it.
        method: The method's name.
        network: The backbone's name; None for a module of the user's own.
        options: The method's options.
        deliverables: Names of what can be deployed, the default one first.
        pruned: Whether training decided how wide the layers are.
        peers: Names of a delivered group's peers, in order.
        classes: Names, by index.
        channels: Of the images.
        image_size: [height, width] in pixels.
        mean: Per channel, of pixels scaled to [0, 1].
        std: Per channel.
        pixel_range: What is black and what is white in the images' files; None where their type says it.
        crop_ratio: The share of an image file's shorter side that is taken; 1 where it is not said.
        interpolation: By which image files are resized; bicubic where it is not said.
        data: The data set's name.
        images: How many there are, by split.
        class_images: Training images of each class, by index.
        selected: ``last``, or ``best on validation``.
        epoch: The one that was delivered, from 1.
        seconds: Of training.
        ended: When, in UTC: 2026-11-28T05:17:22+00:00.
        device: On which its last session trained.
        torch: PyTorch's version then.
        training_flops: Of all stages; None where a compiled network hid them.
        test: By part, figures on the test images.
        cost: By part, parameters and FLOPs.
        student: Of an exported file: which deliverable it holds.
        epochs: Of an exported file: those of the Run, on which the number of snapshots depends.
        preprocessing: Of an exported file: how an image becomes what the network takes, step by step, and which steps
            the file does itself.
        quantised: Of an exported file of 8 bits: on how many training images its ranges were taken, and which nodes of
            its graph are not of 8 bits.
        checked: Of an exported file: how it agreed with the network on test images before it was put in place.
    """

    format: NotRequired[int]
    coterie: NotRequired[str]
    method: str
    network: str | None
    options: dict[str, Any]
    deliverables: list[str]
    pruned: NotRequired[bool]
    peers: list[str]
    classes: list[str]
    channels: Literal[1, 3]
    image_size: tuple[Side, Side]
    mean: tuple[float, ...]
    std: tuple[Positive, ...]
    pixel_range: NotRequired[tuple[float, float] | None]
    crop_ratio: NotRequired[PositiveShare]
    interpolation: NotRequired[Literal["bicubic", "bilinear"]]
    data: str
    images: NotRequired[dict[str, NonNegativeInt]]
    class_images: NotRequired[list[NonNegativeInt]]
    selected: NotRequired[str]
    epoch: NotRequired[NonNegativeInt]
    seconds: NotRequired[NonNegative]
    training_flops: NotRequired[NonNegative | None]
    ended: NotRequired[str]
    device: NotRequired[str]
    torch: NotRequired[str]
    test: dict[str, dict[str, Figure]]
    cost: dict[str, CostRecord]
    student: NotRequired[str]
    epochs: NotRequired[PositiveInt]
    preprocessing: NotRequired[dict[str, Any]]
    quantised: NotRequired[dict[str, Any]]
    checked: NotRequired[dict[str, Any]]


# What 0.1.0 called options of these methods, and what they are called now.
_RENAMED: dict[str, dict[str, str]] = {
    "dml": {"own_views": "view_per_peer"},
    "kdcl": {"own_views": "view_per_peer"},
    "ffl": {"fusion_decay": "fusion_weight_decay"},
    "pcl": {"average": "ema_decay", "average_steps": "ema_steps", "own_views": "view_per_peer"},
    "compact": {"structure": "importance"},
    "srm": {"sites": "features", "teacher_sites": "teacher_features"},
    "online": {
        "teaches": "distillations",
        "average": "ema_decay",
        "average_steps": "ema_steps",
        "own_views": "view_per_peer",
        "in_turn": "sequential",
        "supervise": "ce_weight",
        "supervise_ensemble": "ensemble_ce_weight",
        "combiner_decay": "combiner_weight_decay",
        # Of each of its distillations:
        "among": "teachers",
        "to": "students",
        "squared": "scale_by_t2",
        "averaged": "from_ema",
        "Teaches": "Distillation",
    },
}


# Fields that 0.1.0 had not, and what they were, by the kind of part that has them.
_ADDED: dict[str, dict[str, Any]] = {"Distillation": {"loss": "kl"}}


def upgrade_options(method: Any, options: Any) -> Any:
    """A method's options under the names of this version; those of 0.1.0 differ.

    Args:
        method: The method's name.
        options: Plain values, as a file holds them.
    """
    renamed = _RENAMED.get(method, {}) if isinstance(method, str) else {}

    def upgrade(value: Any) -> Any:
        if isinstance(value, dict):
            values = {
                renamed.get(name, name): renamed.get(item, item) if name == "kind" else upgrade(item)
                for name, item in value.items()
            }
            return _ADDED.get(str(values.get("kind")), {}) | values
        return [upgrade(item) for item in value] if isinstance(value, list) else value

    return upgrade(options) if renamed else options


def read_configuration(path: Path) -> Configuration:
    """A Run's ``config.yaml``.

    Raises:
        UserError: It cannot be read, or a field is missing or wrong.
    """
    configuration = make_checked(Configuration, str(path), read_yaml(path, _AGAIN), others=True)
    method = configuration["method"]
    configuration["method"] = upgrade_options(method.get("name"), method)
    configuration["data"] = configuration["data"] or None  # 0.1.0 wrote {} for an object of the user's own
    return configuration


def read_card(path: Path) -> Card:
    """A Run's ``model.json``.

    Raises:
        UserError: It cannot be read, or a field is missing or wrong.
    """
    return check_card(read_json(path, _AGAIN), str(path))


def parse_card(text: str | None, path: Path) -> Card:
    """The card that an exported file carries.

    Raises:
        UserError: It carries none, or a field is missing or wrong.
    """
    if not text:
        raise UserError(f"{path}: has no card of coterie's; export it again, or name the Run")
    card = check_card(parse_json(text, f"the card in {path}", "export it again"), f"the card in {path}")
    if card.get("student") not in card["deliverables"]:
        raise UserError(f"the card in {path}: student is no deliverable; export it again")
    return card


def check_card(content: Any, where: str) -> Card:
    """A card, if it is one.

    Raises:
        UserError: A field is missing or wrong, or fields do not fit each other.
    """
    if isinstance(content, dict) and content.get("format", 1) == 1:
        pruned = {"pruned": content["cut"]} if "cut" in content else {}
        content = {name: value for name, value in content.items() if name != "cut"} | pruned
        content["options"] = upgrade_options(content.get("method"), content.get("options"))
    card = make_checked(Card, where, content, others=True)
    if card.get("format", 1) > FORMAT:
        raise UserError(
            f"{where}: written by coterie {card.get('coterie', '(newer)')}; install that version or a newer one"
        )
    if not card["classes"]:
        raise UserError(f"{where}, classes is empty; a network has one class or more")
    for name, values in (("mean", card["mean"]), ("std", card["std"])):
        if len(values) != card["channels"]:
            raise UserError(f"{where}, {name} has {len(values)} values; write {card['channels']}, one a channel")
    if not card["deliverables"]:
        raise UserError(f"{where}, deliverables is empty; name at least one")
    for name in card["deliverables"]:
        # They name files of the Run: nothing outside of it may be reached.
        if not name or name.startswith(".") or any(sign in name for sign in "/\\\0"):
            raise UserError(f"{where}, deliverables has {name!r}; write a plain name")
    return card
