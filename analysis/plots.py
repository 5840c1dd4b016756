"""Draw sweeps: loss against stepsize, and how losses and optima scale with size.

Draws what curves.py and claims.py return and computes nothing of its own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.curves import Curve, Drift, fit_drift
from analysis.result import Verdict
from analysis.style import (
    GREY,
    GROUP_COLORS,
    GROUP_MARKERS,
    Color,
    caption,
    clean,
    new_figure,
    power_of_two_axis,
    save,
    size_axis,
    size_colors,
)
from analysis.words import axes_text

__all__ = ["Panel", "plot_curves", "plot_scaling", "save"]


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """One group of a figure: its curves and, if it was judged, its verdict."""

    title: str
    curves: Sequence[Curve]
    verdict: Verdict | None = None

    @property
    def transferred(self) -> float | None:
        return self.verdict.transferred[self.verdict.hyperparameter] if self.verdict else None

    @property
    def drift(self) -> Drift | None:
        return self.verdict.drift if self.verdict else fit_drift(self.curves)

    @property
    def labels(self) -> tuple[str, str, str]:
        """Names of the hyperparameter, the metric and the size."""
        v = self.verdict
        names = (v.hyperparameter, v.metric, v.size_name) if v else ("stepsize", "loss", "size")
        return names[0], names[1].replace("_", " "), names[2]

    @property
    def negated(self) -> bool:
        """Whether the curves are of the negative metric, of which less is better."""
        return self.verdict is not None and self.verdict.maximise


_PANELS_A_ROW = 3
_SIZES_NAMED = 10
"""Curves in the legend; of more sizes it names so many, from the smallest to the largest."""


def plot_curves(panels: Sequence[Panel]) -> Figure:
    """Loss against the hyperparameter, one panel per group, one curve per size.

    Bands span the seeds; diamonds with bars mark the optima and their 95 %
    intervals, arrows those that may lie outside the grid; crosses at the top
    mark cells in which a run diverged; the dashed line is the transferred
    setting.
    """
    _need(panels)
    columns = min(len(panels), _PANELS_A_ROW)
    rows = -(-len(panels) // columns)
    fig = new_figure(columns, num_rows=rows)
    grid = fig.subplots(rows, columns, sharey=True, squeeze=False)
    axes = list(grid.flat)
    for spare in axes[len(panels) :]:
        spare.set_visible(False)
    colors = size_colors([c.size for p in panels for c in p.curves])
    limits = _loss_limits([c for p in panels for c in p.curves])
    for ax, panel in zip(axes, panels, strict=False):
        clean(ax)
        level = 0
        for curve in sorted(panel.curves, key=lambda c: c.size):
            _draw_curve(ax, curve, colors[curve.size], level)
            level += bool(curve.num_diverged.any())
        if panel.transferred is not None:
            ax.axvline(math.log2(panel.transferred), color=GREY, linestyle="--", linewidth=1.1)
        x_name, metric, size_name = panel.labels
        points = np.concatenate([np.log2(c.x) for c in panel.curves])
        power_of_two_axis(ax, points.tolist())
        ax.set_xlim(points.min() - 0.4, points.max() + 0.4)
        ax.set_ylim(*limits)
        ax.set_xlabel(x_name)
        ax.set_title(_title(panel), fontsize=10.5)
        # Every panel has stepsizes of its own; losses are shared.
        ax.tick_params(labelleft=ax in grid[:, 0])
    for ax in grid[:, 0]:
        ax.set_ylabel(panels[0].labels[1])
        _turn(ax, panels[0])
    _legend(fig, panels, colors)
    caption(fig, _foot(panels))
    return fig


def plot_scaling(panels: Sequence[Panel]) -> Figure:
    """Left: best loss and, dashed, loss at the transferred setting against size.

    Right: the optimum against size with 95 % intervals and the fitted drift;
    optima on the grid's edge are hollow arrows and not part of the fit.
    """
    _need(panels)
    fig = new_figure(2)
    left, right = fig.subplots(1, 2)
    x_name, metric, size_name = panels[0].labels
    sizes = [c.size for p in panels for c in p.curves]
    for i, panel in enumerate(panels):
        color = GROUP_COLORS[i % len(GROUP_COLORS)]
        marker = GROUP_MARKERS[i % len(GROUP_MARKERS)]
        _draw_losses(left, panel, color, marker)
        _draw_optima(right, panel, color, marker, shift=2 ** (0.06 * (i - (len(panels) - 1) / 2)))
    for ax in (left, right):
        clean(ax)
        size_axis(ax, sizes, size_name)
    left.set_ylim(*_scaling_limits(panels))
    left.set_ylabel(metric)
    _turn(left, panels[0])
    what = metric if panels[0].negated else "loss"
    left.set_title(f"best {what}; dashed: at the transferred setting", fontsize=10.5)
    right.set_title("optimum and its drift", fontsize=10.5)
    right.set_ylabel(f"best {x_name}")
    power_of_two_axis(right, right.get_ylim(), axis="y")
    handles, labels = left.get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside right center", frameon=False, fontsize=9)
    caption(fig, _foot(panels))
    return fig


def _turn(ax: Axes, panel: Panel) -> None:
    """Show a negated metric as it is, with more of it further up."""
    if panel.negated:
        ax.yaxis.set_major_formatter(lambda value, _: f"{-value:g}")
        ax.set_ylim(*sorted(ax.get_ylim(), reverse=True))


def _need(panels: Sequence[Panel]) -> None:
    if not panels or not all(p.curves for p in panels):
        raise ValueError("a figure needs at least one panel, and each panel at least one curve")


def _draw_curve(ax: Axes, curve: Curve, color: Color, level: int) -> None:
    t = np.log2(curve.x)
    ax.fill_between(t, curve.low, curve.high, color=color, alpha=0.18, linewidth=0)
    ax.plot(t, curve.mean, color=color, marker="o", markersize=3.5, linewidth=1.5)
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
    if math.isnan(curve.optimum_log2):
        return
    if curve.censored is not None:
        arrow = "<" if curve.censored == "below" else ">"
        ax.plot(curve.optimum_log2, curve.best_loss, marker=arrow, markersize=10, color=color,
                markeredgecolor="white", zorder=5)  # fmt: skip
        return
    ok = np.isfinite(curve.mean)
    height = float(np.interp(curve.optimum_log2, t[ok], curve.mean[ok]))
    sides = _bar(curve)
    ax.errorbar(curve.optimum_log2, height, xerr=sides, color=color, marker="D", markersize=6.5,
                markeredgecolor="white", capsize=2.5, linewidth=1.5, zorder=5)  # fmt: skip


def _bar(curve: Curve) -> list[list[float]]:
    """Lengths of an interval's two sides; an endless one goes an octave beyond the grid."""
    t, at = np.log2(curve.x), curve.optimum_log2
    low, high = max(curve.optimum_low, t[0] - 1), min(curve.optimum_high, t[-1] + 1)
    return [[float(at - low)], [float(high - at)]]


def _loss_limits(curves: Sequence[Curve]) -> tuple[float, float]:
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
    drift, lines = panel.drift, [(panel.title + status).removeprefix(": ")]
    if drift is not None:
        text = f"drift {signed(drift.slope)} log2 per doubling"
        if drift.low is not None and drift.high is not None:
            text += f" [{signed(drift.low)}, {signed(drift.high)}]"
        lines.append(text)
    return "\n".join(lines)


def signed(value: float) -> str:
    """Two digits with a true minus sign, and no negative zero."""
    return f"{round(value, 2) + 0.0:+.2f}".replace("-", "\N{MINUS SIGN}")


def _legend(fig: Figure, panels: Sequence[Panel], colors: dict[float, Color]) -> None:
    size_name = panels[0].labels[2]
    named = [*colors]
    if len(named) > _SIZES_NAMED:
        named = [named[i] for i in np.linspace(0, len(named) - 1, _SIZES_NAMED).round().astype(int)]
    handles = [
        Line2D([], [], color=colors[s], marker="o", markersize=4, label=f"{size_name} {s:.12g}")
        for s in named
    ]
    curves = [c for p in panels for c in p.curves]
    grey: dict[str, Any] = {"color": GREY, "linestyle": "none"}
    handles.append(Line2D([], [], marker="D", label="optimum, 95 %", **grey))
    if any(c.censored for c in curves):
        handles.append(Line2D([], [], marker=">", label="on the grid's edge", **grey))
    if any(c.num_diverged.any() for c in curves):
        handles.append(Line2D([], [], marker="x", label="diverged", **grey))
    if any(p.transferred is not None for p in panels):
        handles.append(Line2D([], [], color=GREY, linestyle="--", label="transferred"))
    fig.legend(handles=handles, loc="outside right center", frameon=False, fontsize=9)


def _foot(panels: Sequence[Panel]) -> str:
    """The fixed axes: what all panels share in one line, what is one panel's own after it."""
    fixed = {p.title: p.verdict.fixed for p in panels if p.verdict and p.verdict.fixed}
    if not fixed:
        return ""
    first = next(iter(fixed.values()))
    shared = {k: v for k, v in first.items() if all(f.get(k) == v for f in fixed.values())}
    lines = ["Fixed: " + axes_text(shared)] if shared else []
    for title, axes in fixed.items():
        own = {k: v for k, v in axes.items() if k not in shared}
        lines += [f"{title}: {axes_text(own)}"] if own else []
    return "\n".join(lines)


def _scaling_limits(panels: Sequence[Panel]) -> tuple[float, float]:
    """Span of the best losses and as much again above: wild losses leave at the top."""
    bests = [c.best_loss for p in panels for c in p.curves if math.isfinite(c.best_loss)]
    if not bests:
        return 0.0, 1.0
    low, high = min(bests), max(bests)
    spread = max(high - low, 1e-3 * abs(high), 1e-12)
    dashed = [c.loss_at(p.transferred) for p in panels for c in p.curves if p.transferred]
    top = max([high, *[v for v in dashed if v < high + spread]])
    return low - 0.08 * spread, top + 0.15 * spread


def _draw_losses(ax: Axes, panel: Panel, color: str, marker: str) -> None:
    curves = sorted(panel.curves, key=lambda c: c.size)
    sizes = [c.size for c in curves]
    ax.plot(sizes, [c.best_loss for c in curves], color=color, marker=marker, markersize=6,
            label=panel.title)  # fmt: skip
    if panel.transferred is not None:
        losses = [c.loss_at(panel.transferred) for c in curves]
        ax.plot(sizes, losses, color=color, marker=marker, markersize=6, linestyle="--",
                markerfacecolor="white", linewidth=1.2)  # fmt: skip


def _draw_optima(ax: Axes, panel: Panel, color: str, marker: str, shift: float) -> None:
    """`shift` moves groups apart sideways, so that their bars do not hide each other."""
    for c in panel.curves:
        if math.isnan(c.optimum_log2):
            continue
        if c.censored is not None:
            arrow = "v" if c.censored == "below" else "^"
            ax.plot(c.size * shift, c.optimum_log2, marker=arrow, markersize=9, color=color,
                    markerfacecolor="none", linestyle="none")  # fmt: skip
            continue
        sides = _bar(c)
        ax.errorbar(c.size * shift, c.optimum_log2, yerr=sides, color=color, marker=marker,
                    markersize=6, capsize=3, linestyle="none")  # fmt: skip
    if panel.drift is not None:
        ends = [min(c.size for c in panel.curves), max(c.size for c in panel.curves)]
        ax.plot(ends, [panel.drift.log2_at(s) for s in ends], color=color, linewidth=1.2,
                alpha=0.7)  # fmt: skip
