"""Where a figure is going to be: sizes of text, widths, and what is said beside it anyway."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Medium:
    """Text in points, widths in inches."""

    heading: float = 11.0
    title: float = 10.5
    label: float = 10.0
    small: float = 9.0
    """Of ticks and legends."""
    captioned: bool = True
    """Whether the fixed axes are written below, and the verdict's numbers above."""
    widths: tuple[float, float] | None = None
    """Of figures with one panel a row, and with more; None: as wide as their panels."""
    row_height: float = 3.6


SCREEN = Medium()
PAGE = Medium(captioned=False)
"""A page that says below each figure what the caption would."""
PAPER = Medium(
    heading=8.0,
    title=8.0,
    label=8.0,
    small=7.0,
    captioned=False,
    widths=(3.25, 6.75),
    row_height=2.1,
)
"""Two-column papers: ICML's columns are 3.25 inches wide, its text is 6.75."""

_current = ContextVar("medium", default=SCREEN)


def medium() -> Medium:
    """Return what figures are drawn for."""
    return _current.get()


@contextmanager
def drawn_for(where: Medium) -> Iterator[None]:
    """Draw the figures made inside for another medium."""
    token = _current.set(where)
    try:
        yield
    finally:
        _current.reset(token)
