"""Draw the star of radii: what other radii would change, at every size."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.result import Comparison, Verdict
from analysis.style import GREY, Color, caption, clean, heading, legend, new_figure, size_colors
from analysis.words import axes_text


def plot_radii(verdict: Verdict) -> Figure:
    """Loss with other radii minus loss with the transferred ones.

    One panel for each radius that varies, one column for each of its values,
    one colour per size. Filled: at the transferred stepsize, with the bounds
    at the verdict's level; small triangles: at smaller or larger stepsizes.
    Below the shaded band of +-epsilon another radius is better by more than
    matters. Crosses at the top: diverged.

    Raises:
        ValueError: the verdict compares no radii.
    """
    names = verdict.hyperparameter.split(", ")
    panels = {name: _points(verdict, name, names) for name in names}
    panels = {name: points for name, points in panels.items() if points}
    if not panels:
        raise ValueError(f"the verdict ({verdict.status}) compares no radii: nothing to draw")
    fig = new_figure(len(panels), column_width=4.2)
    axes = fig.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    colors = size_colors([row.size for row in verdict.rows])
    shown = [c for points in panels.values() for c in points]
    limits = _limits(shown, verdict.epsilon)
    stepsize = next(k for k in verdict.transferred if k not in names)
    for ax, (name, points) in zip(axes, panels.items(), strict=True):
        _draw_panel(ax, verdict, name, stepsize, points, colors, limits)
        ax.label_outer(remove_inner_ticks=False)
    metric = verdict.metric.replace("_", " ")
    axes[0].set_ylabel(f"{metric} − that at\nthe transferred setting")
    heading(fig, f"Radii: {verdict.status}")
    _legend(fig, verdict, stepsize, shown, colors)
    caption(fig, f"Fixed: {axes_text(verdict.fixed)}" if verdict.fixed else "")
    return fig


def _points(verdict: Verdict, name: str, names: Sequence[str]) -> list[Comparison]:
    """Comparisons in which this radius is the only one that differs."""
    home = verdict.transferred

    def moved(c: Comparison) -> list[str]:
        return [n for n in names if not math.isclose(c.comparator[n], home[n], rel_tol=1e-9)]

    return [c for c in verdict.comparisons if moved(c) == [name]]


def _limits(points: Sequence[Comparison], epsilon: float) -> tuple[float, float]:
    """Show every improvement; much worse settings may leave through the top."""
    values = [c.difference for c in points if c.difference is not None]
    lows = [c.low for c in points if c.low is not None]
    bottom = min([-2 * epsilon, *[max(v, -20 * epsilon) for v in lows]])
    top = max(4 * epsilon, min(float(np.quantile(values, 0.9)) * 1.2 if values else 0.0,
                               30 * epsilon))  # fmt: skip
    return bottom - 0.05 * (top - bottom), top + 0.08 * (top - bottom)


def _draw_panel(
    ax: Axes,
    verdict: Verdict,
    name: str,
    stepsize: str,
    points: Sequence[Comparison],
    colors: dict[float, Color],
    limits: tuple[float, float],
) -> None:
    clean(ax)
    ax.grid(False, axis="x")
    ax.axhspan(-verdict.epsilon, verdict.epsilon, color="0.9", linewidth=0, zorder=0)
    ax.axhline(0.0, color=GREY, linewidth=1.0, zorder=1)
    values = sorted({c.comparator[name] for c in points})
    home = verdict.transferred[name]
    sizes = list(colors)
    for c in points:
        place = (sizes.index(c.size) - (len(sizes) - 1) / 2) * 0.7 / max(len(sizes), 2)
        kind = _side(c.comparator[stepsize], verdict.transferred[stepsize])
        _draw_point(ax, c, values.index(c.comparator[name]) + place, kind, colors[c.size], limits)
    ax.set_xticks(
        range(len(values)),
        [f"{v:.3g}\n(\N{MULTIPLICATION SIGN}{v / home:.3g})" for v in values],
    )
    ax.set_xlim(-0.6, len(values) - 0.4)
    ax.set_ylim(*limits)
    ax.set_xlabel(f"{name.replace('_', ' ')} (transferred: {home:.3g})")


def _side(value: float, home: float) -> int:
    if math.isclose(value, home, rel_tol=1e-9):
        return 0
    return 1 if value > home else -1


def _draw_point(
    ax: Axes, c: Comparison, x: float, side: int, color: Color, limits: tuple[float, float]
) -> None:
    marker, size = {0: ("o", 6.0), 1: ("^", 4.0), -1: ("v", 4.0)}[side]
    x += 0.045 * side
    top = limits[1] - 0.03 * (limits[1] - limits[0])
    if c.difference is None:
        ax.plot(x, top, marker="x", markersize=5, color=color)
        return
    if c.difference > limits[1]:
        # Out of sight, but not lost: a hollow marker at the top edge.
        ax.plot(x, top, marker=marker, markersize=size, color=color, markerfacecolor="none")
        return
    if side == 0 and c.low is not None and c.high is not None:
        ax.plot([x, x], [c.low, c.high], color=color, linewidth=1.4)
    ax.plot(x, c.difference, marker=marker, markersize=size, color=color, zorder=3)


def _legend(
    fig: Figure,
    verdict: Verdict,
    stepsize: str,
    shown: Sequence[Comparison],
    colors: dict[float, Color],
) -> None:
    handles = [
        Line2D([], [], color=color, marker="o", label=f"{verdict.size_name} {size:.12g}")
        for size, color in colors.items()
    ]
    grey: dict[str, Any] = {"color": GREY, "linestyle": "none"}
    sides = {_side(c.comparator[stepsize], verdict.transferred[stepsize]) for c in shown}
    if 1 in sides:
        handles.append(Line2D([], [], marker="^", label=f"larger {stepsize}", **grey))
    if -1 in sides:
        handles.append(Line2D([], [], marker="v", label=f"smaller {stepsize}", **grey))
    if any(c.difference is None for c in shown):
        handles.append(Line2D([], [], marker="x", label="diverged", **grey))
    handles.append(Line2D([], [], color="0.88", linewidth=8,
                          label=f"\N{PLUS-MINUS SIGN}{verdict.epsilon:.3g}"))  # fmt: skip
    legend(fig, handles)
