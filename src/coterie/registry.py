"""Things by name: the package's own, and those that other installed packages add by entry points.

A package adds a method, a data set or a network by a line of its ``pyproject.toml``, and the command line, studies and
Runs find it by its name from then on::

    [project.entry-points."coterie.methods"]
    my-method = "my_package.my_method:MyMethod"
"""

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, Protocol, TypeVar

from coterie.errors import UserError, in_a_line, unknown_name


class Item(Protocol):
    """What can be listed."""

    @property
    def summary(self) -> str:
        """One line for listings."""


T = TypeVar("T", bound=Item)

# Names of Runs and their files are made of these names.
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


class Registry(Mapping[str, T], Generic[T]):
    """Things of one kind by name.

    Args:
        kind: What they are, such as ``method``.
        group: The entry points that add to them, such as ``coterie.methods``.
        own: This package's.
        find_fault: Says of a name and what another package put under it why it is not of this kind; None where it is.
    """

    def __init__(
        self, kind: str, group: str, own: Mapping[str, T], find_fault: Callable[[str, Any], str | None]
    ) -> None:
        self.kind = kind
        self.group = group
        self.own = dict(own)
        self.find_fault = find_fault

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self.own, *(point.name for point in self._points())]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        return name in set(self)

    def __getitem__(self, name: str) -> T:
        """The thing of this name, imported where another package adds it.

        Raises:
            KeyError: There is none.
            UserError: Two packages add it, or it cannot be imported, or is not of this kind.
        """
        points = [point for point in self._points() if point.name == name]
        if fault := self._find_clash(name, points):
            raise UserError(fault)
        return self._load(points[0]) if points else self.own[name]

    def find(self, name: str) -> T:
        """The thing of this name.

        Raises:
            UserError: There is none: names the nearest; or as for ``[name]``.
        """
        if name not in self:
            raise unknown_name(self.kind, name, self)
        return self[name]

    def summaries(self) -> list[tuple[str, str]]:
        """Every name and a line about it; no other package is imported."""
        lines = [(name, item.summary) for name, item in self.own.items()]
        for point in self._points():
            clash = self._find_clash(point.name, [point])
            lines.append((point.name, f"refused: {clash}" if clash else f"of the package {_package(point)}"))
        return lines

    def _points(self) -> tuple[EntryPoint, ...]:
        return _read_entry_points(self.group, tuple(sys.path))

    def _find_clash(self, name: str, points: list[EntryPoint]) -> str | None:
        """Why entry points of one name are refused before any is imported; None where nothing is wrong."""
        packages = " and ".join(_package(point) for point in points)
        if points and name in self.own:
            return f"the package {packages} adds a {self.kind} '{name}', which is one of coterie's own; uninstall it"
        if len(points) > 1:
            return f"the packages {packages} each add a {self.kind} '{name}'; uninstall one of them"
        if points and not _NAME.fullmatch(name):
            return f"the package {packages} adds a {self.kind} '{name}'; its name may have letters, digits and -._"
        return None

    def _load(self, point: EntryPoint) -> T:
        thing = f"{self.kind} '{point.name}' of the package {_package(point)}"
        try:
            item = point.load()
        except Exception as error:  # another's code raises whatever it likes while it is imported
            raise UserError(f"{thing} cannot be imported ({in_a_line(error)}); mend or uninstall it") from error
        if fault := self.find_fault(point.name, item):
            raise UserError(f"{thing} ({point.value}) {fault}")
        loaded: T = item
        return loaded


def _package(point: EntryPoint) -> str:
    return "?" if point.dist is None else f"{point.dist.name} {point.dist.version}"


@cache  # of the paths too: whoever adds one finds the packages there
def _read_entry_points(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    return tuple(sorted(entry_points(group=group), key=lambda point: (point.name, _package(point))))
