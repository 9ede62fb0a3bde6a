"""The parts that a report page is put together from; the template knows how each one looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from markupsafe import Markup


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: What it says.
        sub: A second, smaller line.
        bar: Share of the cell's width, 0 to 1, that a bar under the text takes; None for no bar.
        strong: Whether the text is bold.
        mark: A legend marker before the text.
    """

    text: str
    sub: str = ""
    bar: float | None = None
    strong: bool = False
    mark: Markup | None = None


@dataclass(frozen=True)
class Table:
    """A table; the first cell of each row is its heading.

    Attributes:
        caption: What it shows.
        columns: Headings.
        rows: Cells, as many per row as there are headings.
        note: A line below.
        text: Whether cells hold running text rather than numbers.
    """

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    text: bool = False

    @property
    def wide(self) -> bool:
        """Whether it needs the full width."""
        return self.text or len(self.columns) > 6


@dataclass(frozen=True)
class Figure:
    """A picture with its title and a caption that says in words what it shows."""

    title: str
    drawing: Markup
    caption: str = ""


@dataclass(frozen=True)
class Figures:
    """Pictures side by side where there is room; `legend` explains their markers."""

    kind: ClassVar[str] = "figures"
    items: Sequence[Figure]
    legend: Sequence[tuple[Markup, str]] = ()

    @property
    def wide(self) -> bool:
        """Whether they need the full width."""
        return len(self.items) > 1


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix: counts and shares of each true class, rows true, columns decided."""

    title: str
    classes: Sequence[str]
    counts: Sequence[Sequence[int]]
    shares: Sequence[Sequence[float | None]]
    totals: Sequence[int]


@dataclass(frozen=True)
class Matrices:
    """Confusion matrices side by side where there is room."""

    kind: ClassVar[str] = "matrices"
    wide: ClassVar[bool] = True
    items: Sequence[Matrix]


@dataclass(frozen=True)
class Remarks:
    """A list of sentences."""

    kind: ClassVar[str] = "remarks"
    wide: ClassVar[bool] = True
    items: Sequence[str]


@dataclass(frozen=True)
class Terms:
    """Terms and what they mean."""

    kind: ClassVar[str] = "terms"
    wide: ClassVar[bool] = True
    items: Sequence[tuple[str, str]]


Part = Table | Figures | Matrices | Remarks | Terms


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        anchor: Its id, for links within the page.
        title: Its heading.
        intro: What it shows and how to read it.
        parts: Its content.
    """

    anchor: str
    title: str
    intro: str
    parts: list[Part] = field(default_factory=list)


@dataclass(frozen=True)
class Tile:
    """A key figure of the adapted model, with the source's beside it."""

    title: str
    value: str
    sub: str
