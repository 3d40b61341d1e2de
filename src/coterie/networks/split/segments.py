"""A network's forward in segments, by a trace or, where it resists one, by running it again."""

import copy
from collections.abc import Collection, Hashable
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from coterie.errors import UserError, in_a_line
from coterie.networks.layers import LAYERS
from coterie.networks.logits import Answer
from coterie.networks.preserve import preserve_state
from coterie.networks.split.graph import (
    SplitForward,
    find_classifier_input,
    find_last_layer,
    find_last_map,
    find_output,
    split_graph,
)
from coterie.networks.split.rerun import split_by_rerunning
from coterie.networks.split.tracing import Resists, collect_frozen_facts, find_parents, trace

_REMEMBERED = 16  # a rate that follows a schedule asks for a new trace at each of its values


class SplitForwards:
    """A network's forward in segments, made once for all that its modules are set to.

    Args:
        ats: Where it is split, see :func:`~coterie.networks.split.graph.split_graph`; nowhere for the whole forward.
        maps: Whether the last feature map is tapped beside what the classifier reads.
        outputs: Modules whose outputs are tapped, in place of these two.
        answer: Where the network's outputs hold the logits; None where they are the logits.

    Attributes:
        resists: Why the forward cannot be traced and is run again for each segment; empty where it is traced.
    """

    def __init__(
        self,
        ats: tuple[str, ...],
        maps: bool = False,
        outputs: tuple[str, ...] = (),
        answer: Answer | None = None,
    ) -> None:
        self.answer = answer or Answer()
        self.ats, self.maps, self.outputs = ats, maps, outputs
        self.resists = ""
        self._inside = find_parents((*ats, *outputs))
        self._graphs: dict[tuple[Hashable, ...], SplitForward] = {}

    def of(self, network: nn.Module, images: Tensor) -> SplitForward:
        """The segments for what ``network`` is set to; the last returns logits, features and the map.

        Raises:
            UserError: The network cannot be split there.
        """
        if torch.compiler.is_compiling():  # all that a trace freezes is too much for a compiler's guards
            for key, graph in reversed(self._graphs.items()):
                if key[0] == network.training:
                    return graph
        key = self._key(network)
        if key not in self._graphs:
            graph = self._make(network, images)
            key = self._key(network)  # making it may have opened more modules, or given tracing up
            self._graphs[key] = graph
            if len(self._graphs) > _REMEMBERED:
                del self._graphs[next(iter(self._graphs))]
        return self._graphs[key]

    def give_up_tracing(self, reason: str) -> None:
        """From now on run the forward again for each segment."""
        self.resists = reason
        self._graphs.clear()

    def _key(self, network: nn.Module) -> tuple[Hashable, ...]:
        return (network.training,) if self.resists else collect_frozen_facts(network, self._inside)

    def _make(self, network: nn.Module, images: Tensor) -> SplitForward:
        if not self.resists:
            try:
                return self._trace(network, images)
            except Resists as error:
                self.give_up_tracing(str(error))
        try:
            if self.outputs:
                raise UserError("the outputs of named modules are then not at hand")
            with preserve_state(network):  # looking at the forward runs it once
                return split_by_rerunning(network, self.ats, images, self.maps, self.answer)
        except Exception as error:
            raise UserError(
                f"{type(network).__name__} cannot be split at {' and '.join(self.ats)}: {self.resists}; nor can it be "
                f"run in stretches ({in_a_line(error)}); call your layers as modules, in an order that no values change"
            ) from error

    def _trace(self, network: nn.Module, images: Tensor) -> SplitForward:
        if not self.outputs:
            self._inside |= add_classifier(network, self._inside, self.answer)
        graph = trace(network, self._inside, partial(self.answer.of, network))
        taps: list[fx.Node | None] = [find_output(graph, path) for path in self.outputs]
        if not self.outputs:
            taps.append(find_classifier_input(graph, network))
        if self.maps:
            taps.append(find_last_map(graph, network, images))
        return split_graph(graph, self.ats, [tap for tap in taps if tap is not None])

    def __getstate__(self) -> dict[str, Any]:
        # Compiled functions cannot be pickled; they are made again where they are needed.
        return {**vars(self), "_graphs": {}}

    def __deepcopy__(self, memo: dict[int, Any]) -> "SplitForwards":
        # They hold no state, so that a copy keeps them: it may be exported or called functionally before it ever ran.
        # Only where the forward is run again do they know their model.
        twin = copy.copy(self)
        twin._graphs = {} if self.resists else dict(self._graphs)
        return twin


def add_classifier(model: nn.Module, inside: Collection[str], answer: Answer) -> frozenset[str]:
    """``inside``, and the modules around the classifier, where their forwards can be followed."""
    opened = frozenset(inside)
    read = partial(answer.of, model)
    graph = trace(model, opened, read)
    while (last := find_last_layer(graph, model)) is not None and not isinstance(model.get_submodule(last), LAYERS):
        wider = opened | find_parents([f"{last}.*"])
        try:
            graph = trace(model, wider, read)
        except Resists:
            return opened
        opened = wider
    return opened
