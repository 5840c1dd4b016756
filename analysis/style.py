"""What the figures share: axes in powers of two, colours, captions, files.

Object-oriented matplotlib only (no pyplot): no global state, so figures can be
drawn in any thread and without a display.
"""

import io
import os
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from analysis.axes import Array, Axis
from analysis.medium import medium

Color = tuple[float, float, float, float] | str

# Okabe and Ito's palette: told apart with any colour vision.
GROUP_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
GROUP_MARKERS = ("o", "s", "D", "^", "v", "P")
GREY = "0.35"
_MOST_TICKS = 9
_LONGEST_NAME = 32
_ONE_PANEL = 6.0
"""Inches up to which a figure is one panel."""


def size_colors(sizes: Sequence[float]) -> dict[float, Color]:
    """Sequential colours, dark to light with growing size; the palest part is left out."""
    ordered = sorted(set(sizes))
    shades = np.linspace(0.0, 0.78, max(len(ordered), 2))
    cmap = matplotlib.colormaps["viridis"]
    return {size: cmap(float(v)) for size, v in zip(ordered, shades, strict=False)}


def clean(ax: Axes) -> None:
    """Take away what carries no data: two spines, dark grid lines, large tick labels."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(True, color="0.92", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=medium().small)
    for one in (ax.xaxis, ax.yaxis):
        one.label.set_fontsize(medium().label)
        one.label.set_parse_math(False)  # a column may be called $x
    ax.title.set_parse_math(False)


def power_of_two_axis(
    ax: Axes, places: Sequence[float] | Array, *, which: Literal["x", "y"] = "x"
) -> None:
    """Label an axis whose data are log2 values with powers of two, halves and quarters where
    there are few."""
    low, high = int(np.floor(min(places))), int(np.ceil(max(places)))
    step = max(1.0, -(-(high - low + 1) // _MOST_TICKS))
    span = max(places) - min(places)
    if 0 < span < 2:
        step = 0.5 if span > 1 else 0.25
    target = ax.xaxis if which == "x" else ax.yaxis
    target.set_major_locator(FixedLocator(np.arange(low, high + step, step).tolist()))
    target.set_major_formatter(FuncFormatter(lambda v, _: f"$2^{{{v:g}}}$"))


def scale_axis(
    ax: Axes, axis: Axis, places: Sequence[float] | Array, *, which: Literal["x", "y"] = "x"
) -> None:
    """Label an axis whose data are places on a hyperparameter's scale: with powers of two, or as
    they are where it is linear."""
    if not axis.linear:
        power_of_two_axis(ax, places, which=which)


_TICKS = 8


def size_axis(ax: Axes, sizes: Sequence[float], name: str) -> None:
    """A logarithmic axis with the table's own sizes as ticks, as many as there is room for."""
    ordered = sorted(set(sizes))
    ticks, apart = ordered[:1], (ordered[-1] / ordered[0]) ** (1 / _TICKS)
    for one in ordered[1:]:
        if one >= ticks[-1] * apart * (1 - 1e-9):
            ticks.append(one)
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.12g}"))
    ax.set_xlim(ordered[0] / 1.25, ordered[-1] * 1.25)
    ax.set_xlabel(short(name))


def new_figure(
    num_columns: int, *, num_rows: int = 1, column_width: float = 4.6, height: float = 4.2
) -> Figure:
    """Return an empty figure for that many panels; sizes in inches."""
    where = medium()
    width = column_width * num_columns + 0.6
    if where.widths is not None:
        width = where.widths[num_columns > 1]
        height = where.row_height + 0.5
    size = (width, height + where.row_height * (num_rows - 1))
    return Figure(figsize=size, layout="constrained", dpi=150)


def legend(fig: Figure, handles: Sequence[Artist], labels: Sequence[str] | None = None) -> None:
    """Explain the marks: beside the panels, in a paper below them."""
    where = medium()
    # Beside a single panel there is less room.
    most = _LONGEST_NAME if fig.get_figwidth() > _ONE_PANEL else 2 * _LONGEST_NAME // 3
    given = [str(h.get_label()) for h in handles] if labels is None else labels
    named = [short(name, most) for name in given]
    look: dict[str, Any] = {"frameon": False, "fontsize": where.small}
    if where.widths is None:
        _plain(fig.legend(handles, named, loc="outside right center", **look).get_texts())
        return
    # As many in a row as there is room for, with a marker and a gap beside each name.
    widest = max(map(len, named), default=1) * 0.6 * where.small / 72 + 0.5
    columns = max(1, min(len(named), int(fig.get_figwidth() / widest)))
    made = fig.legend(handles, named, loc="outside lower center", ncols=columns, **look)
    _plain(made.get_texts())


def _plain(texts: Sequence[Text]) -> None:
    """Show names as they are: to matplotlib a pair of dollars is mathematics."""
    for text in texts:
        text.set_parse_math(False)


def short(name: str, most: int = _LONGEST_NAME) -> str:
    """Cut a name that would leave no room for the panels."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def heading(fig: Figure, text: str) -> None:
    """Write above all panels; in a paper the caption says it."""
    if medium().widths is None:
        _plain([fig.suptitle(text, fontsize=medium().heading)])


def caption(fig: Figure, text: str, *, width: float = 16.0) -> None:
    """Small print at the foot; constrained layout keeps room for it."""
    if text and medium().captioned:
        per_line = int(width * fig.get_figwidth())
        wrapped = _wrap(text, per_line)
        _plain([fig.supxlabel(wrapped, fontsize=8, color=GREY, x=0.01, ha="left")])


def _wrap(text: str, per_line: int) -> str:
    lines = [
        line
        for part in text.splitlines()
        for line in textwrap.wrap(part, per_line, break_on_hyphens=False)
    ]
    return "\n".join(lines)


# The date would change the bytes; png carries none.
_DATELESS: dict[str, dict[str, None]] = {
    "png": {},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}


def save(
    fig: Figure, path_without_suffix: str | Path, formats: Sequence[str] = ("png", "svg")
) -> list[Path]:
    """Write a figure, byte for byte the same for the same data.

    A reader sees the old file or the new one, never half of one.

    Args:
        fig: The figure.
        path_without_suffix: "out/curves" becomes out/curves.png and so on.
        formats: Of "png", "svg", "pdf".

    Raises:
        ValueError: unknown format.
    """
    base = Path(path_without_suffix)
    unknown = [f for f in formats if f not in _DATELESS]
    if unknown:
        raise ValueError(f"formats must be of {tuple(_DATELESS)}, got {unknown[0]!r}")
    base.parent.mkdir(parents=True, exist_ok=True)
    done = []
    for kind in formats:
        path = base.with_name(f"{base.name}.{kind}")
        replace(path, written(fig, kind))
        done.append(path)
    return done


def written(fig: Figure, kind: str) -> bytes:
    """Return a figure as the bytes of a file, the same for the same data."""
    out = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "lmo-transfer", "pdf.fonttype": 42}):
        fig.savefig(out, format=kind, metadata=_DATELESS[kind])
    # What lies where is settled, and settling it takes as long as drawing.
    fig.set_layout_engine("none")
    return out.getvalue()


def replace(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
        os.chmod(temporary, 0o644)  # mkstemp's files are private to their writer
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def signed(value: float) -> str:
    """Two digits with a true minus sign, and no negative zero."""
    return f"{round(value, 2) + 0.0:+.2f}".replace("-", "\N{MINUS SIGN}")


def grid_step(places: Array) -> float:
    """A grid's usual step on its scale; 1 if it has none."""
    levels = np.unique(places)
    return float(np.median(np.diff(levels))) if levels.size > 1 else 1.0
