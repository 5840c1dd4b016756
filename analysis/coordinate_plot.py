"""Draw a coordinate check: sizes against width, one row a layer, one column a quantity."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.coordinates import JUDGED, CoordinateCheck, LayerCheck, Slope
from analysis.medium import medium
from analysis.style import (
    GREY,
    Color,
    caption,
    clean,
    heading,
    legend,
    power_of_two_axis,
    signed,
    size_axis,
    size_colors,
)

_QUANTITIES = {
    "activation": "activation (RMS)",
    "change": "its change since the start (RMS)",
    "weight": "weight, in its own norm",
    "update": "update, in its own norm",
}
_MOST_ROWS = 6
_LEAST_OCTAVES = 5.0
"""Height of a panel, at least: rounding must not look like growth."""
_STATUS_COLORS = {"passes": "#009E73", "fails": "#D55E00", "undecided": "#8A6D00"}
_MOST_STEPS_NAMED = 6


def plot_coordinates(table: pd.DataFrame, check: CoordinateCheck, title: str = "") -> Figure:
    """Size against width, both logarithmic, one line a step.

    Lines are geometric means over seeds, dots single seeds. In the corner: the exponent of width
    at the step that decides, coloured by the outcome; grey where it is described only. Dotted: the
    steepest slopes that pass. With many layers, the one that decides for each role is drawn.

    Args:
        table: What was judged.
        check: What `check_coordinates` returned for it.
        title: Above the figure, before the outcome.
    """
    layers = _shown(check.layers)
    quantities = [q for q in _QUANTITIES if (table["quantity"] == q).any()]
    size = (3.3 * len(quantities) + 1.2, 2.3 * len(layers) + 1.5)
    fig = Figure(figsize=size, layout="constrained", dpi=150)
    axes = fig.subplots(len(layers), len(quantities), squeeze=False, sharex=True)
    colors = size_colors(sorted(table["step"].unique()))
    for row, layer in zip(axes, layers, strict=True):
        mine = table[table["layer"] == layer.layer]
        for ax, quantity in zip(row, quantities, strict=True):
            _draw(ax, mine[mine["quantity"] == quantity], layer, quantity, check, colors)
        color = _STATUS_COLORS[layer.status]
        row[0].set_ylabel(f"{layer.layer}\n{layer.role}: {layer.status}", fontsize=10, color=color)
    for ax, quantity in zip(axes[0], quantities, strict=True):
        ax.set_title(_QUANTITIES[quantity], fontsize=medium().title)
    for ax in axes[-1]:
        size_axis(ax, check.widths, "width")
    heading(fig, f"{title}: {check.status}" if title else check.status)
    _legend(fig, colors)
    hidden = len(check.layers) - len(layers)
    drawn = f" {hidden} more layers are not drawn." if hidden else ""
    caption(fig, f"Rule: {check.rule}.{drawn}")
    return fig


def _shown(layers: Sequence[LayerCheck]) -> list[LayerCheck]:
    """The judged layers; of too many, the worst of each role, in the order of the model."""
    judged = [layer for layer in layers if layer.status != "not judged"]
    if len(judged) <= _MOST_ROWS:
        return judged
    worst: dict[str, LayerCheck] = {}
    for layer in sorted(judged, key=lambda layer: layer.severity, reverse=True):
        worst.setdefault(layer.role, layer)
    kept = {layer.layer for layer in list(worst.values())[:_MOST_ROWS]}
    return [layer for layer in judged if layer.layer in kept]


def _draw(
    ax: Axes,
    rows: pd.DataFrame,
    layer: LayerCheck,
    quantity: str,
    check: CoordinateCheck,
    colors: dict[float, Color],
) -> None:
    clean(ax)
    ok = rows[np.isfinite(rows["value"]) & (rows["value"] > 0)]
    if ok.empty:
        ax.set_yticks([])
        ax.text(
            0.5,
            0.5,
            "none",
            transform=ax.transAxes,
            color=GREY,
            ha="center",
            fontsize=medium().small,
        )
        return
    ok = ok.assign(y=np.log2(ok["value"]))
    for step in sorted(ok["step"].unique()):
        part = ok[ok["step"] == step]
        mean = part.groupby("width")["y"].mean()
        color = colors[step]
        ax.plot(mean.index, mean, color=color, linewidth=1.3, marker="o", markersize=2.5)
        ax.plot(part["width"], part["y"], color=color, marker=".", markersize=2, linestyle="none",
                alpha=0.4)  # fmt: skip
    low, high = float(ok["y"].min()), float(ok["y"].max())
    spare = max(_LEAST_OCTAVES - (high - low), 0.0) / 2
    low, high = low - spare - 0.3, high + spare + 1.0
    ax.set_ylim(low, high)
    power_of_two_axis(ax, [low + 1, high - 1], which="y")
    if quantity in JUDGED:
        _draw_bound(ax, ok, quantity, check)
    worst = layer.worst(quantity)
    if worst is not None:
        color = _STATUS_COLORS.get(worst.status, GREY)
        weight = "normal" if worst.status == "not judged" else "bold"
        ax.text(0.03, 0.97, _note(worst), transform=ax.transAxes, ha="left", va="top", fontsize=8.5,
                color=color, fontweight=weight)  # fmt: skip


def _draw_bound(ax: Axes, ok: pd.DataFrame, quantity: str, check: CoordinateCheck) -> None:
    """Lines as steep as is allowed, from the last step's smallest width."""
    last = ok[ok["step"] == ok["step"].max()]
    first = last[last["width"] == last["width"].min()]["y"].mean()
    ends = np.array([check.widths[0], check.widths[-1]])
    rise = check.bound * np.log2(ends / ends[0])
    for sign in (1, -1) if quantity == "change" else (1,):
        ax.plot(ends, first + sign * rise, color=GREY, linestyle=":", linewidth=1.0, zorder=1)


def _note(s: Slope) -> str:
    if s.slope is None:
        return f"{s.problem}, step {s.step}"
    text = signed(s.slope)
    if s.low is not None and s.high is not None:
        text += f" [{signed(s.low)}, {signed(s.high)}]"
    return f"{text} at step {s.step}"


def _legend(fig: Figure, colors: dict[float, Color]) -> None:
    steps = list(colors)
    if len(steps) > _MOST_STEPS_NAMED:
        at = np.linspace(0, len(steps) - 1, _MOST_STEPS_NAMED).round().astype(int)
        steps = [steps[i] for i in at]
    handles = [Line2D([], [], color=colors[s], linewidth=2, label=f"step {s:g}") for s in steps]
    handles.append(Line2D([], [], color=GREY, linestyle=":", label="steepest allowed"))
    legend(fig, handles)
