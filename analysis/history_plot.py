"""Draw what happened in time: losses over training, and the trials of the tuning."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.axes import Array
from analysis.medium import medium
from analysis.scaling_plot import Look
from analysis.style import GREY, Color, clean, legend, new_figure, short, size_colors

_PANELS_A_ROW = 3
_WINDOWS = 40
"""A curve is averaged over a part of so many of its steps."""


def plot_training(
    curves: Mapping[str, Mapping[float, Sequence[Array]]], size_name: str = "width"
) -> Figure:
    """Training loss against the step, one panel for each group, one curve for each size.

    Args:
        curves: For every group and size the losses of each seed, one number a step; a run that
            diverged is shorter and ends with a cross at the top. Lines are means over the seeds
            still alive and over a fortieth of the steps, bands span the seeds.
        size_name: What the sizes are.

    Raises:
        ValueError: there is no curve.
    """
    shown = {name: {s: c for s, c in by.items() if c} for name, by in curves.items()}
    shown = {name: by for name, by in shown.items() if by}
    if not shown:
        raise ValueError("a figure of training needs a curve, got none")
    columns = min(len(shown), _PANELS_A_ROW)
    rows = -(-len(shown) // columns)
    fig = new_figure(columns, num_rows=rows)
    grid = fig.subplots(rows, columns, sharey=True, squeeze=False)
    colors = size_colors([size for by in shown.values() for size in by])
    for ax, (name, by) in zip(grid.flat, shown.items(), strict=False):
        clean(ax)
        for size in sorted(by):
            _draw_runs(ax, by[size], colors[size])
        ax.set_title(short(name), fontsize=medium().title)
        ax.set_xlabel("step")
        ax.tick_params(labelleft=ax in grid[:, 0])
    for spare in list(grid.flat)[len(shown) :]:
        spare.set_visible(False)
    for ax in grid[:, 0]:
        ax.set_ylabel("training loss")
    low, high = _limits(shown)
    grid[0, 0].set_ylim(low, high)
    handles = [
        Line2D([], [], color=color, label=f"{size_name} {size:.12g}")
        for size, color in colors.items()
    ]
    legend(fig, handles)
    return fig


def _draw_runs(ax: Axes, runs: Sequence[Array], color: Color) -> None:
    """Draw the mean over the runs that are still alive; a run that ends early ends with a cross."""
    window = _window(runs)
    smooth = np.full((len(runs), max(map(len, runs)) // window), np.nan)
    for i, run in enumerate(runs):
        means = _averaged(run, window)
        smooth[i, : len(means)] = means
    smooth = smooth[:, np.isfinite(smooth).any(axis=0)]
    steps = np.arange(smooth.shape[1]) * window + (window + 1) / 2
    low, high = np.nanmin(smooth, axis=0), np.nanmax(smooth, axis=0)
    ax.fill_between(steps, low, high, color=color, alpha=0.18, linewidth=0)
    ax.plot(steps, np.nanmean(smooth, axis=0), color=color, linewidth=1.4)
    ends = [len(run) for run in runs if len(run) < max(map(len, runs))]
    ax.plot(ends, [0.97] * len(ends), transform=ax.get_xaxis_transform(), color=color, marker="x",
            linestyle="none")  # fmt: skip


def _window(runs: Sequence[Array]) -> int:
    return max(1, max(map(len, runs)) // _WINDOWS)


def _averaged(run: Array, window: int) -> Array:
    """Return the mean loss of every whole window."""
    whole = len(run) // window * window
    return np.asarray(run[:whole].reshape(-1, window).mean(axis=1))


def _limits(shown: Mapping[str, Mapping[float, Sequence[Array]]]) -> tuple[float, float]:
    """From the lowest loss to the highest beginning; what rises further leaves at the top."""
    every = [
        _averaged(run, _window(runs))
        for by in shown.values()
        for runs in by.values()
        for run in runs
    ]
    ends = [float(np.nanmin(s)) for s in every if np.isfinite(s).any()]
    begins = [float(s[0]) for s in every if len(s) and math.isfinite(s[0])]
    low, high = min(ends, default=0.0), max(begins, default=1.0)
    room = 0.04 * max(high - low, 1e-12)
    return low - room, high + room


def plot_tuning(trials: Mapping[str, Sequence[float]]) -> Figure:
    """Loss of every trial in the order in which they were asked for, and the best so far.

    Args:
        trials: Losses by group; NaN or inf for a trial that diverged, which is a cross at the top.

    Raises:
        ValueError: no trial has a finite loss.
    """
    finite = [v for values in trials.values() for v in values if math.isfinite(v)]
    if not finite:
        raise ValueError("a figure of the tuning needs a trial with a finite loss, got none")
    # Wild trials are triangles at the top: what matters is where the good ones are.
    low, high = min(finite), float(np.median(finite))
    room = max(high - low, 1e-3 * abs(high), 1e-12)
    top = high + 0.4 * room
    fig = new_figure(1)
    ax = fig.subplots()
    clean(ax)
    for i, (name, values) in enumerate(trials.items()):
        look, losses = Look.of(i, len(trials)), np.array(values, dtype=float)
        at, ok = np.arange(1, len(losses) + 1), np.isfinite(losses)
        ax.plot(at[ok], losses[ok], color=look.color, marker=look.marker, markersize=4,
                linestyle="none", alpha=0.75)  # fmt: skip
        ax.plot(at[~ok], np.full((~ok).sum(), 0.97), transform=ax.get_xaxis_transform(),
                color=look.color, marker="x", markersize=5, linestyle="none")  # fmt: skip
        above = ok & (losses > top)
        ax.plot(at[above], np.full(above.sum(), 0.97), transform=ax.get_xaxis_transform(),
                color=look.color, marker="^", markersize=5, linestyle="none")  # fmt: skip
        best = np.minimum.accumulate(np.where(ok, losses, math.inf))
        begun = np.isfinite(best)
        ax.step(at[begun], best[begun], where="post", color=look.color, linewidth=1.4, label=name)
    ax.set_ylim(low - 0.08 * room, top)
    ax.set_xlabel("trial")
    ax.set_ylabel("val loss")
    ax.set_title("tuning at the smallest size; lines: best so far", fontsize=medium().title)
    handles, labels = ax.get_legend_handles_labels()
    if any(top < v < math.inf for values in trials.values() for v in values):
        handles.append(Line2D([], [], color=GREY, marker="^", linestyle="none"))
        labels.append("above")
    if not all(map(math.isfinite, (v for values in trials.values() for v in values))):
        handles.append(Line2D([], [], color=GREY, marker="x", linestyle="none"))
        labels.append("diverged")
    legend(fig, handles, labels)
    return fig
