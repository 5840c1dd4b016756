"""Draw how losses and optima scale with size."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.medium import medium
from analysis.panels import Panel, bar, foot, need, turn
from analysis.style import (
    GROUP_COLORS,
    GROUP_MARKERS,
    caption,
    clean,
    legend,
    new_figure,
    scale_axis,
    short,
    size_axis,
)


def plot_scaling(panels: Sequence[Panel]) -> Figure:
    """Left: best loss and, dashed, loss at the transferred setting against size.

    Right: the optimum against size with 95 % intervals and the fitted drift;
    optima on the grid's edge are hollow arrows and not part of the fit.
    """
    need(panels)
    axes = panels[0].axes
    fig = new_figure(1 + len(axes))
    left, *others = fig.subplots(1, 1 + len(axes))
    sizes = [c.size for p in panels for c in p.landscapes]
    for i, panel in enumerate(panels):
        look = Look.of(i, len(panels))
        _draw_losses(left, panel, look)
        for k, ax in enumerate(others):
            _draw_optima(ax, panel, k, look)
    for ax in (left, *others):
        clean(ax)
        size_axis(ax, sizes, panels[0].size_name)
    left.set_ylim(*_scaling_limits(panels))
    left.set_ylabel(short(panels[0].metric))
    turn(left, panels[0])
    what = panels[0].metric if panels[0].negated else "loss"
    left.set_title(f"best {what}; dashed: at the transferred setting", fontsize=medium().title)
    for axis, ax in zip(axes, others, strict=True):
        ax.set_title("optimum and its drift", fontsize=medium().title)
        ax.set_ylabel(f"best {short(axis.name)}")
        if not axis.linear:
            _an_octave(ax)
        scale_axis(ax, axis, ax.get_ylim(), which="y")
    handles, labels = left.get_legend_handles_labels()
    if any(labels):
        legend(fig, handles, labels)
    caption(fig, foot(panels))
    return fig


def _an_octave(ax: Axes) -> None:
    """Show an octave at least: what lies closer together is the same for most purposes."""
    low, high = ax.get_ylim()
    more = max(0.0, 1.0 - (high - low)) / 2
    ax.set_ylim(low - more, high + more)


def _scaling_limits(panels: Sequence[Panel]) -> tuple[float, float]:
    """Span of the best losses and as much again above: wild losses leave at the top."""
    bests = [c.best_loss for p in panels for c in p.landscapes if math.isfinite(c.best_loss)]
    if not bests:
        return 0.0, 1.0
    low, high = min(bests), max(bests)
    spread = max(high - low, 1e-3 * abs(high), 1e-12)
    dashed = [c.loss_at(p.transferred) for p in panels for c in p.landscapes if p.transferred]
    top = max([high, *[v for v in dashed if v < high + spread]])
    return low - 0.08 * spread, top + 0.15 * spread


@dataclass(frozen=True, slots=True)
class Look:
    """How a group is told from others."""

    color: str
    marker: str
    shift: float
    """Moves groups apart sideways, so that their bars do not hide each other."""

    @classmethod
    def of(cls, index: int, among: int) -> "Look":
        color = GROUP_COLORS[index % len(GROUP_COLORS)]
        marker = GROUP_MARKERS[index % len(GROUP_MARKERS)]
        return cls(color, marker, 2 ** (0.06 * (index - (among - 1) / 2)))


def _draw_losses(ax: Axes, panel: Panel, look: Look) -> None:
    shown = sorted(panel.landscapes, key=lambda c: c.size)
    sizes = [c.size for c in shown]
    ax.plot(sizes, [c.best_loss for c in shown], color=look.color, marker=look.marker,
            markersize=6, label=panel.title)  # fmt: skip
    if panel.transferred is not None:
        losses = [c.loss_at(panel.transferred) for c in shown]
        ax.plot(sizes, losses, color=look.color, marker=look.marker, markersize=6, linestyle="--",
                markerfacecolor="white", linewidth=1.2)  # fmt: skip


def _draw_optima(ax: Axes, panel: Panel, k: int, look: Look) -> None:
    for c in panel.landscapes:
        at = c.optimum.at[k]
        if math.isnan(at):
            continue
        if k in c.censored:
            arrow = {"below": "v", "above": "^", "alone": "D"}[c.censored[k]]
            ax.plot(c.size * look.shift, at, marker=arrow, markersize=9, color=look.color,
                    markerfacecolor="none", linestyle="none")  # fmt: skip
            continue
        ax.errorbar(c.size * look.shift, at, yerr=bar(c, k), color=look.color,
                    marker=look.marker, markersize=6, capsize=3, linestyle="none")  # fmt: skip
    drift = panel.drift(k)
    if drift is not None:
        ends = [min(c.size for c in panel.landscapes), max(c.size for c in panel.landscapes)]
        ax.plot(ends, [drift.place_at(s) for s in ends], color=look.color, linewidth=1.2,
                alpha=0.7)  # fmt: skip
