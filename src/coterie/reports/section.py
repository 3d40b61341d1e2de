"""What a page is made of."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """Facts, a table and pictures under one heading.

    Attributes:
        title: The heading.
        text: A line or two of explanation.
        points: A list below it.
        facts: Names and what they are.
        figures: (caption, SVG) of each picture.
        header: The table's columns; empty where there is no table.
        rows: Its rows, as text.
        more: Further rows, shown on demand.
    """

    title: str
    text: str
    points: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    figures: Sequence[tuple[str, str]] = ()
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    more: Sequence[Sequence[str]] = ()
