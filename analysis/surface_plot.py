"""Draw two hyperparameters at once: a heat map of the loss for each size."""

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from analysis.axes import Array
from analysis.grids import find
from analysis.landscapes import Landscape
from analysis.medium import medium
from analysis.panels import Panel, foot, need
from analysis.style import (
    GREY,
    caption,
    clean,
    grid_step,
    heading,
    legend,
    new_figure,
    scale_axis,
    short,
)
from analysis.words import interaction

_PANELS_A_ROW = 3
_MOST_PANELS = 9
_TOP = 20.0
"""Epsilons above the size's best at which the colours end."""
_GONE = "0.8"
_SPARSE = 0.5
"""Share of the combinations of values below which cells are dots."""


def plot_surface(panel: Panel) -> Figure:
    """Loss above the size's best over two hyperparameters, one heat map for each size.

    Colours end at 20 epsilon, and more where little is that near. Framed cells are the
    near-optimal set, crossed ones diverged, blank ones were not run. The diamond is the optimum,
    the ellipse its 95 % region, an arrow an optimum that may lie outside the grid, the ring the
    transferred setting. Of more than nine sizes nine are drawn, from the smallest to the largest.
    """
    need([panel], num_axes=2)
    shown = sorted(panel.landscapes, key=lambda c: c.size)
    if len(shown) > _MOST_PANELS:
        places = np.linspace(0, len(shown) - 1, _MOST_PANELS).round().astype(int)
        shown = [shown[i] for i in places]
    columns = 2 if len(shown) == 4 else min(len(shown), _PANELS_A_ROW)
    rows = -(-len(shown) // columns)
    fig = new_figure(columns, num_rows=rows, column_width=3.6, height=3.9)
    grid = fig.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    norm = PowerNorm(0.5, 0.0, _top(panel, shown), clip=True)
    image: Any = None
    first, second = (np.concatenate([c.t[:, k] for c in shown]) for k in (0, 1))
    for i, (ax, one) in enumerate(zip(grid.flat, shown, strict=False)):
        image = _heat_map(ax, one, norm)
        _mark(ax, one, panel)
        ax.set_title(f"{panel.size_name} {one.size:.12g}", fontsize=medium().title)
        scale_axis(ax, panel.axes[0], first)
        scale_axis(ax, panel.axes[1], second, which="y")
        ax.set_xlim(_edges(np.unique(first))[[0, -1]])
        ax.set_ylim(_edges(np.unique(second))[[0, -1]])
        lowest = i + columns >= len(shown)
        ax.tick_params(labelbottom=lowest)
        ax.set_xlabel(short(panel.axes[0].name) if lowest else "", fontsize=medium().label)
    for spare in list(grid.flat)[len(shown) :]:
        spare.set_visible(False)
    for ax in grid[:, 0]:
        ax.set_ylabel(short(panel.axes[1].name), fontsize=medium().label)
    above = "below" if panel.negated else "above"
    bar = fig.colorbar(image, ax=grid, extend="max", aspect=35, pad=0.02)
    bar.set_label(f"{short(panel.metric)} {above} the size's best", fontsize=medium().label)
    bar.ax.tick_params(labelsize=medium().small)
    status = f": {panel.verdict.status}" if panel.verdict else ""
    heading(fig, (short(panel.title) + status).removeprefix(": "))
    _legend(fig, shown, panel)
    words = interaction(panel.verdict.rows, panel.axes, panel.size_name) if panel.verdict else ""
    caption(fig, "\n".join(t for t in (words, foot([panel])) if t))
    return fig


def _top(panel: Panel, shown: list[Landscape]) -> float:
    """Where the colours end: at 20 epsilon, or where half of the cells are."""
    rises = [c.mean[np.isfinite(c.mean)] - c.best_loss for c in shown if c.best]
    half = float(np.median(np.concatenate(rises))) if rises else 0.0
    epsilon = panel.verdict.epsilon if panel.verdict else 0.0
    return max(_TOP * epsilon, half, 1e-12)


def _heat_map(ax: Axes, c: Landscape, norm: PowerNorm) -> Any:
    """Colour the cells; each is as wide as half the way to its neighbours' values."""
    first, second = (np.unique(c.t[:, k]) for k in (0, 1))
    if len(c.t) < _SPARSE * first.size * second.size:
        return _dots(ax, c, norm)
    values = np.full((second.size, first.size), np.nan)
    at = np.searchsorted(second, c.t[:, 1]), np.searchsorted(first, c.t[:, 0])
    values[at] = c.mean - c.best_loss
    image = ax.pcolormesh(
        _edges(first), _edges(second), values, norm=norm, cmap="viridis_r", rasterized=True
    )
    near = np.zeros(len(c.mean), dtype=bool)
    for point in c.near_optimal:
        near |= find(c.points, point, c.axes)
    for place in c.t[near]:
        _frame(ax, place, first, second, edgecolor="white", linewidth=1.6, facecolor="none")
    for place in c.t[c.num_diverged > 0]:
        _frame(ax, place, first, second, edgecolor="none", facecolor=_GONE)
        ax.plot(*place, marker="x", color="0.3", markersize=5)
    clean(ax)
    ax.grid(False)
    return image


def _dots(ax: Axes, c: Landscape, norm: PowerNorm) -> Any:
    """Colour dots where cells would be slivers: of a star, or of settings drawn at random."""
    near = np.zeros(len(c.mean), dtype=bool)
    for point in c.near_optimal:
        near |= find(c.points, point, c.axes)
    gone = c.num_diverged > 0
    ax.plot(*c.t[gone].T, marker="x", color="0.3", markersize=5, linestyle="none")
    clean(ax)
    return ax.scatter(
        c.t[~gone, 0], c.t[~gone, 1], c=(c.mean - c.best_loss)[~gone], norm=norm,
        cmap="viridis_r", s=90,
        edgecolors=np.where(near[~gone], "black", "none").tolist(), linewidths=1.2,
    )  # fmt: skip


def _edges(levels: Array) -> Array:
    """Borders between grid values, and as much beyond the outer ones."""
    step = grid_step(levels)
    inner = (levels[1:] + levels[:-1]) / 2
    first = 2 * levels[0] - inner[0] if inner.size else levels[0] - step / 2
    last = 2 * levels[-1] - inner[-1] if inner.size else levels[-1] + step / 2
    return np.concatenate([[first], inner, [last]])


def _frame(ax: Axes, place: Array, first: Array, second: Array, **look: Any) -> None:
    (left, right), (low, high) = (
        _edges(levels)[[i := int(np.searchsorted(levels, v)), i + 1]]
        for levels, v in zip((first, second), place, strict=True)
    )
    inset = 0.04 * (right - left), 0.04 * (high - low)
    corner = (left + inset[0], low + inset[1])
    size = (right - left - 2 * inset[0], high - low - 2 * inset[1])
    ax.add_patch(Rectangle(corner, *size, **look))


def _mark(ax: Axes, c: Landscape, panel: Panel) -> None:
    if panel.transferred is not None:
        place = [float(a.forward(v)) for a, v in zip(c.axes, panel.transferred, strict=True)]
        ax.plot(*place, marker="o", markersize=12, markerfacecolor="none", color="#D55E00",
                markeredgewidth=2, linestyle="none")  # fmt: skip
    at = c.optimum.at
    if not any(map(math.isnan, at)):
        if c.optimum.region is not None:
            ax.plot(*c.optimum.region.outline().T, color="white", linewidth=2.6)
            ax.plot(*c.optimum.region.outline().T, color="black", linewidth=1.2)
        ax.plot(*at, marker=_marker(c), markersize=8, color="black", markeredgecolor="white",
                linestyle="none", zorder=5)  # fmt: skip


def _marker(c: Landscape) -> str:
    if not c.censored:
        return "D"
    k, side = next(iter(c.censored.items()))
    arrows = {(0, "below"): "<", (0, "above"): ">", (1, "below"): "v", (1, "above"): "^"}
    return arrows.get((k, side), "d")


def _legend(fig: Figure, shown: list[Landscape], panel: Panel) -> None:
    dot: dict[str, Any] = {"color": "black", "linestyle": "none"}
    handles: list[Any] = [Line2D([], [], marker="D", label="optimum", **dot)]
    if any(c.optimum.region for c in shown):
        handles.append(Line2D([], [], color="black", linewidth=1.2, label="its 95 % region"))
    if any(c.censored for c in shown):
        handles.append(Line2D([], [], marker=">", label="on the grid's edge", **dot))
    if panel.transferred is not None:
        handles.append(
            Line2D(
                [],
                [],
                marker="o",
                markersize=10,
                markerfacecolor="none",
                color="#D55E00",
                markeredgewidth=2,
                linestyle="none",
                label="transferred",
            )  # fmt: skip
        )
    handles.append(Patch(facecolor="0.6", edgecolor="white", linewidth=1.6, label="near-optimal"))
    if any(c.num_diverged.any() for c in shown):
        handles.append(Line2D([], [], marker="x", color=GREY, linestyle="none", label="diverged"))
    legend(fig, handles)
