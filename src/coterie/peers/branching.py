"""Any classifier as a native ensemble: a shared trunk, and its upper layers several times over."""

import itertools
from collections.abc import Callable, Sequence
from math import prod
from operator import mul
from typing import cast

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from coterie.bounds import Count
from coterie.checking import check_arguments
from coterie.errors import UserError, show_value, unknown_name
from coterie.networks.logits import Logits, LogitsAt, find_answer
from coterie.networks.preserve import preserve_state
from coterie.networks.reinit import Init, reinitialise
from coterie.networks.shapes import example_images, layout
from coterie.networks.split.graph import Segment
from coterie.networks.split.points import SplitPoint, default_split_point, list_split_points
from coterie.networks.split.segments import SplitForwards
from coterie.networks.split.verify import check_split
from coterie.peers.combine import Gate, GateForm
from coterie.peers.native_ensemble import NativeEnsemble, Values, select_features


def branch(
    model: nn.Module,
    num_branches: Count | Sequence[Count] = 3,
    at: str | Sequence[str] | None = None,
    example: Tensor | None = None,
    *,
    init: Init = "fresh",
    gate: GateForm = "relu-softmax",
    share: bool = True,
    rescale: bool = False,
    maps: bool = False,
    factory: Callable[[], nn.Module] | None = None,
    logits: LogitsAt | None = None,
) -> NativeEnsemble:
    """Grow ``model`` into a native ensemble of branches; ``net.target is model``.

    Args:
        model: A classifier: images (B, channels, H, W) to logits (B, C), or to a dictionary, a tuple or an object that
            holds them. It goes on returning what it returns.
        num_branches: m >= 1, the model's own tail among them. A tree of branches is given as the copies made at each
            split, (2, 2) for four, with as many splits in ``at``.
        at: The module with which the branched tail begins, for example ``"layer3"``; None for the last stage. Several,
            in the order of the forward, for a tree.
        example: Images of the shape that the model is for; None for a size found on the model, else 224 x 224.
        init: Auxiliary branches start ``"fresh"``, as a ``"copy"`` of the model's tail with a fresh classifier, or as a
            ``"clone"``, the classifier included.
        gate: The gate's form, see :class:`~coterie.peers.combine.Gate`.
        share: False makes every branch a whole network of its own (the gate still reads the model's trunk).
        rescale: Divide gradients by the number of copies at each split (collaborative learning's form).
        maps: Let the output hold each branch's last feature map too.
        factory: Makes a newly initialised model for fresh branches; None for the model's own
            name in its library, or its own initialisers and each layer's.
        logits: Where the model's output holds the logits: a key or attribute, an index, or a function of the output.
            None for the output itself, its ``logits`` or ``out``, or its only tensor (B, C).

    Returns:
        A module that maps images to a :class:`~coterie.outputs.PeerOutput`; train it, and ``model`` is trained.

    Raises:
        UserError: The model cannot be split there; its segments do not compute exactly what it computes; or nothing
            tells which of its outputs are the logits.

    Example:
        >>> net = branch(model, 3, example=images[:2])
        >>> optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> losses.one(net(images), labels).total.backward()
    """
    given = {"num_branches": num_branches, "at": at, "example": example, "init": init, "gate": gate}
    num_branches = check_arguments(branch, given)["num_branches"]
    if not isinstance(model, nn.Module):
        raise UserError(f"model is {show_value(model)}; give a module, such as coterie.networks.build('resnet32')")
    fans = (num_branches,) if isinstance(num_branches, int) else tuple(num_branches)
    if not fans:
        raise UserError("num_branches is empty; a network has at least one branch, its own")
    example = example_images(model, example)
    if isinstance(model, Logits):
        model.look(example)
    answer = find_answer(model, example, logits)
    with preserve_state(model):
        model.eval()
        at = default_split_point(model, example) if at is None else at
        ats = _check_modules(model, (at,) if isinstance(at, str) else tuple(at))
        if len(ats) != len(fans):
            raise UserError(f"{len(fans)} counts of branches and {len(ats)} splits; give one count for each split")
        graphs = SplitForwards(ats, maps, answer=answer)
        resized = check_split(model, graphs, example)
        halves = graphs.of(model, example)
        values = crossing = halves.trunk(model, example)
        in_place = False
        for segment in halves.tails:
            before = _read_versions(values)
            values, entered = segment.run(model, values), values
            in_place |= before != _read_versions(entered)
        again = None if resized is None else select_features(halves.trunk(model, resized), len(resized))
        model.train()
        halves_in_training = graphs.of(model, example)
    features = select_features(crossing, len(example))
    tails = []
    for level, copies in enumerate(itertools.accumulate(fans, mul) if share else [prod(fans)]):
        parts = (halves.tails[level], halves_in_training.tails[level])
        held = _make_use_test(parts) if share else None
        for _ in range(copies - 1):
            tails.append(_make_tail(reinitialise(model, init, factory, held), parts, share))
    width, channels_last = layout(features, example, again)
    net = NativeEnsemble(
        model,
        tails,
        Gate(width, prod(fans), gate, channels_last),
        graphs,
        fans,
        depth=features.dim(),
        share=share,
        in_place=in_place,
        rescale=rescale,
    )
    reference = next(model.parameters())
    net.branches.to(reference.device, reference.dtype)
    net.gate.to(reference.device)
    net.train(model.training)
    return net


def _check_modules(model: nn.Module, ats: tuple[str, ...]) -> tuple[str, ...]:
    paths = [path for path, _ in model.named_modules() if path]
    if isinstance(model, Logits):  # modules are named as in the user's own model
        ats = tuple(at if at in paths else f"module.{at}" if f"module.{at}" in paths else at for at in ats)
    for at in ats:
        if at not in paths:
            raise unknown_name("module", at, paths)
    return ats


def _read_versions(values: Values) -> list[int]:
    return [leaf._version for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor)]


def split_points(model: nn.Module, example: Tensor | None = None) -> list[SplitPoint]:
    """Every module at which ``model`` can be branched, with its tail's share of the FLOPs."""
    with preserve_state(model):
        model.eval()
        return list_split_points(model, example_images(model, example))


def _make_tail(source: nn.Module, halves: tuple[Segment, Segment], share: bool) -> nn.Module:
    """The modules and tensors that the tail uses, under the same paths, and nothing else."""
    if not share:
        return source
    root = nn.Module()
    for path in dict.fromkeys(halves[0].modules + halves[1].modules):
        parent, name = _make_parent(root, path)
        parent.add_module(name, source.get_submodule(path))
    for path in dict.fromkeys(halves[0].tensors + halves[1].tensors):
        parent, name = _make_parent(root, path)
        owner = source.get_submodule(path.rpartition(".")[0])
        tensor = getattr(owner, name)
        if isinstance(tensor, nn.Parameter):
            parent.register_parameter(name, tensor)
        else:
            parent.register_buffer(name, tensor, persistent=name in owner.state_dict())
    return root


def _make_use_test(halves: tuple[Segment, Segment]) -> Callable[[str], bool]:
    """Tells of a parameter's name whether the tail uses it."""
    modules = tuple(f"{path}." for part in halves for path in part.modules)
    tensors = {path for part in halves for path in part.tensors}
    return lambda name: name in tensors or name.startswith(modules)


def _make_parent(root: nn.Module, path: str) -> tuple[nn.Module, str]:
    *parents, name = path.split(".")
    for part in parents:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = cast(nn.Module, root._modules[part])
    return root, name
