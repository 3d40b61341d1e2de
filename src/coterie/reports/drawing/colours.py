"""Which colour a name has: the methods' own on every page, whatever stands beside them."""

from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple
from zlib import crc32

# Colour-blind safe (Okabe, Ito) and readable on both grounds.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#7A5CA8")


class Style(NamedTuple):
    """How a name is drawn.

    Attributes:
        colour: Its place among ``COLOURS``.
        line: As matplotlib writes a kind of line.
    """

    colour: int
    line: str


# The target of a method has the method's name; no two are alike.
KNOWN: Mapping[str, Style] = MappingProxyType(
    {
        "alone": Style(6, "--"),
        "one": Style(0, "-"),
        "one ensemble": Style(3, "-"),
        "dml": Style(1, "-"),
        "kd": Style(2, "-"),
        "kdcl": Style(5, "-"),
        "okddip": Style(4, "-"),
        "ensemble ensemble": Style(7, "-"),
        "self-distillation": Style(6, "-"),
        "cl-ilr": Style(0, "--"),
        "ffl": Style(1, "--"),
        "pcl": Style(2, "--"),
        "oem": Style(3, "--"),
        "snapshot ensemble": Style(4, "--"),
        "srm": Style(5, "--"),
        "meal": Style(7, "--"),
        "compact": Style(0, ":"),
        "one branch1": Style(1, "-."),
        "one branch2": Style(2, "-."),
        "one branch3": Style(5, "-."),
        "one branch4": Style(4, "-."),
        "kd teacher": Style(2, ":"),
        "dml peer1": Style(1, ":"),
    }
)
_OTHER_LINES = ("-.", ":")  # of names that are not known here


class Palette:
    """Gives every name of a page one colour and one kind of line.

    Known names have theirs on every page. Another name has the colour of its method or, without one, the colour that
    its letters fall on; where that is taken, the next one. So it keeps its colour where the page has the same names.

    Args:
        names: Of the page, by the labels that stand in pictures.
    """

    def __init__(self, names: Mapping[str, str] | None = None) -> None:
        self._names = dict(names or {})
        self._styles: dict[str, Style] = {}
        for name in sorted(self._names.values(), key=lambda name: (name not in KNOWN, name)):
            self._find(name)

    def style(self, label: str) -> dict[str, str]:
        """Matplotlib's options of its lines."""
        style = self._find(self._names.get(label, label))
        return {"color": COLOURS[style.colour], "linestyle": style.line}

    def colour(self, label: str) -> str:
        """The colour alone."""
        return self.style(label)["color"]

    def _find(self, name: str) -> Style:
        if name not in self._styles:
            self._styles[name] = KNOWN.get(name) or self._choose(name)
        return self._styles[name]

    def _choose(self, name: str) -> Style:
        """A style that no name of the page has, in a colour that as few as possible have."""
        method = KNOWN.get(name.split(",")[0])
        first = crc32(name.encode()) if method is None else method.colour
        order = [(first + step) % len(COLOURS) for step in range(len(COLOURS))]
        taken = set(self._styles.values())
        used = Counter(style.colour for style in taken)
        every = [Style(colour, line) for colour in sorted(order, key=lambda each: used[each]) for line in _OTHER_LINES]
        return next((style for style in every if style not in taken and style not in KNOWN.values()), every[0])


def name_arm(arm: str) -> str:
    """The name by which a study's arm has its colour: that of what its method delivers, where it is called as one."""
    if arm == "vanilla":
        return "alone"
    return f"{arm} ensemble" if arm not in KNOWN and f"{arm} ensemble" in KNOWN else arm


def count_alike(names: Iterable[str], colours: Mapping[str, str]) -> dict[str, int]:
    """Which of those of its colour each name is, from 0: for marks or lines that tell them apart."""
    used = Counter[str]()
    places = {}
    for name in names:
        places[name] = used[colours[name]]
        used[colours[name]] += 1
    return places
