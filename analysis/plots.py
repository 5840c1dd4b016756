"""Draw loss against the hyperparameter, a curve for each size."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.landscapes import Landscape
from analysis.medium import medium
from analysis.panels import Panel, bar, foot, need, turn
from analysis.style import (
    GREY,
    Color,
    caption,
    clean,
    grid_step,
    legend,
    new_figure,
    scale_axis,
    short,
    signed,
    size_colors,
)

_PANELS_A_ROW = 3
_SIZES_DRAWN = 40
_MOST_VECTORS = 300
_SIZES_NAMED = 10
"""Curves in the legend; of more sizes it names so many, from the smallest to the largest."""


def plot_curves(panels: Sequence[Panel]) -> Figure:
    """Loss against the hyperparameter, one panel per group, one curve per size.

    Bands span the seeds; diamonds with bars mark the optima and their 95 %
    intervals, arrows those that may lie outside the grid; crosses at the top
    mark cells in which a run diverged; the dashed line is the transferred
    setting.
    """
    need(panels, num_axes=1)
    columns = min(len(panels), _PANELS_A_ROW)
    rows = -(-len(panels) // columns)
    fig = new_figure(columns, num_rows=rows)
    grid = fig.subplots(rows, columns, sharey=True, squeeze=False)
    axes = list(grid.flat)
    for spare in axes[len(panels) :]:
        spare.set_visible(False)
    colors = size_colors([c.size for p in panels for c in p.landscapes])
    limits = _loss_limits([c for p in panels for c in p.landscapes])
    for ax, panel in zip(axes, panels, strict=False):
        clean(ax)
        level = 0
        for curve in _few(panel.landscapes):
            _draw_curve(ax, curve, colors[curve.size], level)
            level += bool(curve.num_diverged.any())
        if panel.transferred is not None:
            place = float(panel.axes[0].forward(panel.transferred[0]))
            ax.axvline(place, color=GREY, linestyle="--", linewidth=1.1)
        points = np.concatenate([c.t[:, 0] for c in panel.landscapes])
        scale_axis(ax, panel.axes[0], points)
        room = 0.4 * grid_step(points)
        ax.set_xlim(points.min() - room, points.max() + room)
        ax.set_ylim(*limits)
        ax.set_xlabel(short(panel.axes[0].name))
        ax.set_title(_title(panel), fontsize=medium().title)
        # Every panel has stepsizes of its own; losses are shared.
        ax.tick_params(labelleft=ax in grid[:, 0])
    for ax in grid[:, 0]:
        ax.set_ylabel(short(panels[0].metric))
        turn(ax, panels[0])
    _legend(fig, panels, colors)
    caption(fig, foot(panels))
    return fig


def _few(curves: Sequence[Landscape]) -> list[Landscape]:
    """Curves by size; of very many the smallest, the largest, and some between."""
    ordered = sorted(curves, key=lambda c: c.size)
    if len(ordered) <= _SIZES_DRAWN:
        return ordered
    places = np.linspace(0, len(ordered) - 1, _SIZES_DRAWN).round().astype(int)
    return [ordered[i] for i in places]


def _draw_curve(ax: Axes, curve: Landscape, color: Color, level: int) -> None:
    t, at = curve.t[:, 0], curve.optimum.at[0]
    # Of thousands of points vectors are megabytes.
    pixels = len(t) > _MOST_VECTORS
    ax.fill_between(
        t, curve.low, curve.high, color=color, alpha=0.18, linewidth=0, rasterized=pixels
    )
    ax.plot(
        t, curve.mean, color=color, marker="o", markersize=3.5, linewidth=1.5, rasterized=pixels
    )
    gone = t[curve.num_diverged > 0]
    # Crosses of different sizes sit below each other, or the last would hide the others.
    ax.plot(
        gone,
        np.full(gone.size, 0.985 - 0.028 * level),
        transform=ax.get_xaxis_transform(),
        color=color,
        marker="x",
        markersize=5,
        linestyle="none",
    )
    if math.isnan(at):
        return
    if curve.censored:
        arrow = {"below": "<", "above": ">", "alone": "D"}[curve.censored[0]]
        ax.plot(at, curve.best_loss, marker=arrow, markersize=10, color=color,
                markeredgecolor="white", zorder=5)  # fmt: skip
        return
    ok = np.isfinite(curve.mean)
    height = float(np.interp(at, t[ok], curve.mean[ok]))
    ax.errorbar(at, height, xerr=bar(curve, 0), color=color, marker="D", markersize=6.5,
                markeredgecolor="white", capsize=2.5, linewidth=1.5, zorder=5)  # fmt: skip


def _loss_limits(curves: Sequence[Landscape]) -> tuple[float, float]:
    """From the best loss to somewhat above the basins; wild cells run out at the top."""
    alive = [c for c in curves if math.isfinite(c.best_loss)]
    if not alive:
        return 0.0, 1.0
    bests = [c.best_loss for c in alive]
    rise = []
    for c in alive:
        ok = c.mean[np.isfinite(c.mean)]
        at = int(np.argmin(ok))
        rise += (np.sort(ok[max(at - 2, 0) : at + 3])[1:] - c.best_loss).tolist()
    typical = float(np.quantile(rise, 0.6)) if rise else 0.0
    spread = max(max(bests) - min(bests), 1e-3 * abs(max(bests)), 1e-12)
    top = max(bests) + max(1.6 * typical, 0.5 * spread)
    return min(bests) - 0.06 * (top - min(bests)), top + 0.06 * (top - min(bests))


def _title(panel: Panel) -> str:
    status = f": {panel.verdict.status}" if panel.verdict else ""
    axis, drift, lines = (
        panel.axes[0],
        panel.drift(),
        [(short(panel.title) + status).removeprefix(": ")],
    )
    if drift is not None and medium().widths is None:
        write = _three if axis.linear else signed
        text = f"drift {write(drift.slope)}{'' if axis.linear else ' octaves'} per doubling"
        if drift.low is not None and drift.high is not None:
            text += f" [{write(drift.low)}, {write(drift.high)}]"
        lines.append(text)
    return "\n".join(lines)


def _three(value: float) -> str:
    """Three digits with a sign."""
    return f"{value + 0.0:+.3g}".replace("-", "\N{MINUS SIGN}")


def _legend(fig: Figure, panels: Sequence[Panel], colors: dict[float, Color]) -> None:
    size_name = panels[0].size_name
    named = [*colors]
    if len(named) > _SIZES_NAMED:
        named = [named[i] for i in np.linspace(0, len(named) - 1, _SIZES_NAMED).round().astype(int)]
    handles = [
        Line2D([], [], color=colors[s], marker="o", markersize=4, label=f"{size_name} {s:.12g}")
        for s in named
    ]
    curves = [c for p in panels for c in p.landscapes]
    grey: dict[str, Any] = {"color": GREY, "linestyle": "none"}
    handles.append(Line2D([], [], marker="D", label="optimum, 95 %", **grey))
    if any(c.censored for c in curves):
        handles.append(Line2D([], [], marker=">", label="on the grid's edge", **grey))
    if any(c.num_diverged.any() for c in curves):
        handles.append(Line2D([], [], marker="x", label="diverged", **grey))
    if any(p.transferred is not None for p in panels):
        handles.append(Line2D([], [], color=GREY, linestyle="--", label="transferred"))
    legend(fig, handles)
