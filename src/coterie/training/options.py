"""A run's options, what is derived from them, and ``config.yaml``."""

from dataclasses import dataclass, replace
from os import PathLike
from typing import Annotated, Any, Literal, cast, get_args

import torch

from coterie.bounds import Bounds, NonNegativeInt, PositiveInt
from coterie.checking import check_fields, check_value
from coterie.data import ImageData
from coterie.errors import UserError, show_value, unknown_name
from coterie.methods import Method
from coterie.recipes import Recipe
from coterie.records import Configuration
from coterie.training.precision import PrecisionChoice

DeviceChoice = Literal["auto", "cpu", "cuda", "mps"]
TrackerName = Literal["tensorboard", "wandb", "mlflow"]

_DEFAULT_BATCH = 128
_WEEK = 7 * 24 * 60  # minutes


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How a method is trained.

    Here an option of training stands once: :func:`coterie.train` takes the fields as keyword arguments, the command
    line makes flags of them, and ``config.yaml`` holds them.

    Attributes:
        epochs: The length of each stage.
        batch_size: Images in a step over all processes; None for 128, or all images where there are fewer.
        seed: Of initialisation, order, augmentation and noise.
        precision: ``auto`` is a fixed rule, ``trial`` measures, ``bf16`` and ``fp32`` are themselves.
        threads: CPU threads; None for PyTorch's own choice.
        device: Where to train; ``auto`` takes CUDA or MPS where present.
        timeout_minutes: How long a process waits for the others, where there are several, before it ends.
        compile: Whether the network goes through torch.compile.
        capture: Whether the step is recorded once as a CUDA graph and replayed, where the method allows it: on one CUDA
            device, not compiled.
        deterministic: Whether only kernels may run that compute the same every time; CUDA has faster ones that do not.
        patience: Epochs without a lower validation error after which a stage ends; None trains them all. The rate's
            schedule is that of all epochs.
        accumulate: Parts that a batch is computed in, one after the other, before a step: for batches that memory does
            not hold. The same step but for batch norm, and losses that compare images, which see a part at a time.
            ``auto`` tries before each stage how many a GPU's memory needs: 1, 2, 4 and so on.
        sync_batch_norm: Whether batch norm takes mean and variance over the images of all processes, where there are
            several, rather than over each one's own.
        start_from: The folder of a finished Run of the same method, network and classes, to go on from with its
            branches; on the command line ``--from``. Its FLOPs and seconds count as this run's.
        test_every: Epochs from one look at the test images to the next; the last epoch of a stage always has one.
        track: Where figures are written beside ``metrics.csv``, with commas between: ``tensorboard``; ``wandb``,
            offline unless ``WANDB_MODE`` is set; ``mlflow``, in the Run's folder unless ``MLFLOW_TRACKING_URI`` is set.
    """

    epochs: Annotated[int, Bounds(least=1, most=1_000_000)] = 30
    batch_size: Annotated[int, Bounds(least=2)] | None = None
    seed: NonNegativeInt = 0
    precision: PrecisionChoice = "auto"
    threads: Annotated[int, Bounds(least=1, most=1024)] | None = None
    device: DeviceChoice = "auto"
    timeout_minutes: Annotated[float, Bounds(above=0, most=_WEEK)] = 30.0
    compile: bool = False
    capture: bool = False
    deterministic: bool = False
    patience: PositiveInt | None = None
    accumulate: Annotated[int, Bounds(least=1, most=1024)] | Literal["auto"] = 1
    sync_batch_norm: bool = False
    start_from: str | None = None
    test_every: PositiveInt = 1
    track: str | None = None

    def __post_init__(self) -> None:
        check_fields(self, "")
        if self.capture and self.compile:
            raise UserError("⟨capture⟩ records the network as it is; leave ⟨compile⟩ out")
        if self.sync_batch_norm and self.compile:
            raise UserError("⟨sync_batch_norm⟩ is not compiled; leave ⟨compile⟩ out")
        for name in self.trackers:
            if name not in get_args(TrackerName):
                raise unknown_name("⟨track⟩", name, get_args(TrackerName))

    @property
    def trackers(self) -> tuple[TrackerName, ...]:
        """The names in ``track``, each once."""
        names = [] if self.track is None else [name.strip() for name in self.track.split(",")]
        return cast(tuple[TrackerName, ...], tuple(dict.fromkeys(names)))

    def fit_to(self, data: ImageData) -> "TrainingOptions":
        """The same options with the default batch size, which is no larger than the data.

        Raises:
            UserError: There are too few images for a batch.
        """
        count = len(data.train)
        if count < 2:
            raise UserError(f"data '{data.name}' has {count} training image; batch norm needs two or more")
        if self.patience is not None and data.validation is None:
            raise UserError("⟨patience⟩ looks at validation images, and there are none; add ⟨data.validation 0.1⟩")
        if self.batch_size is None:
            return replace(self, batch_size=min(_DEFAULT_BATCH, count))
        if self.batch_size > count:
            raise UserError(
                f"⟨batch_size⟩ is {self.batch_size}, and there are {count} training images; use {count} at most"
            )
        return self

    def take_over(self, previous: Configuration) -> "TrainingOptions":
        """The same options with an earlier session's precision and threads, where these are left open now."""
        precision = previous.get("precision", "auto") if self.precision in ("auto", "trial") else self.precision
        return replace(self, precision=precision, threads=self.threads or previous.get("threads"))

    def settle(self, precision: str) -> "TrainingOptions":
        """The same options with this precision and PyTorch's number of threads: nothing is left open."""
        return replace(
            self, precision=cast(PrecisionChoice, precision), threads=self.threads or torch.get_num_threads()
        )


def check_objects(method: Any, data: Any, out: Any, recipe: Any, **switches: Any) -> None:
    """Refuse what is no object of ours, such as the names that the command line takes.

    Raises:
        UserError: Names the argument, and what makes the object.
    """
    wanted = (
        ("method", method, Method, "a method, for example coterie.methods.One(network='resnet32')"),
        ("data", data, ImageData, "what coterie.data.load gives, for example coterie.data.load('digits')"),
        ("recipe", recipe, Recipe | None, "a recipe, for example coterie.training.Transformer()"),
        ("out", out, str | PathLike, "the path of a folder, for example 'runs/one'"),
    )
    for name, value, kind, example in wanted:
        if not isinstance(value, kind):
            raise UserError(f"{name} is {show_value(value)}; give {example}")
    for name, value in switches.items():
        check_value(f"⟨{name}⟩", value, bool)
