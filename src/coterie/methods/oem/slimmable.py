"""A network and slimmer ones of its kind over one shared base: peers of several widths, each a whole network."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, Literal

import torch
from torch import Tensor, nn

from coterie.errors import UserError
from coterie.methods.oem.slimming import plan_slimming, slim_network
from coterie.networks.preserve import preserve_state
from coterie.networks.protocols import NamesStages
from coterie.networks.shapes import example_images, layout
from coterie.networks.split.graph import find_output, split_graph
from coterie.networks.split.points import list_split_points
from coterie.networks.split.segments import SplitForwards
from coterie.networks.split.tracing import find_parents, trace
from coterie.outputs import PeerOutput, at_least_float32

Maps = tuple[Tensor, ...]
BaseGradient = Literal["all", "pseudo-teacher"]

_BLOCKS = 3  # above the base: "four blocks of roughly equal depth"


class SlimmableEnsemble(nn.Module):
    """S networks of falling width over one base; the first is the user's own model at full width.

    Above the base no two of them share weights, unlike the widths of a slimmable network of Yu et al. (ICLR 2019).

    Maps images (B, channels, H, W) to a :class:`~coterie.outputs.PeerOutput` with logits (B, S, C), their plain mean
    as the ensemble (B, C), and the outputs of each student's blocks. The base runs once. Each student is also a whole
    network by itself, whose base is the model's own modules: it can be run, saved and loaded alone, and ``state_dict``
    names the base once. Made by :func:`make_slimmable_ensemble`. (Walawalkar, Shen, Savvides, ECCV 2020, section 3.1.)

    Attributes:
        students: Every peer as a whole network, by falling width; the first is the model.
        splits: Each student's forward in base and tail, which differ from the model's where shortcuts do.
        base_gradient: Whose gradients reach the base.
        in_place: Whether tails overwrite what the base gives, so that each needs its own copy.
    """

    def __init__(
        self, students: Sequence[nn.Module], at: str, blocks: tuple[str, ...], base_gradient: BaseGradient
    ) -> None:
        super().__init__()
        self.students = nn.ModuleList(students)
        self.base_gradient = base_gradient
        self.in_place = False
        self.splits = [SplitForwards((at,), outputs=blocks) for _ in students]
        # A name that a tensor has a second time, and its first: the base's, in every student but the model.
        first: dict[int, str] = {}
        named = [*self.named_parameters(remove_duplicate=False), *self.named_buffers(remove_duplicate=False)]
        self._second_names = {
            name: there for name, tensor in named if (there := first.setdefault(id(tensor), name)) != name
        }
        self.register_state_dict_post_hook(_drop_second_names)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_add_second_names)  # type: ignore[no-untyped-call]

    @property
    def at(self) -> str:
        """The module with which the students part."""
        return self.splits[0].ats[0]

    @property
    def blocks(self) -> tuple[str, ...]:
        """The modules whose outputs are the students' blocks."""
        return self.splits[0].outputs

    @property
    def target(self) -> nn.Module:
        """The user's own model, the widest student."""
        return self.students[0]

    def forward(self, images: Tensor) -> PeerOutput:
        """Images (B, channels, H, W) to the logits of all students and their mean."""
        crossing = self.splits[0].of(self.target, images).trunk(self.target, images)
        logits, outputs = [], []
        for student, split in zip(self.students, self.splits, strict=True):
            entering = crossing
            if self.base_gradient != "all" and student is not self.target:
                entering = tuple(value.detach() if isinstance(value, Tensor) else value for value in entering)
            if self.in_place:  # else the next student would read what this one's tail has overwritten
                entering = tuple(value.clone() if isinstance(value, Tensor) else value for value in entering)
            answer, *blocks = split.of(student, images).tails[0].run(student, entering)
            logits.append(at_least_float32(answer))
            outputs.append(tuple(blocks))
        stacked = torch.stack(logits, 1)
        return PeerOutput(stacked, blocks=tuple(outputs), ensemble=stacked.mean(1))


def make_slimmable_ensemble(
    model: nn.Module,
    num_students: int = 5,
    at: str | None = None,
    example: Tensor | None = None,
    *,
    base_gradient: BaseGradient = "all",
    factory: Callable[[], nn.Module] | None = None,
) -> SlimmableEnsemble:
    """``model`` and ``num_students - 1`` slimmer networks over its base; ``net.target is model``.

    Student i = 1..S keeps int(c (S - i + 1) / S) of every c channels above the base. The papers' CIFAR networks part
    after their stem and name their three stages as the blocks. Other networks are divided into base and three blocks
    of about equal FLOPs, between their outermost modules (a module of more than half of all FLOPs counts as its
    parts); where there are fewer modules, there are fewer blocks.

    Args:
        model: A classifier: images (B, channels, H, W) to logits (B, C).
        num_students: S >= 1.
        at: The module with which the students part; None for the end of the first of the four parts.
        example: Images of the shape that the model is for; None for a size found on the model, else 224 x 224.
        base_gradient: ``all`` lets every student's gradients reach the base, ``pseudo-teacher`` those of the first.
        factory: Makes a newly initialised model; None re-initialises copies layer by layer.

    Raises:
        UserError: The model cannot be split there or slimmed; or a split student does not compute what it does whole.
    """
    if num_students < 1:
        raise UserError(f"num_students is {num_students}; there is at least one, the network itself")
    example = example_images(model, example)
    at, blocks = _find_parts(model, at, example)
    shares = [Fraction(num_students - index, num_students) for index in range(1, num_students)]
    plan = plan_slimming(model, at, example) if shares else None
    students = [slim_network(model, share, at, example, factory=factory, plan=plan) for share in shares]
    net = SlimmableEnsemble([model, *students], at, blocks, base_gradient)
    net.train(model.training)
    _check_students(net, example)
    return net


class Adapters(nn.Module):
    """Where each slimmer student's maps are read as the widest one's: a 1x1 convolution for each student and block.

    With the bias and initialisation that a convolution has by default, as in the official code. Not part of any
    network that is deployed.

    Args:
        net: The students.
        example: Images of the shape that they are for.
    """

    def __init__(self, net: SlimmableEnsemble, example: Tensor) -> None:
        super().__init__()
        with preserve_state(net):
            wide, *others = net.eval()(example_images(net.target, example)).blocks
        self.channels_last = [layout(value)[1] or value.dim() == 3 for value in wide]
        self.layers = nn.ModuleList(
            nn.ModuleList(
                nn.Linear(layout(own)[0], layout(full)[0]) if last else nn.Conv2d(layout(own)[0], layout(full)[0], 1)
                for own, full, last in zip(maps, wide, self.channels_last, strict=True)
            )
            for maps in others
        )
        self.to(example.device)

    def forward(self, maps: Sequence[Maps]) -> tuple[Maps, ...]:
        """Maps of students 2..S, (B, c_i, H, W) each, to the widest one's channels, (B, c, H, W)."""
        return tuple(
            tuple(layer(value) for layer, value in zip(layers, own, strict=True))  # type: ignore[call-overload]
            for layers, own in zip(self.layers, maps, strict=True)
        )


def _drop_second_names(net: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    assert isinstance(net, SlimmableEnsemble)
    for name in net._second_names:
        state.pop(prefix + name, None)


def _add_second_names(net: nn.Module, state: dict[str, Any], prefix: str, *details: Any) -> None:
    assert isinstance(net, SlimmableEnsemble)
    for name, first in net._second_names.items():
        if prefix + first in state:
            state[prefix + name] = state[prefix + first]


def _find_parts(model: nn.Module, at: str | None, example: Tensor) -> tuple[str, tuple[str, ...]]:
    """The module with which the students begin, and those whose outputs end their blocks."""
    if isinstance(model, NamesStages):
        at = at or model.stages[0]
        return at, model.stage_ends[model.stages.index(at) :] if at in model.stages else model.stage_ends
    with preserve_state(model):
        model.eval()
        rest = {point.at: point.flops for point in list_split_points(model, example)}
        units = _find_units(rest)
        if at is None:
            at = min(
                (unit for unit in units if units[unit]), key=lambda unit: abs(rest[unit] - _BLOCKS / (_BLOCKS + 1))
            )
        place = list(rest)
        tail = [unit for unit in units if at in rest and place.index(unit) >= place.index(at)]
        graph = trace(model, find_parents([at, *tail]))
        halves = split_graph(
            graph, [at], [find_output(graph, unit) for unit in tail]
        )  # raises where there is no such module
        outputs = halves.tails[0].run(model, halves.trunk(model, example))[1:]
    blocks = _find_ends(tail, [units[unit] for unit in tail], [tuple(value.shape) for value in outputs])
    if not blocks:
        raise UserError(f"no feature maps are computed from '{at}' on; part the students at one of {', '.join(units)}")
    return at, blocks


def _find_units(rest: dict[str, float]) -> dict[str, float]:
    """The outermost modules of at most half of the FLOPs each, in the order of the forward, with their share.

    Args:
        rest: For each module in that order, the share of the FLOPs from it on.
    """
    units: dict[str, float] = {}
    paths = list(rest)
    for index, path in enumerate(paths):
        after = next((rest[later] for later in paths[index + 1 :] if not later.startswith(f"{path}.")), 0.0)
        inside = any(path.startswith(f"{unit}.") for unit in units)
        has_parts = any(later.startswith(f"{path}.") for later in paths)
        if not inside and not (has_parts and rest[path] - after > 1 / 2):
            units[path] = rest[path] - after
    return units


def _find_ends(tail: list[str], flops: list[float], shapes: list[tuple[int, ...]]) -> tuple[str, ...]:
    """The units that end blocks of about equal FLOPs, each with what follows it at no cost on the same map."""
    ends: dict[int, float] = {}  # index of a unit that may end a block, and the FLOPs up to there
    for index in range(len(tail)):
        if flops[index] > 0 and len(shapes[index]) in (3, 4):
            last = index
            while last + 1 < len(tail) and flops[last + 1] == 0 and shapes[last + 1] == shapes[index]:
                last += 1
            ends[last] = sum(flops[: index + 1])
    whole = max(ends.values(), default=0.0)
    parts = [whole * part / _BLOCKS for part in range(1, _BLOCKS + 1)]
    chosen = {min(ends, key=lambda end: abs(ends[end] - part)) for part in parts if ends}
    return tuple(tail[index] for index in sorted(chosen))


def _check_students(net: SlimmableEnsemble, example: Tensor) -> None:
    """Every student in the group must be itself alone, bit for bit, in both modes, before anyone trains it."""
    with preserve_state(net):
        graph = net.splits[0].of(net.eval().target, example)
        crossing = graph.trunk(net.target, example)
        before = [value._version for value in crossing if isinstance(value, Tensor)]
        graph.tails[0].run(net.target, crossing)
    net.in_place = before != [value._version for value in crossing if isinstance(value, Tensor)]
    for mode in (True, False):
        with preserve_state(net):
            net.train(mode)
            for student, split in zip(net.students, net.splits, strict=True):
                expected, got = _run_both_ways(net, student, split, example)
                if not torch.equal(expected, got):
                    raise UserError(
                        f"{type(net.target).__name__} slimmed from '{net.at}' on differs from itself by "
                        f"{(expected - got).abs().max().item():.2g} in {'training' if mode else 'evaluation'} mode; "
                        "part the students at another module"
                    )


def _run_both_ways(
    net: SlimmableEnsemble, student: nn.Module, split: SplitForwards, example: Tensor
) -> tuple[Tensor, Tensor]:
    """A student's logits alone, and in the group; its base's modules are its own."""
    with preserve_state(student):
        torch.manual_seed(0)
        alone = student(example)
        torch.manual_seed(0)
        crossing = net.splits[0].of(net.target, example).trunk(net.target, example)
        return alone, split.of(student, example).tails[0].run(student, crossing)[0]
