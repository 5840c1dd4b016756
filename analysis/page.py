"""What a report consists of, and how it becomes one HTML file that needs nothing else."""

import base64
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis.medium import PAGE, drawn_for

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_KINDS = {"transfers": "yes", "passes": "yes", "does not transfer": "no", "fails": "no"}
_KINDS |= {"undecided": "open"}
_PIXELS_PER_POINT = 96 / 72
_NARROW = 640
_MOST_DIGITS = 8


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table; it is sorted by its value, or else by its text."""

    text: str
    value: float | None = None
    kind: str = ""
    """Colours it as a verdict's status."""
    missing: bool = False
    """Whether there is nothing to sort by: it stays below."""

    @classmethod
    def number(cls, value: float | None, digits: int = 4) -> "Cell":
        """Write a number; a dash where there is none."""
        if value is None or not math.isfinite(value):
            return cls.dash()
        return cls(f"{value:.{digits}f}" if digits <= _MOST_DIGITS else f"{value:.6g}", value)

    @classmethod
    def dash(cls) -> "Cell":
        """A dash."""
        return cls("-", missing=True)

    @classmethod
    def status(cls, status: str) -> "Cell":
        """Write a verdict's status."""
        return cls(status, kind=kind_of(status))


@dataclass(frozen=True, slots=True)
class Column:
    """Head of a column."""

    name: str
    numeric: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table that sorts."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A figure, in words too: `alt` says what it shows to those who do not see it."""

    svg: bytes
    title: str
    text: str
    alt: str

    @classmethod
    def of(cls, draw: "Callable[[], Figure]", *, title: str, text: str, alt: str) -> "Picture":
        """Draw a figure for a page."""
        from analysis.style import written

        with drawn_for(PAGE):
            svg = written(draw(), "svg")
        return cls(svg=svg, title=title[:1].upper() + title[1:], text=text, alt=alt)

    @property
    def source(self) -> str:
        """The figure as a data URI: an image of its own, so that names in it meet no others."""
        return f"data:image/svg+xml;base64,{base64.b64encode(self.svg).decode('ascii')}"

    @property
    def width(self) -> int:
        """In CSS pixels, as is the height."""
        return self._pixels(b"width")

    @property
    def height(self) -> int:
        return self._pixels(b"height")

    def _pixels(self, side: bytes) -> int:
        found = re.search(rb"<svg[^>]*\b" + side + rb'="([0-9.]+)pt"', self.svg)
        return round(float(found[1]) * _PIXELS_PER_POINT) if found else 0

    @property
    def narrow(self) -> bool:
        """Whether it fits a phone's width and may not fill a screen's."""
        return self.width < _NARROW


@dataclass(frozen=True, slots=True)
class Text:
    """A file's text, folded away under its name."""

    name: str
    text: str
    printed: bool = False
    """Whether it is unfolded on paper."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the page with a title of its own."""

    title: str
    texts: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    facts: Sequence[tuple[str, str]] = ()
    commands: Sequence[str] = ()
    files: Sequence[Text] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A verdict in words."""

    who: str
    status: str
    reason: str
    notes: Sequence[str] = ()

    @property
    def kind(self) -> str:
        return kind_of(self.status)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A whole report."""

    title: str
    subtitle: str
    question: str
    claims: Sequence[Claim]
    sections: Sequence[Section]
    holds_for: str = ""
    foot: str = ""


def kind_of(status: str) -> str:
    """Return how a status is coloured."""
    return _KINDS.get(status, "none")


def render(page: Page) -> str:
    """Return the page as HTML; all text is escaped."""
    return filled("report.html.j2", report=page)


def filled(template: str, **values: object) -> str:
    """Return a template with its values; all text is escaped."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.PackageLoader("analysis"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return made.get_template(template).render(**values)
